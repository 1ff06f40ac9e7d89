"""Two things in one training picture, told apart by where their words look (SVDiff's Unmix, Han et al. 2023)."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from wordbrush.attention import Heads, Site, column_maps, plain
from wordbrush.model import Model

Sides = tuple[str, str, str]
"""What a row shows that shows two things: its prompt, and the words in it for the left half and for the right one."""


class Unmix:
    """An `Attend` that measures how much the words of each of two things look at the other one's half.

    It attends as ever. Where a row shows two things, M_left and M_right are the shares of each position's attention
    that go to the words of either, mean over heads; what is measured is, mean over the cross-attention layers,

        mean over the right half of M_left² + mean over the left half of M_right²

    Words that both things have belong to neither.
    """

    def __init__(self, model: Model, rows: Sequence[Sides | None]) -> None:
        """rows: of each row of the batch, None for one that shows one thing. Raises `PromptError` for words that are
        not in their prompt."""
        self.rows = [number for number, sides in enumerate(rows) if sides is not None]
        columns = [_columns(model, sides) for sides in rows if sides is not None]
        self._columns = torch.stack(columns) if columns else torch.zeros(0, 1, 2)
        self._sum: Tensor | None = None
        self._layers = 0

    def __call__(self, site: Site, step: int, heads: Heads) -> Float[Tensor, "rows heads positions d"]:
        """The layer's own attention."""
        if self.rows and site.is_cross and site.width > 1:
            found = self._looks(site, heads)
            self._sum = found if self._sum is None else self._sum + found
            self._layers += 1
        return plain(site, step, heads)

    @property
    def wrong(self) -> Float[Tensor, " mixed"]:
        """What was measured, of each row that shows two things."""
        assert self._sum is not None, "no layer has attended in this pass yet"
        return self._sum / self._layers

    def _looks(self, site: Site, heads: Heads) -> Float[Tensor, " mixed"]:
        query, key = heads.query()[self.rows], heads.key()[self.rows]
        columns = heads.padded(self._columns)
        attended = heads.attend(query, key.to(query), columns.to(query))
        left, right = column_maps(attended, site, 2).unbind(1)
        middles = (torch.arange(site.width, device=left.device) + 0.5) / site.width
        beside_left, beside_right = left[..., middles > 0.5], right[..., middles < 0.5]
        return beside_left.square().mean((1, 2)) + beside_right.square().mean((1, 2))


def _columns(model: Model, sides: Sides) -> Float[Tensor, "tokens 2"]:
    """1 at the words of the left thing, and at those of the right one."""
    prompt, *both = sides
    read = model.read(prompt)
    left, right = (read.column(read.find(words)) for words in both)
    shared = left * right
    return torch.stack([left - shared, right - shared], -1)
