"""Signals as a terminal starts a command with them: none is ignored.

Whoever runs the tests in the background may ignore some, and a command that was stopped ignores all: so would whatever
the tests start.
"""

import signal


def heed_signals() -> None:
    """Handle each as Python does by default."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for each in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(each, signal.SIG_DFL)
