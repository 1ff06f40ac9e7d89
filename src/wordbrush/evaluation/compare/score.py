"""The scores of compared edits: against the source, the target's words and, where it is known, the true answer."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Bool
from PIL import Image
from torch import Tensor

from wordbrush import api, images
from wordbrush.backbones import Clip
from wordbrush.errors import ImageError
from wordbrush.evaluation.compare.request import Checked, Truth
from wordbrush.evaluation.compare.result import Reference
from wordbrush.evaluation.judges.judges import Judges
from wordbrush.evaluation.metrics.pixels import Picture, psnr, ssim
from wordbrush.model import Model


@runtime_checkable
class Distance(Protocol):
    """A distance between pictures by more than their pixels, such as `perceptual.PocketDistance`."""

    @property
    def name(self) -> str:
        """For the table: values of two distances cannot be compared."""
        ...

    def distances(self, made: Sequence[Picture], true: Sequence[Picture]) -> list[float]:
        """The distance of each pair of pictures; 0 where they are equal."""
        ...


def load_judges(
    clip: str | None, model: Model, device: str | None = None
) -> tuple[Clip | None, Distance | None, list[str]]:
    """A CLIP, a distance and notices. clip: its name, by default pocket's for the model pocket and none for others.

    The shipped judges know the built-in world only, and score another model's pictures only if they are asked for.
    Raises `ModelError`.
    """
    if clip is None and model.name == "pocket":
        clip = "pocket"
    if clip is None:
        notice = "no CLIP judges this model's pictures: name one with --clip openai/clip-vit-base-patch32"
        return None, None, [notice]
    judges = Judges.load(clip, device=device)
    return judges.clip, judges.distance if clip == "pocket" else None, []


@dataclass(frozen=True, eq=False)
class Known:
    """A target's true answer at the model's size, and where the source should stay."""

    image: Image.Image | None
    outside: Bool[np.ndarray, "h w"] | None


def known(model: Model, request: Checked) -> dict[str, Known]:
    """What is known of each target's true answer. Raises `ImageError` for a mask that is all white or all black."""
    return {
        target: _known(model, truth) for target, truth in zip(request.targets, request.truths, strict=True)
    }


def _known(model: Model, truth: Truth) -> Known:
    image = None if truth.image is None else images.to_image(api.fitted(model, truth.image)[0])
    if truth.mask is None:
        return Known(image, None)
    grey = np.asarray(images.to_image(api.fitted(model, truth.mask)[0]).convert("L"))
    outside = grey < 128
    if not outside.any() or outside.all():
        raise ImageError(
            f"expected a mask of white, where the change belongs, and black, got one that is all "
            f"{'black' if outside.all() else 'white'}: draw it again, or leave it out"
        )
    return Known(image, outside)


@dataclass(frozen=True, eq=False)
class Scorer:
    """Scores edits of one source. known, texts: by target; texts: CLIP's unit vectors."""

    source: Image.Image
    known: Mapping[str, Known]
    clip: Clip | None = None
    distance: Distance | None = None
    texts: Mapping[str, Tensor] = field(default_factory=dict[str, Tensor])

    def scores(self, image: Image.Image, target: str, read: frozenset[str] = frozenset()) -> dict[str, float]:
        """The scores of an edit, as `result.Cell` lists them; none by the judges that its method has read."""
        scores = {"psnr": psnr(image, self.source), "ssim": ssim(image, self.source)}
        distance = None if "encoder" in read else self.distance
        if distance is not None:
            scores["distance"] = distance.distances([image], [self.source])[0]
        if self.clip is not None and "clip" not in read:
            scores["clip"] = float(self.clip.images([image])[0] @ self.texts[target])
        known = self.known[target]
        if known.image is not None:
            scores["truth_psnr"] = psnr(image, known.image)
            if distance is not None:
                scores["truth_distance"] = distance.distances([image], [known.image])[0]
        if known.outside is not None:
            scores["outside_psnr"] = psnr(image, self.source, known.outside)
        return scores

    def references(self) -> list[Reference]:
        """For each target the unedited source, and the truth where it is known: what to read the scores against."""
        references: list[Reference] = []
        for target, known in self.known.items():
            references.append(Reference(target, "source", self.source, self.scores(self.source, target)))
            if known.image is not None:
                references.append(Reference(target, "truth", known.image, self.scores(known.image, target)))
        return references
