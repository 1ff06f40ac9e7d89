"""ELITE (Wei et al. 2023): one masked picture of a thing gives a learned word, without training for it.

    word = concept(model, "my-cat.png", "my-cat-mask.png", {"token": "<my-cat>"})
    word.save("my-cat.concept")

Two mapping networks were trained before, once for a model (`recipes/pocket/elite`). The global one makes words of what
a CLIP sees of the thing, w0 from its last layer and more from earlier ones, and the cross-attention has keys and values
of its own for them (eqs. 2 and 3). The local one makes keys and values of the thing's parts: a position of the picture
that attends to the word attends to the parts as well, λ · A / max A · softmax(QK_lᵀ)V_l (eq. 7).

What differs from the paper and its code:

- The changed keys and values act at the word's own tokens. There they replace all of the text's, so that every picture
  of such a model is another; here prompts without the word give the base's pictures, bit for bit.
- max A is over the positions of one head of one row. In the code it is over the whole batch, so that a picture depends
  on what is made beside it.
- The picture that the networks learn from and the one that the word is to draw are two pictures of the thing. So what
  else is in the first is not worth learning, and all words may be used. The paper drops w1 and later ones for that; so
  does the default here, as new sprites came out no nearer with them (docs/methods/elite.md).
- pocket's encoder is convolutional and has no CLS token: the spread of the thing's patches stands for it.
- A word of several tokens ends with w0, as a noun phrase ends with its noun.
- Words begin near the names of the things that the model knows (`recipes/pocket/elite/train.py`): pocket's mappers
  learn for minutes, the paper's for days.

The networks read a CLIP, so that CLIP is no judge of what they make (`training.READS`).
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from wordbrush.concept import Base, Concept, Placeholder, Portrait, TrainingPicture, exchange
from wordbrush.concept.portrait import halved
from wordbrush.errors import ImageError, ModelError, OptionsError
from wordbrush.images import Pixels
from wordbrush.masks import Mask
from wordbrush.model import POCKET, Model
from wordbrush.options import Options, parse
from wordbrush.picture import Picture
from wordbrush.training.elite.features import Eye
from wordbrush.training.elite.mappers import Mappers
from wordbrush.training.elite.options import EliteOptions

SMALL = 24
"""Pixels of the thing's longer side below which little of it can be seen."""


def concept(
    model: Model, picture: Pixels, mask: Pixels, options: Mapping[str, Any] | Options | None = None
) -> Concept:
    """The word for the thing in a picture.

    mask: 1 (white) is the thing; of the picture's size. options: `EliteOptions`. Equal arguments give equal concepts.
    Raises `ImageError` for a mask that does not fit the picture or shows nothing, `ModelError` for mappers of another
    model or none, `OptionsError`.
    """
    settings = settings_of(options)
    mappers = mappers_for(model, settings)
    eye = Eye.load(mappers.shape.encoder)
    seen, region = Picture.of(picture), _region(Picture.of(picture), Mask.of(mask))
    thing, shape = eye.framed(seen.image, region)
    features = eye.see([thing], [shape], mappers.shape.levels)
    if (words := settings.words) > len(mappers.words):
        raise OptionsError(
            f"option 'words': expected at most the {len(mappers.words)} that these mappers make, got {words}"
        )
    with torch.no_grad():
        vectors = mappers.vectors(features.levels, words)
        tensors = {
            name: {"key_change": own.key_change, "value_change": own.value_change}
            for name, own in mappers.likenesses(settings.token).items()
        }
        if settings.local and mappers.parts is not None:
            cells, shown = mappers.cells(features.maps, features.region)
            (parts,) = mappers.parts_of([settings.token], cells, shown, settings.local)
            for name, own in parts.items():
                tensors[name] |= {"keys": own.keys, "values": own.values}
    record = seen.record
    made = Concept(
        method="elite",
        prompt=f"a photo of {settings.token}",
        base=Base(name=model.base.name, hash=model.base_hash),
        placeholders={settings.token: Placeholder(tuple(each[0].clone() for each in vectors))},
        portraits={
            settings.token: Portrait(settings.local, {name: halved(own) for name, own in tensors.items()})
        },
        options=settings.model_dump(mode="json", exclude={"mappers"}),
        pictures=(TrainingPicture(name=Path(record.path or "a picture").name, sha256=record.sha256),),
    )
    made = exchange.renamed(made, settings.token)  # checks that it is one word
    return exchange.initialised(made, settings.init, model) if settings.init else made


def settings_of(options: Mapping[str, Any] | Options | None) -> EliteOptions:
    """The options, checked. Raises `OptionsError`."""
    given = options.model_dump(exclude_unset=True) if isinstance(options, Options) else dict(options or {})
    settings = parse(EliteOptions, given)
    if settings.token[0] + settings.token[-1] != "<>" or settings.token.split() != [settings.token]:
        raise OptionsError(
            f"option 'token': expected one word in angle brackets, such as '<my-cat>', got '{settings.token:.60}'"
        )
    return settings


def mappers_for(model: Model, options: EliteOptions) -> Mappers:
    """The mapping networks for a model: pocket's own, or those of the folder in the options. Raises `ModelError` where
    there are none, or for those of another model."""
    if options.mappers:
        found = Mappers.load(Path(options.mappers))
    else:
        found = Mappers.load(POCKET / "elite") if _is_pocket(model) else None
    if found is None:
        raise ModelError(
            f"expected mapping networks for {model.base.name}, and there are some for pocket alone: give a folder of "
            "its own (--mappers), trained as in recipes/pocket/elite/train.py (docs/methods/elite.md)"
        )
    if found.shape.base.hash != model.base_hash:
        raise ModelError(
            f"expected mapping networks for {model.base.name} (base {model.base_hash[:12]}…), got those for "
            f"{found.shape.base.name} (base {found.shape.base.hash[:12]}…): their words mean nothing to another model"
        )
    return found


def doubts(picture: Pixels, mask: Pixels) -> list[str]:
    """What may spoil the word. Raises `ImageError`."""
    region = _region(Picture.of(picture), Mask.of(mask))
    if region.all():
        return ["the mask covers the whole picture: all of it is taken for the thing, its background too"]
    rows, columns = np.flatnonzero(region.any(1)), np.flatnonzero(region.any(0))
    longer = max(rows[-1] - rows[0], columns[-1] - columns[0]) + 1
    if longer < SMALL:
        return [f"the thing is {longer} px long: little of it can be seen, take a picture of it from nearer"]
    return []


def framed(picture: Pixels, mask: Pixels, encoder: str = "pocket") -> Image.Image:
    """The thing as the networks see it. Raises `ImageError`."""
    seen = Picture.of(picture)
    return Eye.load(encoder).framed(seen.image, _region(seen, Mask.of(mask)))[0]


def _is_pocket(model: Model) -> bool:
    return model.base.name == "pocket"


def _region(picture: Picture, mask: Mask) -> np.ndarray:
    """Where the thing is, as the picture's pixels: bool. Raises `ImageError` for a mask of another size, or where no
    pixel is more thing than not."""
    height, width = mask.shares.shape
    if picture.image.size != (width, height):
        raise ImageError(
            f"expected a mask of the picture's size, {picture.image.width} × {picture.image.height}, got "
            f"{width} × {height}: make it from the picture"
        )
    if not (region := mask.shares > 127).any():
        raise ImageError(
            "expected a mask with white where the thing is, got one that is nowhere more than half white: paint the "
            "thing white"
        )
    return region
