"""Local blend: keep an edit where its words are, and the source everywhere else.

The cross-attention maps of chosen words are summed over steps at the sites of one resolution, pooled,
thresholded against their maximum and turned into a latent mask (Hertz et al. 2022, section 4, and the released
null-text notebook for the start step, the second threshold and the words to leave alone). The maps are the
*edited* ones, as in the released code, whose store aliases the maps that its edits overwrite.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from wordbrush.attention import Attend, Heads, Site, column_maps
from wordbrush.recording import Recording
from wordbrush.rows import Rows


@dataclass
class WordMaps:
    """An `Attend` that calls another one and sums the maps of words.

    columns: indicator columns, "pictures tokens k": k groups of tokens for the source (first) and each target.
    rows: the batch layout of a step; in the steps whose maps are summed it has the source's row, or `recording` has.
    positions: the cross sites of this many positions only.
    start, stop: the first step whose maps are summed, and the first whose are not any more.
    """

    attend: Attend
    columns: Float[Tensor, "pictures tokens k"]
    rows: Callable[[int], Rows]
    positions: int
    stop: int | float = math.inf
    recording: Recording | None = None
    start: int = 0
    _sum: Tensor | None = field(init=False, default=None)
    _count: int = field(init=False, default=0)

    def __call__(self, site: Site, step: int, heads: Heads) -> Float[Tensor, "rows heads positions d"]:
        """Attend, and at the sites of the maps attend once more to the words' indicators."""
        output = self.attend(site, step, heads)
        if site.is_cross and site.positions == self.positions and self.start <= step < self.stop:
            columns = torch.split(self.columns.to(heads.hidden), heads.channels, dim=-1)  # a call holds d
            maps = torch.cat([self._maps(site, step, heads, part) for part in columns], dim=1)
            self._sum = maps if self._sum is None else self._sum + maps
            self._count += 1
        return output

    def _maps(
        self, site: Site, step: int, heads: Heads, columns: Float[Tensor, "pictures tokens k"]
    ) -> Float[Tensor, "pictures k height width"]:
        rows, source = self.rows(step), columns[:0]
        if rows.recorded:
            source, columns = columns[:1], columns[1:]
        others = rows.count - len(columns)  # rows without words come first in the batch
        padded = F.pad(columns, (0, 0, 0, 0, others, 0))
        attended = self.attend(site, step, heads.with_values(padded))[others:]
        if rows.recorded:
            assert self.recording is not None, "the layout says recorded and there is no recording"
            values = heads.with_values(source).value()
            own = heads.attend(*self.recording.heads(site, step, values), values)
            attended = torch.cat([own, attended])
        return column_maps(attended, site, columns.shape[-1])

    @property
    def mean(self) -> Float[Tensor, "pictures k height width"]:
        """The maps averaged over all heads, sites and steps so far."""
        assert self._sum is not None, "no site of the recorded size has been attended yet"
        return self._sum / self._count


@dataclass(frozen=True, slots=True)
class LocalBlend:
    """When and how word maps become a mask.

    start_step: the first step after which the targets are blended (the maps are summed from step 0 on): outside
    of their masks, z_tgt ← z_src.
    threshold: a position belongs to the words where their pooled map exceeds this share of its maximum.
    spare_threshold: the same for the words to leave alone, whose map is not pooled.
    """

    start_step: int = 0
    threshold: float = 0.3
    spare_threshold: float = 0.3

    def masks(
        self,
        source: Float[Tensor, "targets 2 h w"],
        targets: Float[Tensor, "targets 2 h w"],
        latent_size: tuple[int, int],
    ) -> tuple[Bool[Tensor, "targets 1 height width"], Bool[Tensor, "targets 1 height width"]]:
        """Where the words to edit are and where the words to leave alone are, in a target's maps or in the source's;
        from the maps of these two groups."""
        edit, spare = torch.zeros((), dtype=torch.bool), torch.zeros((), dtype=torch.bool)
        for maps in (source, targets):
            pooled = F.max_pool2d(maps[:, :1], 3, stride=1, padding=1)
            edit = _above(pooled, self.threshold, latent_size) | edit.to(maps.device)
            spare = _above(maps[:, 1:], self.spare_threshold, latent_size) | spare.to(maps.device)
        return edit, spare

    def place(
        self,
        source: Float[Tensor, "targets 2 h w"],
        targets: Float[Tensor, "targets 2 h w"],
        free: Bool[Tensor, "targets 1 height width"],
    ) -> Bool[Tensor, "targets 1 height width"]:
        """The masks of things that are new: where the target's own words look among the free positions, at which the
        words to leave alone do not, and around there.

        A new word also looks at the things that are there already, often more than anywhere else, so its maximum is
        taken among the free positions.
        """
        spared = torch.maximum(source[:, 1:], targets[:, 1:])
        height, width = targets.shape[-2:]
        is_free = spared <= self.spare_threshold * spared.amax((2, 3), keepdim=True)
        is_free = is_free & (F.adaptive_max_pool2d(free.float(), (height, width)) > 0)
        place = _above(targets[:, :1] * is_free, self.threshold, (height, width))
        grown = F.max_pool2d(place.float(), 3, stride=1, padding=1)
        return F.interpolate(grown, size=free.shape[-2:], mode="nearest") > 0


def _above(
    maps: Float[Tensor, "pictures 1 h w"], threshold: float, size: tuple[int, int]
) -> Bool[Tensor, "pictures 1 height width"]:
    """Where a map exceeds its share of the maximum; an empty mask for a map of zeros (no words given)."""
    large = F.interpolate(maps, size=size, mode="nearest")
    return large > threshold * large.amax((2, 3), keepdim=True)
