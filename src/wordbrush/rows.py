"""Which rows one UNet call computes, and where each of them is in the batch.

A step that edits a source into n targets needs at most

    [ each branch of the guidance but the last (n rows each) | the source with its text (1) | the last branch (n) ]

rows; under text guidance that is [null (n) | source (1) | text (n)]. The source's own unconditional row never
appears: the source's trajectory is known, so its guided noise is not needed. Once no edit reads the source any more, or
where what it reads is recorded (`recording`), its conditional row is left out too.
"""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Rows:
    """The layout of one batch: `targets` pictures in each branch of the guidance, with or without the source.

    branches: names in the order of the batch; attention is edited in the last one. recorded: whether the step reads the
    source and finds all of it in a recording, without its row.
    """

    targets: int
    branches: tuple[str, ...] = ("null", "text")
    source: bool = False
    recorded: bool = False

    @property
    def source_row(self) -> slice:
        """The source's conditional row; empty when nothing reads the source."""
        start = self.targets * (len(self.branches) - 1)
        return slice(start, start + int(self.source))

    @property
    def edited(self) -> slice:
        """The rows of the last branch, in which the targets' attention is edited."""
        start = self.source_row.stop
        return slice(start, start + self.targets)

    @property
    def untouched(self) -> slice:
        """Every row that no edit changes: the other branches' and the source's."""
        return slice(0, self.source_row.stop)

    @property
    def count(self) -> int:
        """How many rows the UNet computes."""
        return self.edited.stop

    def branch(self, name: str) -> slice:
        """The rows of one branch."""
        index = self.branches.index(name)
        if index == len(self.branches) - 1:
            return self.edited
        return slice(index * self.targets, (index + 1) * self.targets)
