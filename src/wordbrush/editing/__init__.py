"""Editing methods: from a request to pictures. One file or folder a method, one line each in this table."""

from collections.abc import Generator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from wordbrush.errors import OptionsError
from wordbrush.methods import Method, find
from wordbrush.options import StrengthOptions, parse
from wordbrush.progress import Progress

if TYPE_CHECKING:
    from wordbrush.model import Model
    from wordbrush.request import EditRequest, Need
    from wordbrush.result import Result


@dataclass(frozen=True)
class Dial:
    """The option of a method that runs from the source to the whole edit, and its values at both ends.

    >>> from wordbrush.editing import Dial
    >>> Dial("start", source=1.0, full=0.0).at(0.25)
    {'start': 0.75}
    """

    option: str
    source: float
    full: float

    def at(self, strength: float) -> dict[str, float]:
        """The option for a strength from 0 to 1."""
        return {self.option: (1 - strength) * self.source + strength * self.full}


@runtime_checkable
class EditingMethod(Protocol):
    """What an editing method's module has."""

    NEEDS: "frozenset[Need]"
    """What of a request it reads besides the targets and the options."""

    STRENGTH: Dial
    """Which of its options makes the edit stronger, from the source itself to what it does by default."""

    def plan(self, model: "Model", request: "EditRequest") -> object:
        """Raise what is wrong with the request, before any work; the source may not be there yet, its prompt is."""
        ...

    def edit(self, model: "Model", request: "EditRequest") -> "Generator[Progress, None, list[Result]]":
        """Edit into each of the targets; one result per target, in order."""
        ...


UNCHANGED = "the picture is the source: an edit of strength 0 (start 1) changes nothing"
"""The notice of a method whose `start` leaves out all of the run."""

DEFAULT = "auto"

COMPARED = "prompt_to_prompt"
"""What evaluations measure where no method is named, after any inversion."""

METHODS: Mapping[str, Method[EditingMethod]] = {
    "auto": Method(
        "wordbrush.editing.auto.method",
        "prompt-to-prompt by what the words change; draws again what the model does not see in its edit",
        "wordbrush.editing.auto.options",
        after="straight",
    ),
    "prompt_to_prompt": Method(
        "wordbrush.editing.prompt_to_prompt.method",
        "cross-attention edits: swap, add or reweight words, keep the layout",
        "wordbrush.editing.prompt_to_prompt.options",
    ),
    "mask_based": Method(
        "wordbrush.editing.mask_based.method",
        "noise a picture and draw it again where the new words look; the rest is kept",
        "wordbrush.editing.mask_based.options",
        after="straight",
    ),
    "sdedit": Method(
        "wordbrush.editing.sdedit.method",
        "noise a picture and draw it again with other words: the baseline",
        "wordbrush.editing.sdedit.options",
        after="straight",
    ),
    "infedit": Method(
        "wordbrush.editing.infedit.method",
        "no inversion: fresh noise in every step, and a layout between source and target",
        "wordbrush.editing.infedit.options",
        after="straight",
    ),
    "turbo_edit": Method(
        "wordbrush.editing.turbo_edit.method",
        "a picture's own noise in a few steps, and the difference of two prompts as guidance",
        "wordbrush.editing.turbo_edit.options",
        after="straight",
    ),
    "diffedit": Method(
        "wordbrush.editing.diffedit.method",
        "a mask from where the two captions disagree, drawn again inside of it",
        "wordbrush.editing.diffedit.options",
        after="straight",
    ),
    "pix2pix_zero": Method(
        "wordbrush.editing.pix2pix_zero.method",
        "lead the text along a direction, and draw the latents to the source's attention maps",
        "wordbrush.editing.pix2pix_zero.options",
        after="straight",
    ),
    "ledits_pp": Method(
        "wordbrush.editing.ledits_pp.method",
        "several concepts at once, added or removed, each with a guidance and a place of its own",
        "wordbrush.editing.ledits_pp.options",
        after="straight",
    ),
    "imagic": Method(
        "wordbrush.editing.imagic.method",
        "learns one picture and a text that stands for it, and goes from there towards the target's text",
        "wordbrush.editing.imagic.options",
        after="straight",
    ),
    "sine": Method(
        "wordbrush.editing.sine.method",
        "two models guide: one that knows the words, and a copy that has learned the picture",
        "wordbrush.editing.sine.options",
        after="straight",
    ),
    "unitune": Method(
        "wordbrush.editing.unitune.method",
        "learns one picture as rare words, and draws them with the target's under much guidance",
        "wordbrush.editing.unitune.options",
        after="straight",
    ),
    "masactrl": Method(
        "wordbrush.editing.masactrl.method",
        "draw the new words' picture, and take how things look from the source: poses, sizes, places",
        "wordbrush.editing.masactrl.options",
    ),
    "plug_and_play": Method(
        "wordbrush.editing.plug_and_play.method",
        "keep the layout of a picture, and let the new words choose colours and textures",
        "wordbrush.editing.plug_and_play.options",
    ),
    "fixed_seed": Method(
        "wordbrush.editing.fixed_seed.method",
        "the source's noise drawn with other words, and nothing else: the baseline of the papers' tables",
        "wordbrush.editing.fixed_seed.options",
        after="straight",
    ),
    "blended_latent": Method(
        "wordbrush.editing.blended_latent.method",
        "draws the inside of a mask, or of where the words are, and puts the picture back around it in every step",
        "wordbrush.editing.blended_latent.options",
        after="straight",
    ),
    "blended_diffusion": Method(
        "wordbrush.editing.blended_diffusion.method",
        "a CLIP draws the inside of a mask by its gradient, and the picture is put back around it in every step",
        "wordbrush.editing.blended_diffusion.options",
        after="straight",
        reads=frozenset({"clip"}),
    ),
    "vqgan_clip": Method(
        "wordbrush.editing.vqgan_clip.method",
        "draws a picture's latents to the words by CLIP's gradient, without any diffusion",
        "wordbrush.editing.vqgan_clip.options",
        after="straight",
        reads=frozenset({"clip"}),
    ),
    "text2live": Method(
        "wordbrush.editing.text2live.method",
        "a small network for one picture paints a layer over it, which CLIP finds the words in",
        "wordbrush.editing.text2live.options",
        after="straight",
        reads=frozenset({"clip"}),
    ),
    "inpainting": Method(
        "wordbrush.editing.inpainting.method",
        "draws the inside of a mask anew, from noise: by a network made for it, or by blending",
        "wordbrush.editing.inpainting.options",
        after="straight",
    ),
}


def suits(method: str, inversion: str) -> bool:
    """Whether a method is compared after an inversion where none is named. Both by their names in the tables."""
    return METHODS[method].after in ("", inversion)


def dialled(method: str, options: Mapping[str, Any], strength: float | None) -> Mapping[str, Any]:
    """The options of an editing method with this strength, said by the option of its dial.

    Raises `OptionsError` for a strength that is not from 0 to 1, and beside a value for that option.
    """
    far = parse(StrengthOptions, {"strength": strength}).strength
    if far is None:
        return options
    dial = find(METHODS, method, "editing").load().STRENGTH
    if dial.option in options:
        raise OptionsError(
            f"expected strength or {dial.option}, which says the same, got both: leave one of them out"
        )
    return {**options, **dial.at(far)}
