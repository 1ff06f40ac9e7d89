"""The scores of an edited scene whose true answer is known."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool
from PIL import Image

from wordbrush.backbones import Clip
from wordbrush.evaluation.bench.cases import ADDED, UNCHANGED, Case
from wordbrush.evaluation.bench.success import Readings, succeeded
from wordbrush.evaluation.judges.judges import Judges
from wordbrush.evaluation.judges.reader import Reader
from wordbrush.evaluation.metrics import pixels
from wordbrush.evaluation.metrics.pixels import PSNR_LIMIT
from wordbrush.evaluation.metrics.similarity import directional_similarity
from wordbrush.evaluation.metrics.structure import structure_distances
from wordbrush.evaluation.results.tables import Column

_SMALLEST_CROP = 64  # pixels a side of the crop that CLIP sees of an edited region, in a picture of 128


def columns(distance: str) -> dict[str, Column]:
    """The scores' columns by key. distance: the name of the perceptual distance."""
    shown = [
        Column("success", "edit success, %", 0, 100.0, "high", "reader"),
        Column("truth_psnr", "PSNR to the truth, dB", 2, 1.0, "high"),
        Column("truth_ssim", "SSIM to the truth ×10²", 2, 100.0, "high"),
        Column("truth_distance", f"{distance} to the truth ×10³", 2, 1000.0, "low", "encoder"),
        Column("truth_mse", "MSE to the truth ×10⁴", 1, 1e4, "low"),
        Column("outside_psnr", "PSNR outside, dB", 2, 1.0, "high"),
        Column("outside_ssim", "SSIM outside ×10²", 2, 100.0, "high"),
        Column("outside_distance", f"{distance} outside ×10³", 2, 1000.0, "low", "encoder"),
        Column("outside_mse", "MSE outside ×10⁴", 1, 1e4, "low"),
        Column("inside_psnr", "PSNR inside to the truth, dB", 2, 1.0, "high"),
        Column("inside_ssim", "SSIM inside to the truth ×10²", 2, 100.0, "high"),
        Column("inside_distance", f"{distance} inside to the truth ×10³", 2, 1000.0, "low", "encoder"),
        Column("inside_mse", "MSE inside to the truth ×10⁴", 1, 1e4, "low"),
        Column("clip", "CLIP cosine ×10²", 2, 100.0, "high", "clip"),
        Column("clip_region", "CLIP cosine, edited region ×10²", 2, 100.0, "high", "clip"),
        Column("directional", "directional similarity ×10²", 2, 100.0, "high", "clip"),
        Column("structure", "structure distance ×10³", 2, 1000.0, "low", "encoder"),
        Column("kept_psnr", "added: PSNR of the things that were there, dB", 2, 1.0, "high"),
        Column("identity_psnr", "nothing changed: PSNR, dB", 2, 1.0, "high"),
        Column("identity_distance", f"nothing changed: {distance} ×10³", 2, 1000.0, "low", "encoder"),
    ]
    return {column.key: column for column in shown}


def scored(judges: Judges, cases: Sequence[Case], edited: Sequence[Image.Image]) -> list[dict[str, float]]:
    """The scores of each edit, by the keys of `columns`; not-a-number where one does not apply.

    truth_…: the whole picture, against the true answer. outside_…: outside of the true mask, against the picture that
    was edited. inside_…: inside of the true mask, against the true answer. On the other side of the mask's edge the
    edit gets the pixels of the picture it is compared with, so that windows and receptive fields that cross the edge
    see no difference there. PSNR is at most `PSNR_LIMIT`.

    clip, clip_region: cosine of the target's caption and the whole picture, or a crop around the edited region.
    directional: cosine between the change of the picture and the change of the caption, as CLIP embeds them.
    structure: the whole picture against the picture that was edited; a correct change of place or style changes it
    too, so compare with the truth's own row. success: 1 where the reader sees the change. identity_…: for "nothing
    changed" only, against the picture.

    judges: with their reader. edited: pictures of any size; they are compared at the world's size.
    """
    assert judges.reader is not None, "the bench needs the world reader"
    sources, truths = [case.picture for case in cases], [case.truth for case in cases]
    masks = [case.mask for case in cases]
    pictures = [
        picture if picture.size == true.size else picture.resize(true.size, Image.Resampling.LANCZOS)
        for picture, true in zip(edited, truths, strict=True)
    ]
    by_network = {
        **_distances(judges, pictures, sources, truths, masks),
        **_clip_scores(judges.clip, cases, pictures),
        "structure": structure_distances(judges.encoder, pictures, sources),
        "success": list(map(float, _successes(judges.reader, cases, pictures))),
    }
    rows: list[dict[str, float]] = []
    for i, case in enumerate(cases):
        row = {key: values[i] for key, values in by_network.items()}
        is_added, is_unchanged = case.kind == ADDED, case.kind == UNCHANGED
        for part, true, where in (
            ("truth", truths[i], None),
            ("outside", sources[i], ~masks[i]),
            ("inside", truths[i], masks[i]),
        ):
            compared = pictures[i] if where is None else _composite(where, pictures[i], true)
            row[f"{part}_psnr"] = min(pixels.psnr(compared, true, where), PSNR_LIMIT)
            row[f"{part}_ssim"] = pixels.ssim(compared, true, where)
            row[f"{part}_mse"] = pixels.mse(compared, true, where)
        row["kept_psnr"] = np.nan
        if is_added:
            row |= {key: np.nan for key in row if key.split("_")[0] in ("truth", "outside", "inside")}
            kept = _composite(case.things, pictures[i], sources[i])
            row["kept_psnr"] = min(pixels.psnr(kept, sources[i], case.things), PSNR_LIMIT)
        row["identity_psnr"] = row["truth_psnr"] if is_unchanged else np.nan
        row["identity_distance"] = row["truth_distance"] if is_unchanged else np.nan
        rows.append({key: row[key] for key in columns("")})
    return rows


def _distances(
    judges: Judges,
    pictures: Sequence[Image.Image],
    sources: Sequence[Image.Image],
    truths: Sequence[Image.Image],
    masks: Sequence[Bool[np.ndarray, "h w"]],
) -> dict[str, list[float]]:
    """The perceptual distances of the whole pictures, outside of their masks and inside."""
    outside = [~mask for mask in masks]
    kept = [_composite(*each) for each in zip(outside, pictures, sources, strict=True)]
    changed = [_composite(*each) for each in zip(masks, pictures, truths, strict=True)]
    return {
        "truth_distance": judges.distance.distances(pictures, truths),
        "outside_distance": judges.distance.distances(kept, sources, outside),
        "inside_distance": judges.distance.distances(changed, truths, masks),
    }


def _composite(where: Bool[np.ndarray, "h w"], picture: Image.Image, rest: Image.Image) -> Image.Image:
    """`picture` where the mask is True, `rest` elsewhere."""
    return Image.fromarray(np.where(where[:, :, None], np.asarray(picture), np.asarray(rest)))


def _clip_scores(
    clip: Clip, cases: Sequence[Case], pictures: Sequence[Image.Image]
) -> dict[str, list[float]]:
    """CLIP's scores of whole pictures, of their edited regions, and of the direction of the change."""
    before = clip.texts([case.source_prompt for case in cases])
    after = clip.texts([case.target_prompt for case in cases])
    edited, sources = clip.images(pictures), clip.images([case.picture for case in cases])
    crops = clip.images([crop(picture, case.mask) for picture, case in zip(pictures, cases, strict=True)])
    region = (crops * after).sum(-1)
    return {
        "clip": (edited * after).sum(-1).tolist(),
        "clip_region": [
            float(value) if case.mask.any() else np.nan for value, case in zip(region, cases, strict=True)
        ],
        "directional": directional_similarity(sources, edited, before, after).tolist(),
    }


def crop(picture: Image.Image, mask: Bool[np.ndarray, "h w"]) -> Image.Image:
    """The square around the mask, at least half as wide as the picture; the whole picture for an empty mask."""
    if not mask.any():
        return picture
    rows, columns = (np.flatnonzero(mask.any(axis)) for axis in (1, 0))
    height, width = mask.shape
    side = max(_SMALLEST_CROP * min(height, width) // 128, np.ptp(rows) + 1, np.ptp(columns) + 1)
    side = int(min(side, height, width))
    top = min(max(0, (rows[0] + rows[-1] + 1 - side) // 2), height - side)
    left = min(max(0, (columns[0] + columns[-1] + 1 - side) // 2), width - side)
    return picture.crop((int(left), int(top), int(left) + side, int(top) + side))


def _successes(reader: Reader, cases: Sequence[Case], pictures: Sequence[Image.Image]) -> list[bool]:
    # A change of nothing has no region; the whole picture is read in its place.
    regions = [case.mask if case.mask.any() else ~case.mask for case in cases]

    def read(shown: Sequence[Image.Image]) -> list[Readings]:
        pairs = zip(reader.read(shown), reader.read(shown, regions), strict=True)
        return [Readings(whole, region) for whole, region in pairs]

    sources, truths = read([case.picture for case in cases]), read([case.truth for case in cases])
    return [
        succeeded(case, *three) for case, *three in zip(cases, read(pictures), sources, truths, strict=True)
    ]
