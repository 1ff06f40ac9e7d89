"""What an edit gives back: the picture, a report of what was done, and word maps on request."""

import io
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float
from PIL import Image
from torch import Tensor

from wordbrush import formats, provenance, stamp
from wordbrush.files import Opened, atomic_write
from wordbrush.images import Recorded, save_png, to_image
from wordbrush.masks import Shares, Where, drawn, near, placed, shown
from wordbrush.methods import key
from wordbrush.model import Model
from wordbrush.pasting import Pasted, pasted
from wordbrush.picture import Picture
from wordbrush.sheets import overlay
from wordbrush.source import Source
from wordbrush.word_map import word_map


@dataclass(frozen=True, eq=False)
class Look:
    """Where words looked, all of them in one map, and how many things they name."""

    heat: Float[Tensor, "h w"]
    things: int


Looks = tuple[Look | None, Look | None]
"""Where the words of a change looked, in the source and in the target; None where a prompt has no such words."""


@dataclass(frozen=True)
class Report:
    """What an edit did.

    words: the target's words, with what became of the source's: `a [cat → dog] on a beach`.
    edited_share: the share of the picture that the edit was free to change.
    notices: what a user should know of an edit that did not fail and may still disappoint.
    guidance_scale: the text guidance used. unet_rows: rows that the UNet computed for all targets together.
    seconds: wall-clock time for all targets. details: the method's own entries; plain values.

    >>> model = Model.load("pocket")
    >>> report = edit(model, from_seed(model, "a cat on a beach", steps=2), "a red cat on a beach").report
    >>> report.words, report.details["change"]
    ('a [+ red] cat on a beach', 'recolour')
    """

    words: str
    edited_share: float
    guidance_scale: float
    unet_rows: int
    seconds: float
    notices: tuple[str, ...] = ()
    details: Mapping[str, Any] = field(default_factory=dict[str, Any])

    def as_json(self) -> dict[str, Any]:
        """All entries as one mapping of plain values, the method's own among them."""
        own = asdict(self)
        return {**own.pop("details"), **own, "notices": list(self.notices)}


@dataclass(frozen=True, eq=False, repr=False)
class Result:
    """One edited picture.

    There are two of it. `image` is what the user gets: the picture that was edited, in its own size, with its own
    pixels wherever nothing changed. `rendering` is the model's: what it sees of the picture, at its size, through its
    autoencoder. A source that was generated has no other picture than its rendering.

    trajectory: the target's latents, z_T first. mask: where the edit was free to change the picture, at the size of the
    latents; None where a method has none. looks: where the words of the change looked, where a change is about things:
    the edit is brought back there and around it. maps: what a method found its mask by, each in [0, 1] at the size of
    the latents, by a name to show it under. decoded: the rendering in [−1, 1] of a method that has a decoder of its
    own; None for the model's. method, options: the edit's, as given. targets: all prompts that were edited together;
    index: this one's place among them. where: the user's masks and words; shares: how much of each of
    the picture's pixels they let change. The verbs fill these six in.

    >>> model = Model.load("pocket")
    >>> result = edit(model, from_seed(model, "a cat on a beach", steps=2), "a dog on a beach")
    >>> result.image.size, result.heatmap("dog").size, result.report.words
    ((128, 128), (128, 128), 'a [cat → dog] on a beach')
    >>> result.save("dog.png")
    []
    >>> replay("dog.png").differences
    ()
    """

    prompt: str
    report: Report
    source: Source
    trajectory: Float[Tensor, "steps_plus_1 c h w"]
    model: Model
    mask: Bool[Tensor, "height width"] | None = None
    looks: Looks = (None, None)
    decoded: Float[Tensor, "3 high wide"] | None = None
    method: str = ""
    options: Mapping[str, Any] = field(default_factory=dict[str, Any])
    targets: tuple[str, ...] = ()
    index: int = 0
    where: Where = field(default_factory=Where)
    shares: Shares | None = None
    maps: Mapping[str, Float[Tensor, "_h _w"]] = field(default_factory=dict[str, Tensor])

    def __repr__(self) -> str:
        share, seconds = self.report.edited_share, self.report.seconds
        return (
            f"<Result {self.prompt!r:.60} of {self.source.prompt!r:.60}, {share:.0%} edited, {seconds:.1f} s>"
        )

    def _repr_png_(self) -> bytes:
        """The picture, for notebooks."""
        file = io.BytesIO()
        self.image.save(file, "PNG")
        return file.getvalue()

    @cached_property
    def image(self) -> Image.Image:
        """The edited picture, 8-bit RGB and upright. Its `info["wordbrush"]` says how it was made; saved as PNG, it
        takes that along."""
        if not self.is_pasted:
            return self.rendering
        image = self.pasted.image
        return Recorded(image, self._record(image, is_pasted=True))

    @cached_property
    def rendering(self) -> Image.Image:
        """The model's rendering of the target; it has a record like `image`."""
        image = to_image(self._decoded)
        return Recorded(image, self._record(image, is_pasted=False))

    @property
    def is_pasted(self) -> bool:
        """Whether `image` is another picture than `rendering`."""
        return self.source.picture is not None or self.shares is not None

    @cached_property
    def pasted(self) -> Pasted:
        """The edit brought back into its picture, and where it is (`wordbrush.pasting`)."""
        picture = self.source.picture
        before = self.source.decoded(self.model)
        own = to_image(before) if picture is None else picture.image
        box = (0, 0, *own.size) if picture is None else picture.box
        return pasted(own, box, before, self._decoded, self.mask, self._named, self.shares)

    @property
    def _named(self) -> Float[np.ndarray, "height width"] | None:
        """How near each pixel of the rendering is to what the change is about; None for a change of everything."""
        pictures = self.source.decoded(self.model), self._decoded
        found = [
            near(look.heat.cpu(), look.things, picture, self.model.downscale)
            for look, picture in zip(self.looks, pictures, strict=True)
            if look is not None
        ]
        return np.maximum.reduce(found) if found else None

    @cached_property
    def _decoded(self) -> Float[Tensor, "3 height width"]:
        return self.model.decode(self.trajectory[-1:])[0].cpu() if self.decoded is None else self.decoded

    @cached_property
    def source_image(self) -> Image.Image:
        """The picture that was edited: the file's, or the model's rendering of a source that was generated."""
        picture = self.source.picture
        return self.source.image(self.model) if picture is None else picture.image

    def _record(self, image: Image.Image, *, is_pasted: bool) -> dict[str, Any]:
        return provenance.record(
            "edit",
            self.model,
            provenance.source_record(self.model, self.source),
            image,
            method=key(self.method),
            targets=self.targets or [self.prompt],
            index=self.index,
            options=self.options,
            report=self.report.as_json(),
            is_pasted=is_pasted,
            mask=None if self.where.mask is None else self.where.mask.file,
            mask_words=self.where.words,
            keep_words=self.where.keep,
        )

    def noted(self, notices: Sequence[str]) -> "Result":
        """The same with more notices, before the edit's own; empty ones are none."""
        every = (*filter(None, notices), *self.report.notices)
        noted = replace(self, report=replace(self.report, notices=every))
        if "_decoded" in self.__dict__:  # no need to decode it again
            noted.__dict__["_decoded"] = self._decoded
        return noted

    def save(
        self, path: str | os.PathLike[str], opened: Opened = atomic_write, *, metadata: bool = True
    ) -> list[str]:
        """Write the edited picture, with the record of how it was made, in the format that the path's end names: .png,
        .jpg, .tif or .webp. Returns what to tell the user of the file, in sentences.

        In the format of the picture that was edited, it keeps that file's mode, colour profile, orientation and
        metadata; pixels that the edit left alone are the file's own, bit for bit unless the format loses some.
        metadata: whether to keep, for example, where a photograph was taken; colours and orientation stay anyway.
        opened: the function that an open `files.all_or_none` yields, to write the picture together with other files.
        Raises `OutputError`.
        """
        own = self.source.picture
        if own is None and Path(path).suffix.lower() == ".png":
            save_png(self.image, path, opened=opened)
            return []
        picture, share = (own, self.pasted.share) if own is not None else _of(self.image)
        record = self.image.info[stamp.KEY]
        return formats.write(picture, self.image, share, path, record, opened, metadata)

    @property
    def mask_image(self) -> Image.Image:
        """Where the edit was free to change the picture, white, at the picture's size: a mask to look at, to correct,
        and to edit with."""
        height, width = self.source.size(self.model)
        size = self.source.latent_size
        mask = torch.ones(size, dtype=torch.bool) if self.mask is None else self.mask.cpu()
        cells = Image.fromarray(mask.numpy()).resize((width, height), Image.Resampling.NEAREST)
        shares = placed(np.where(np.asarray(cells), np.uint8(255), np.uint8(0)), self.model, self.source)
        return drawn(shares if self.shares is None else np.minimum(shares, self.shares))

    def shown_maps(self) -> list[tuple[str, Image.Image]]:
        """What the method found its mask by and the mask, as captioned pictures; none for a method that finds none."""
        if not self.maps:
            return []
        seen = self.source.image(self.model)
        found = [(name, overlay(seen, heat)) for name, heat in self.maps.items()]
        if self.mask is not None and not bool(self.mask.all()):
            found.append(("what may change", shown(self.source_image, np.asarray(self.mask_image))))
        return found

    def heatmap(self, word: str) -> Image.Image:
        """Where `word` of the target's prompt looks in the edited picture, drawn over the model's rendering of it.

        Raises `PromptError` if the prompt has no such word.
        """
        return overlay(self.rendering, self.word_map(word))

    def word_map(self, word: str) -> Float[torch.Tensor, "height width"]:
        """The map behind `heatmap`, in [0, 1], at the size of the latents."""
        return word_map(self.model, self.prompt, word, self.trajectory, self.source.schedule)


def _of(image: Image.Image) -> tuple[Picture, Float[np.ndarray, "height width"]]:
    """A picture without a file, and that none of its pixels is to be changed."""
    return Picture.of(image), np.zeros((image.height, image.width), np.float32)
