"""Everything that is measured of an edited scene whose true answer is known."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from jaxtyping import Bool
from PIL import Image

from wordbrush.evaluation.bench.cases import UNCHANGED, Case
from wordbrush.evaluation.bench.success import Looks, succeeded
from wordbrush.evaluation.judges.backbones import Clip, Encoder, load_clip, load_encoder
from wordbrush.evaluation.judges.reader import Reader
from wordbrush.evaluation.metrics import pixels
from wordbrush.evaluation.metrics.perceptual import Lpips, PocketDistance
from wordbrush.evaluation.metrics.pixels import PSNR_LIMIT
from wordbrush.evaluation.metrics.similarity import directional_similarity
from wordbrush.evaluation.metrics.structure import structure_distances
from wordbrush.evaluation.results.tables import Column
from wordbrush.model import POCKET
from wordbrush.provenance import sha256

EQUAL = (
    120.0  # dB, for a PSNR of equal pictures: infinity has no mean, and 8-bit pictures that differ reach 95
)
_SHIPPED = ("judge", "encoder", "reader")  # their folders among the built-in model's
_PROTOCOL = 1  # to be counted up when any score comes to mean something else
_SMALLEST_CROP = 64  # pixels a side of what CLIP sees of an edited region, of a picture of 128


@dataclass(frozen=True, eq=False)
class Judges:
    """The networks that score: a CLIP, an encoder in DINO's role, a perceptual distance and the world reader."""

    clip: Clip
    encoder: Encoder
    distance: PocketDistance | Lpips
    reader: Reader

    @staticmethod
    def load(clip: str = "pocket", encoder: str = "pocket", lpips: Lpips | None = None) -> "Judges":
        """The shipped judges, or checkpoints by name or folder. Raises `ModelError`."""
        eyes = load_encoder(encoder)
        return Judges(load_clip(clip), eyes, lpips or PocketDistance(eyes), Reader.load())

    @property
    def names(self) -> dict[str, str]:
        """What the scores were made with, for the foot of a table."""
        return {
            "CLIP": self.clip.name,
            "encoder": self.encoder.name,
            "distance": self.distance.name,
            "reader": self.reader.name,
        }

    @cached_property
    def hash(self) -> str:
        """Changes when any of the networks does: scores of other judges are no scores of these.

        The shipped ones and those in folders are known by their weights, those of the hub by their names.
        """
        shipped: dict[str, str] = json.loads((POCKET / "manifest.json").read_text())["files"]
        known = {path: told for path, told in shipped.items() if path.split("/")[0] in _SHIPPED}
        for folder in (Path(self.clip.name), Path(self.encoder.name)):
            known |= {str(path): sha256(path) for path in sorted(folder.glob("*.safetensors"))}
        return hashlib.sha256(
            json.dumps([_PROTOCOL, self.names, known], sort_keys=True).encode()
        ).hexdigest()[:16]


def columns(distance: str) -> dict[str, Column]:
    """The scores by key, as tables show them. `distance`: the name of the perceptual distance."""
    shown = [
        Column("success", "edit success, %", 0, 100.0, "high"),
        Column("truth_psnr", "PSNR to the truth, dB", 2, 1.0, "high"),
        Column("truth_ssim", "SSIM to the truth ×10²", 2, 100.0, "high"),
        Column("truth_distance", f"{distance} to the truth ×10³", 2, 1000.0, "low"),
        Column("truth_mse", "MSE to the truth ×10⁴", 1, 1e4, "low"),
        Column("outside_psnr", "PSNR outside, dB", 2, 1.0, "high"),
        Column("outside_ssim", "SSIM outside ×10²", 2, 100.0, "high"),
        Column("outside_distance", f"{distance} outside ×10³", 2, 1000.0, "low"),
        Column("outside_mse", "MSE outside ×10⁴", 1, 1e4, "low"),
        Column("inside_psnr", "PSNR inside to the truth, dB", 2, 1.0, "high"),
        Column("inside_ssim", "SSIM inside to the truth ×10²", 2, 100.0, "high"),
        Column("inside_distance", f"{distance} inside to the truth ×10³", 2, 1000.0, "low"),
        Column("inside_mse", "MSE inside to the truth ×10⁴", 1, 1e4, "low"),
        Column("clip", "CLIP cosine ×10²", 2, 100.0, "high"),
        Column("clip_region", "CLIP cosine, edited region ×10²", 2, 100.0, "high"),
        Column("directional", "directional similarity ×10²", 2, 100.0, "high"),
        Column("structure", "structure distance ×10³", 2, 1000.0, "low"),
        Column("identity_psnr", "nothing changed: PSNR, dB", 2, 1.0, "high"),
        Column("identity_distance", f"nothing changed: {distance} ×10³", 2, 1000.0, "low"),
    ]
    return {column.key: column for column in shown}


def scored(judges: Judges, cases: Sequence[Case], edited: Sequence[Image.Image]) -> list[dict[str, float]]:
    """The scores of each edit, by the keys of `columns`; not-a-number where one does not apply.

    truth_…: of the whole picture, against the true answer. outside_…: of what the change truly leaves alone, against
    the picture that was edited. inside_…: of what it truly changes, against the true answer. Beyond the mask's edge
    the edit is given the very pixels that it is compared with, so that no window and no receptive field that crosses
    the edge sees the other side. PSNR ends at `PSNR_LIMIT`.

    clip, clip_region: cosine of the target's caption and the whole picture, or a crop around the edited region.
    directional: cosine between what changed in CLIP's view of the picture and of the caption. structure: of the whole
    picture against the picture that was edited; a true change of place or style changes it too, so the truth's own row
    is the measure. success: 1 where the reader sees the change. identity_…: of "nothing changed" alone, against the
    picture.

    edited: at any size; they are compared at the world's.
    """
    sources, truths = [case.picture for case in cases], [case.truth for case in cases]
    made = [
        picture if picture.size == true.size else picture.resize(true.size, Image.Resampling.LANCZOS)
        for picture, true in zip(edited, truths, strict=True)
    ]
    masks = [case.mask for case in cases]
    outside = [~mask for mask in masks]
    kept = [_only(*each) for each in zip(outside, made, sources, strict=True)]
    changed = [_only(*each) for each in zip(masks, made, truths, strict=True)]
    distance = {
        "truth_distance": judges.distance.distances(made, truths),
        "outside_distance": judges.distance.distances(kept, sources, outside),
        "inside_distance": judges.distance.distances(changed, truths, masks),
    }
    distance["identity_distance"] = distance["truth_distance"]
    spoken = _spoken(judges.clip, cases, made)
    structures = structure_distances(judges.encoder, made, sources)
    successes = _successes(judges.reader, cases, made)
    rows: list[dict[str, float]] = []
    for i, case in enumerate(cases):
        row: dict[str, float] = {"success": float(successes[i])}
        for part, ours, true, where in (
            ("truth", made[i], truths[i], None),
            ("outside", kept[i], sources[i], outside[i]),
            ("inside", changed[i], truths[i], masks[i]),
        ):
            row[f"{part}_psnr"] = min(pixels.psnr(ours, true, where), PSNR_LIMIT)
            row[f"{part}_ssim"] = pixels.ssim(ours, true, where)
            row[f"{part}_mse"] = pixels.mse(ours, true, where)
        row |= {name: values[i] for name, values in distance.items()}
        row |= {name: values[i] for name, values in spoken.items()}
        row["structure"] = structures[i]
        row["identity_psnr"] = row["truth_psnr"]
        if case.kind != UNCHANGED:
            row["identity_psnr"] = row["identity_distance"] = np.nan
        rows.append({key: row[key] for key in columns("")})
    return rows


def _only(where: Bool[np.ndarray, "h w"], made: Image.Image, rest: Image.Image) -> Image.Image:
    """`made` where the mask is, the other picture elsewhere."""
    return Image.fromarray(np.where(where[:, :, None], np.asarray(made), np.asarray(rest)))


def _spoken(clip: Clip, cases: Sequence[Case], made: Sequence[Image.Image]) -> dict[str, list[float]]:
    """What CLIP says of whole pictures, of their edited regions, and of the way they went."""
    before, after = (
        clip.texts([getattr(case, f"{end}_prompt") for case in cases]) for end in ("source", "target")
    )
    looks, source_looks = clip.images(made), clip.images([case.picture for case in cases])
    regions = clip.images([crop(picture, case.mask) for picture, case in zip(made, cases, strict=True)])
    region = (regions * after).sum(-1)
    return {
        "clip": (looks * after).sum(-1).tolist(),
        "clip_region": [
            float(value) if case.mask.any() else np.nan for value, case in zip(region, cases, strict=True)
        ],
        "directional": directional_similarity(source_looks, looks, before, after).tolist(),
    }


def crop(picture: Image.Image, mask: Bool[np.ndarray, "h w"]) -> Image.Image:
    """The square around the mask's pixels, at least half as wide as the picture; all of it for an empty mask."""
    if not mask.any():
        return picture
    rows, columns = (np.flatnonzero(mask.any(axis)) for axis in (1, 0))
    height, width = mask.shape
    side = max(_SMALLEST_CROP * min(height, width) // 128, np.ptp(rows) + 1, np.ptp(columns) + 1)
    side = int(min(side, height, width))
    top = min(max(0, (rows[0] + rows[-1] + 1 - side) // 2), height - side)
    left = min(max(0, (columns[0] + columns[-1] + 1 - side) // 2), width - side)
    return picture.crop((int(left), int(top), int(left) + side, int(top) + side))


def _successes(reader: Reader, cases: Sequence[Case], made: Sequence[Image.Image]) -> list[bool]:
    # A change of nothing has no region; the whole picture stands for it.
    regions = [case.mask if case.mask.any() else ~case.mask for case in cases]

    def looks(pictures: Sequence[Image.Image]) -> list[Looks]:
        return [
            Looks(whole, region)
            for whole, region in zip(reader.read(pictures), reader.read(pictures, regions), strict=True)
        ]

    sources, truths = looks([case.picture for case in cases]), looks([case.truth for case in cases])
    return [succeeded(case, *three) for case, *three in zip(cases, looks(made), sources, truths, strict=True)]
