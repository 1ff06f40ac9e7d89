"""Inversions: from a real picture to a `Source`. One file or folder a method; this table is all that knows their
names."""

from collections.abc import Generator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from wordbrush.methods import Method, seen
from wordbrush.progress import Progress

if TYPE_CHECKING:
    from torch import Tensor

    from wordbrush.model import Model
    from wordbrush.source import Source


@runtime_checkable
class Inversion(Protocol):
    """What an inversion's module has."""

    def invert(
        self, model: "Model", image: "Tensor", prompt: str, options: Any
    ) -> "Generator[Progress, None, Source]":
        """Invert a picture "1 3 height width" in [−1, 1], of the model's size, that `prompt` describes."""
        ...


DEFAULT = "direct"
MEASURED: Mapping[str, str] = {"pocket": "straight"}
"""The models for which another default was measured, and that default."""

_COMMON = "wordbrush.options:SolvedOptions"

METHODS: Mapping[str, Method[Inversion]] = {
    "straight": Method(
        "wordbrush.inversion.straight.method",
        "no inversion: one noise, two rows a step; equal captions lead back exactly",
        "wordbrush.inversion.straight.options",
    ),
    "direct": Method(
        "wordbrush.inversion.direct",
        "source pinned to the unguided DDIM path: exact, one row a step",
        _COMMON,
    ),
    "ddim": Method(
        "wordbrush.inversion.ddim", "the baseline: unguided up, guided down; drifts with guidance", _COMMON
    ),
    "fixed_point": Method(
        "wordbrush.inversion.implicit.fixed_point",
        "DDIM inversion whose steps are iterated until they can be undone: exact without guidance",
        "wordbrush.inversion.implicit.options:FixedPointOptions",
        seen=seen(pocket="run"),
    ),
    "renoise": Method(
        "wordbrush.inversion.implicit.renoise",
        "the same, along the mean of the noises that were found on the way",
        "wordbrush.inversion.implicit.options:ReNoiseOptions",
        seen=seen(pocket="run"),
    ),
    "regularised": Method(
        "wordbrush.inversion.regularised.method",
        "DDIM inversion with the noise of each step made whiter, as pix2pix-zero has it",
        "wordbrush.inversion.regularised.options",
        seen=seen(pocket="run"),
    ),
    "negative_prompt": Method(
        "wordbrush.inversion.negative_prompt.method",
        "the source's prompt stands for no text: as good as unguided DDIM",
        "wordbrush.inversion.negative_prompt.options",
    ),
    "null_text": Method(
        "wordbrush.inversion.null_text.method",
        "optimises a null embedding for each step: faithful under guidance",
        "wordbrush.inversion.null_text.options",
    ),
    "edict": Method(
        "wordbrush.inversion.edict.method",
        "two coupled latents: exact under guidance, four rows a step both ways",
        "wordbrush.inversion.edict.options",
        seen=seen(pocket="run"),
    ),
    "edit_friendly": Method(
        "wordbrush.inversion.edit_friendly.method",
        "keeps the noise of each DDPM step: exact, and edits that differ by seed",
        "wordbrush.inversion.edit_friendly.options",
    ),
}


def default(model: str | Path) -> str:
    """The inversion to use with a model of this name where the user names none."""
    return MEASURED.get(str(model), DEFAULT)
