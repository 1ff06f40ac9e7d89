"""PIE-Bench's seven metrics of one edited picture.

Structure distance; PSNR, LPIPS, MSE and SSIM of the background; CLIP of the target prompt with the whole edited
picture, and with its edited part on black. PSNR is at most `pixels.PSNR_LIMIT` under both presets.
"""

import math

import numpy as np
from jaxtyping import Bool
from PIL import Image

from wordbrush.errors import ImageError
from wordbrush.evaluation.judges.judges import Judges
from wordbrush.evaluation.metrics import pixels
from wordbrush.evaluation.metrics.pixels import PSNR_LIMIT
from wordbrush.evaluation.metrics.similarity import clip_score_100
from wordbrush.evaluation.metrics.structure import structure_distances
from wordbrush.evaluation.pie.format import PieCase
from wordbrush.evaluation.pie.options import Options

METRICS = ("structure", "psnr", "distance", "mse", "ssim", "clip_whole", "clip_edited")

JUDGES = {"structure": "encoder", "clip_whole": "clip", "clip_edited": "clip"}
"""The networks that metrics are by, as `Method.reads` names them."""


def load_judges(options: Options, device: str | None = None) -> Judges:
    """The networks that the options name, by default on the accelerator if there is one. Raises `ModelError`."""
    lpips = None if options.lpips_weights is None else options.lpips_network
    return Judges.load(options.clip, options.encoder, lpips, options.lpips_weights, device=device)


def scored(judges: Judges, case: PieCase, edited: Image.Image, options: Options) -> dict[str, float]:
    """The seven metrics of one edited picture by the names in `METRICS`; nan where one does not apply.

    structure: no unit. psnr: dB, at most `PSNR_LIMIT`. distance: LPIPS, or the encoder's. mse: of values in [0, 1].
    clip_…: max(100·cos, 0). In addition `clip_source`, of the source's picture and prompt, which no method changes.
    A picture of the source's aspect ratio in another size is resampled to the source's size. Raises `ImageError` for
    another aspect ratio.
    """
    source = case.picture
    picture = _at_size(edited, source, options.rightmost_panel)
    mask = bordered(case.mask) if options.forced_border else case.mask
    if options.full_masks == "drop" and mask.all():
        return dict.fromkeys((*METRICS, "clip_source"), math.nan)
    looks = judges.clip.images([picture, _blackened(picture, mask), source])
    texts = judges.clip.texts([case.target_prompt, case.target_prompt, case.source_prompt], truncate=True)
    whole, part, before = map(float, clip_score_100(looks, texts))
    (structure,) = structure_distances(
        judges.encoder, [picture], [source], values_0_to_255=options.structure_0_to_255
    )
    return {
        "structure": structure,
        **_background(judges, picture, source, ~mask, options),
        "clip_whole": whole,
        "clip_edited": part if mask.any() else math.nan,
        "clip_source": before,
    }


def _background(
    judges: Judges,
    picture: Image.Image,
    source: Image.Image,
    background: Bool[np.ndarray, "h w"],
    options: Options,
) -> dict[str, float]:
    """The scores of the background: over its pixels only, or over the whole canvas with the edited part black."""
    if not background.any():
        return dict.fromkeys(("psnr", "distance", "mse", "ssim"), math.nan)
    one, other, where = picture, source, background
    if options.whole_canvas:
        one, other, where = _blackened(picture, background), _blackened(source, background), None
    (distance,) = judges.distance.distances([one], [other], [where])
    return {
        "psnr": min(pixels.psnr(one, other, where), PSNR_LIMIT),
        "distance": distance,
        "mse": pixels.mse(one, other, where),
        "ssim": pixels.ssim(one, other, where),
    }


def bordered(mask: Bool[np.ndarray, "h w"]) -> Bool[np.ndarray, "h w"]:
    """The mask with its outermost pixels counted as edited."""
    framed = np.ones_like(mask)
    framed[1:-1, 1:-1] = mask[1:-1, 1:-1]
    return framed


def _blackened(picture: Image.Image, keep: Bool[np.ndarray, "h w"]) -> Image.Image:
    return Image.fromarray(np.asarray(picture) * keep[..., None].astype(np.uint8))


def _at_size(edited: Image.Image, source: Image.Image, rightmost_panel: bool) -> Image.Image:
    (width, height), (w, h) = edited.size, source.size
    if rightmost_panel and (width, height) != (w, h) and width >= w and height >= h:
        return edited.crop((width - w, height - h, width, height))
    if width * h != height * w:
        raise ImageError(
            f"expected an edited picture of its source's aspect, {w} × {h}, got {width} × {height}; "
            "rightmost_panel takes the last panel of a strip"
        )
    return edited if (width, height) == (w, h) else edited.resize((w, h), Image.Resampling.LANCZOS)
