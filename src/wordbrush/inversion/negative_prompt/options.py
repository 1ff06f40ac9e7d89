"""The options of negative-prompt inversion."""

from wordbrush.options import ProximalOptions, SolvedOptions


class Options(ProximalOptions, SolvedOptions):
    """What takes the steps, and how edits are kept near the source."""
