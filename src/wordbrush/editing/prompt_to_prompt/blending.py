"""Where the targets of one run may differ from their source, and what puts the source back elsewhere."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from wordbrush.attention_edit import EditedAttention
from wordbrush.changes import Change, things
from wordbrush.local_blend import LocalBlend, WordMaps
from wordbrush.model import Model
from wordbrush.result import Look, Looks
from wordbrush.source import Source
from wordbrush.words import Alignment, Word, Words

WordPair = tuple[tuple[Word, ...], tuple[Word, ...]]
"""Words of the source and of the target."""


@dataclass(frozen=True)
class BlendWords:
    """The words that say where one target may differ from its source.

    edited: outside of them the source is kept; without any, nowhere. spared: left alone. held: the things that stay,
    where an edit may be told to change less. is_new: whether the edited words name what is not there yet.
    things: how many things the edited words are about.
    """

    alignment: Alignment
    edited: WordPair = ((), ())
    spared: WordPair = ((), ())
    held: WordPair = ((), ())
    is_new: bool = False
    things: int = 1

    @property
    def texts(self) -> tuple[str, ...]:
        """The words to edit, each once."""
        return tuple(dict.fromkeys(word.text for side in self.edited for word in side))

    @property
    def is_read(self) -> bool:
        """Whether there are any words whose maps are needed."""
        return any(map(any, (self.edited, self.spared, self.held)))

    def columns(self, picture: int) -> Float[Tensor, "tokens 3"]:
        """The indicator columns of the words to edit, to leave alone and to hold; picture: 0 the source, 1 the
        target."""
        words = (self.alignment.source, self.alignment.target)[picture]
        return torch.stack(
            [words.column(group[picture]) for group in (self.edited, self.spared, self.held)], -1
        )


def found(words: Words, phrases: Sequence[str]) -> tuple[Word, ...]:
    """The words of those phrases that a prompt has."""
    return tuple(word for phrase in phrases if words.has(phrase) for word in words.find(phrase))


def kept_things(alignment: Alignment, change: Change) -> WordPair:
    """The things that both prompts name, and that no part of the change is about."""
    named = set(things(alignment.source)) - {word for part in change.parts for word in part.source}
    kept = [match for match in alignment.matches if match.kind == "same" and match.source[0] in named]
    return tuple(match.source[0] for match in kept), tuple(match.target[0] for match in kept)


class Blending:
    """Local blend during one run: `attend` sees the attention, `after_step` puts the source back outside of the masks.

    difference: what changed less than this share of the largest change so far is kept too.
    hold: how much less than elsewhere an edit does where the words to hold are.
    stop: the step from which the masks stay as they are.
    free: the latents that may change at all, from the first step on.
    """

    def __init__(
        self,
        model: Model,
        source: Source,
        words: Sequence[BlendWords],
        attention: EditedAttention,
        blend: LocalBlend,
        difference: float,
        hold: float,
        stop: int,
        free: Bool[Tensor, "1 1 h w"],
    ) -> None:
        height, width = source.z_T.shape[-2:]
        self._size, self._source, self._z_0 = (height, width), source, source.z_0.to(model.device)
        self._words, self._blend, self._stop = words, blend, stop
        self._difference, self._hold = difference, hold
        self._free = free.to(model.device).expand(len(words), -1, -1, -1)
        self._mask = self._free
        self._changed = torch.zeros(len(words), 1, *self._size, device=model.device)
        has_words = any(any(one.edited) or any(one.spared) for one in words)
        self._is_masking = difference > 0 or has_words or not bool(free.all())
        # Every target has its own columns, which the source's picture has for all of them.
        columns = torch.zeros(len(words) + 1, attention.edits[0].B.shape[-1], len(words), 3)
        for i, one in enumerate(words):
            columns[0, :, i], columns[i + 1, :, i] = one.columns(0), one.columns(1)
        positions = model.map_positions(self._size)
        self.maps = (
            WordMaps(
                attention,
                columns.flatten(2).to(model.device),
                attention.rows,
                positions,
                stop,
                attention.recording,
            )
            if any(one.is_read for one in words)
            else None
        )
        self._drawn: WordMaps | None = None  # what is drawn without the source looks as it does there
        if self.maps is not None and stop < source.steps:
            own = torch.stack([one.columns(1)[:, :1] for one in words]).to(model.device)
            self._drawn = WordMaps(self.maps, own, attention.rows, positions, start=stop)
        self.attend = self._drawn or self.maps or attention

    @property
    def looks(self) -> list[Looks]:
        """For each target, where the words to edit looked in the source and in the target; None without such words."""
        if self.maps is None:
            return [(None, None)] * len(self._words)
        sources, targets = self._pairs()
        drawn = targets if self._drawn is None else self._drawn.mean
        return [
            (
                Look(sources[i, 0], words.things) if words.edited[0] else None,
                Look(drawn[i, 0], words.things) if words.edited[1] else None,
            )
            for i, words in enumerate(self._words)
        ]

    @property
    def masks(self) -> Bool[Tensor, "targets height width"]:
        """Where each target was free to change in the end."""
        return self._mask[:, 0]

    def share(self) -> float | Float[Tensor, "targets 1 h w"]:
        """How much of the edit counts where: less at the words to hold, by the source's maps so far."""
        if self._hold == 0 or self.maps is None:
            return 1.0
        source, _ = self._pairs()
        held = F.interpolate(source[:, 2:], size=self._size, mode="bilinear")
        # At half of its largest value a map counts as the thing itself.
        return 1 - self._hold * (2 * held / held.amax((2, 3), keepdim=True).clamp(min=1e-12)).clamp(max=1)

    def after_step(
        self, step: int, z: Float[Tensor, "targets c h w"], clean: Float[Tensor, "targets c h w"]
    ) -> Float[Tensor, "targets c h w"]:
        """The latents that go on: the targets' inside their masks, the source's outside."""
        if not self._is_masking:
            return z
        if step < self._stop:
            self._changed += (clean - self._z_0).abs().sum(1, keepdim=True)
            if step >= self._blend.start_step:
                self._mask = self._now()
        return torch.where(self._mask, z, self._source.states.at(step + 1).to(z))

    def _now(self) -> Bool[Tensor, "targets 1 height width"]:
        """The masks by what was seen so far."""
        mask = self._free.clone()
        if self.maps is not None:
            source, targets = (maps[:, :2] for maps in self._pairs())
            edited, spared = self._blend.masks(source, targets, self._size)
            for i, words in enumerate(self._words):
                if words.is_new:
                    place = self._blend.place(source[i : i + 1], targets[i : i + 1], self._free[i : i + 1])
                    mask[i] &= place[0]
                else:
                    mask[i] &= (edited[i] | (not any(words.edited))) & ~spared[i]
        if self._difference > 0:
            changed = F.max_pool2d(self._changed, 3, stride=1, padding=1)
            mask = mask & (changed > self._difference * changed.amax((2, 3), keepdim=True))
        return mask

    def _pairs(self) -> tuple[Float[Tensor, "targets 3 h w"], Float[Tensor, "targets 3 h w"]]:
        """The maps so far: for each target the source's for its columns, and its own."""
        assert self.maps is not None, "no words are read"
        mean, count = self.maps.mean, len(self._words)
        mean = mean.reshape(count + 1, count, 3, *mean.shape[-2:])
        own = torch.arange(count)
        return mean[0], mean[own + 1, own]
