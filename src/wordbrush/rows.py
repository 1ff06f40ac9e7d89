"""Which rows one UNet call computes, and where each of them lies in the batch.

A step that edits a source into n targets needs at most

    [ targets without text (n) | source with its text (1) | targets with their text (n) ]

rows. The source's own unconditional row never appears: the source's trajectory is known, so its guided eps
is not needed. Once no edit reads the source any more, its conditional row goes too. At guidance scale 1 the
unconditional rows cancel out of the guided eps and are left out as well.
"""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Rows:
    """The layout of one batch: `targets` pictures, with or without guidance, with or without the source."""

    targets: int
    guided: bool = True
    source: bool = False

    @property
    def unconditional(self) -> slice:
        """The targets' rows that see the null text; empty without guidance."""
        return slice(0, self.targets if self.guided else 0)

    @property
    def source_row(self) -> slice:
        """The source's conditional row; empty when nothing reads the source."""
        start = self.unconditional.stop
        return slice(start, start + int(self.source))

    @property
    def conditional(self) -> slice:
        """The targets' rows that see their text."""
        start = self.source_row.stop
        return slice(start, start + self.targets)

    @property
    def untouched(self) -> slice:
        """Every row that no edit changes: the unconditional ones and the source's."""
        return slice(0, self.source_row.stop)

    @property
    def count(self) -> int:
        """How many rows the UNet computes."""
        return self.conditional.stop
