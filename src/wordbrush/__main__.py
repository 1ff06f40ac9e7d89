"""`python -m wordbrush`: the command line."""

import sys

from wordbrush.cli import main

sys.exit(main())
