"""PIE-Bench's results: the tables, with the published one beside them, and sheets of pictures."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from wordbrush import images, sheets
from wordbrush.evaluation.judges.judges import Judges
from wordbrush.evaluation.pie.format import TYPES, PieCase
from wordbrush.evaluation.pie.metrics import METRICS, bordered
from wordbrush.evaluation.pie.options import PRESETS, Options, Preset
from wordbrush.evaluation.pie.run import PieBench
from wordbrush.evaluation.results.statistics import interval
from wordbrush.evaluation.results.tables import (
    MARKED,
    Cell,
    Column,
    comma_separated,
    markdown,
    read_that_judge,
)
from wordbrush.files import all_or_none

CLIP, ENCODER, PERCEPTUAL = "openai/clip-vit-large-patch14", "facebook/dino-vitb8", "lpips-squeeze"
CASES, SIDE = 700, 512  # of the released data

_PUBLISHED = """
DDIM + P2P                69.43  17.87  208.80  219.88  71.14  25.01  22.44
Null-text + P2P †         13.44  27.03   60.67   35.86  84.11  24.75  21.86
Negative-prompt + P2P     16.17  26.21   69.01   39.73  83.40  24.61  21.87
StyleDiffusion + P2P      11.65  26.05   66.10   38.63  83.42  24.78  21.72
Direct Inversion + P2P    11.65  27.22   54.55   32.86  84.76  25.02  22.10
DDIM + MasaCtrl           28.38  22.17  106.62   86.97  79.67  23.96  21.16
Direct + MasaCtrl         24.70  22.64   87.94   81.09  81.33  24.38  21.35
DDIM + pix2pix-zero       61.68  20.44  172.22  144.12  74.67  22.80  20.54
Direct + pix2pix-zero     49.22  21.53  138.98  127.32  77.05  23.31  21.05
DDIM + PnP (SD 1.5)       28.22  22.28  113.46   83.64  79.05  25.41  22.55
Direct + PnP (SD 1.5)     24.29  22.46  106.06   80.45  79.68  25.41  22.62
"""
_SHOWN = 24  # cases on a sheet


def published() -> list[dict[str, str | float]]:
    """The table of Ju et al. 2024, in its own units."""
    rows: list[dict[str, str | float]] = []
    for line in _PUBLISHED.strip().splitlines():
        *name, structure, psnr, lpips, mse, ssim, whole, part = line.split()
        values = map(float, (structure, psnr, lpips, mse, ssim, whole, part))
        rows.append({"run": " ".join(name), **dict(zip(METRICS, values, strict=True))})
    return rows


def columns(judges: Judges) -> list[Column]:
    """The seven columns. One by another network than the published has that network's name in its title and key."""
    clip = _other(judges.clip.name, CLIP)
    structure = _other(judges.encoder.name, ENCODER)
    perceptual = "LPIPS (squeeze)" if judges.distance.name == PERCEPTUAL else _short(judges)
    return [
        Column(f"structure{_key(structure)}", f"structure{_title(structure)} ×10³", 2, 1e3, "low", "encoder"),
        Column("background_psnr", "background PSNR, dB", better="high"),
        Column(
            perceptual.replace(" ", "_").replace("(", "").replace(")", "").casefold(),
            f"background {perceptual} ×10³",
            2,
            1e3,
            "low",
            "encoder" if judges.distance.name != PERCEPTUAL else "",
        ),
        Column("background_mse", "background MSE ×10⁴", 2, 1e4, "low"),
        Column("background_ssim", "background SSIM ×10²", 2, 1e2, "high"),
        Column(f"clip_whole{_key(clip)}", f"CLIP whole{_title(clip)}", better="high", judge="clip"),
        Column(f"clip_edited{_key(clip)}", f"CLIP edited{_title(clip)}", better="high", judge="clip"),
    ]


def departures(options: Options, judges: Judges, cases: Sequence[PieCase]) -> list[str]:
    """Why these numbers cannot be compared with the published ones; empty if only model and protocol may differ."""
    released = Options(**PRESETS["released"])
    reasons = [
        f"`{name}` is {_shown(getattr(options, name))} and not {_shown(getattr(released, name))}"
        for name in PRESETS["released"]
        if name != "lpips_network" and getattr(options, name) != getattr(released, name)
    ]
    for role, name, wanted in (
        ("CLIP", judges.clip.name, CLIP),
        ("the structure distance's encoder", judges.encoder.name, ENCODER),
        ("the perceptual distance", judges.distance.name, PERCEPTUAL),
    ):
        if _other(name, wanted):
            reasons.append(f"{role} is {name} and not {wanted}")
    if len(cases) != CASES or any(case.mask.shape != (SIDE, SIDE) for case in cases):
        reasons.append(f"the cases are not the released {CASES} of {SIDE} × {SIDE}")
    return reasons


@dataclass(frozen=True, eq=False)
class Report:
    """The tables of the rows that `PieBench.rows` returns."""

    rows: Sequence[Mapping[str, Any]]
    cases: Sequence[PieCase]
    judges: Judges
    options: Options
    preset: Preset

    def summary(self) -> str:
        """How it was measured, every run's means over all kinds of edit, and remarks on them."""
        names = (
            f"CLIP: {self.judges.clip.name}, structure: {self.judges.encoder.name}, "
            f"perceptual: {self.judges.distance.name}"
        )
        changed = [
            f"`{name}` {_shown(value)}"
            for name, value in self.options
            if name in PRESETS["released"] and value != getattr(Options(**PRESETS[self.preset]), name)
        ]
        preset = self.preset + (f", but {', '.join(changed)}" if changed else "")
        shown = [Column("run", "run"), Column("cases", "cases", 0), *columns(self.judges)]
        return "\n".join(
            [
                f"Preset: {preset}. Networks: {names}. Mean ± half of the 95 % bootstrap interval over source "
                "pictures.\n",
                markdown(self._overall(), shown),
                "".join(f"- {remark}\n" for remark in self._remarks()),
            ]
        )

    def markdown(self) -> str:
        """The whole report: the summary, the means by kind of edit, and the published table."""
        reasons = departures(self.options, self.judges, self.cases)
        comparison = (
            f"The numbers above are not: {'; '.join(reasons)}."
            if reasons
            else "The numbers above have the same quirks, networks and data; the model (Stable Diffusion 1.4) and the "
            "protocol (released) have to be the same as well."
        )
        by_type = [Column("run", "run"), Column("type", "type"), Column("cases", "cases", 0)]
        return "\n".join(
            [
                "# PIE-Bench\n",
                self.summary(),
                "## By kind of edit\n",
                markdown(self._by_type(), [*by_type, *columns(self.judges)]),
                "## Published; comparable only with the same model, protocol, data, quirks and networks\n",
                comparison + "\n",
                markdown(published(), [by_type[0], *_published_columns()]),
                "† Mean of two runs on different accelerators, which differ. A rerun of the first line's exact recipe "
                "had PSNR 17.76 and CLIP 23.84 and 21.31: a point of CLIP proves nothing.\n",
            ]
        )

    def csv(self) -> str:
        """All runs, over all kinds of edit (`type` is "all") and by kind."""
        rows = [{**row, "type": "all"} for row in self._overall()] + self._by_type()
        leading = [Column("run", "run"), Column("type", "type"), Column("cases", "cases")]
        return comma_separated(rows, [*leading, *columns(self.judges)])

    def _runs(self) -> list[str]:
        return list(dict.fromkeys(row["run"] for row in self.rows))

    def _overall(self) -> list[dict[str, Cell]]:
        return [{"run": run, **self._means(lambda row, run=run: row["run"] == run)} for run in self._runs()]

    def _by_type(self) -> list[dict[str, Cell]]:
        types = {row["type"] for row in self.rows}
        return [
            {
                "run": run,
                "type": kind,
                **self._means(lambda row, run=run, kind=kind: (row["run"], row["type"]) == (run, kind)),
            }
            for run in self._runs()
            for kind in TYPES.values()
            if kind in types
        ]

    def _means(self, wanted: Callable[[Mapping[str, Any]], bool]) -> dict[str, Cell]:
        rows = [row for row in self.rows if wanted(row) and not row["error"]]
        means: dict[str, Cell] = {"cases": float(len(rows))}
        for column, metric in zip(columns(self.judges), METRICS, strict=True):
            if any(column.judge in row.get("reads", ()) for row in rows):
                means[column.key] = MARKED
                continue
            counted = [row for row in rows if row[metric] is not None]
            groups = [row["picture"] for row in counted]
            means[column.key] = interval([row[metric] for row in counted], groups)
        return means

    def _remarks(self) -> list[str]:
        """Remarks on the first table."""
        remarks: list[str] = []
        for run in self._runs():
            own = [row for row in self.rows if row["run"] == run]
            errors = [row for row in own if row["error"]]
            no_background = sum(row["psnr"] is None for row in own if not row["error"])
            if len(own) < len(self.cases):
                remarks.append(f"{run} was scored on {len(own)} of the {len(self.cases)} cases so far.")
            if errors:
                remarks.append(
                    f"{run}: {len(errors)} cases could not be edited and are in no mean; the first, "
                    f"{errors[0]['case']}: {errors[0]['error']}"
                )
            if no_background:
                means = "means of the background" if self.options.full_masks == "exclude" else "means"
                remarks.append(
                    f"{run}: {no_background} cases have no background and are in none of the {means}."
                )
        if marked := list(dict.fromkeys(row["run"] for row in self.rows if row.get("reads"))):
            remarks.append(read_that_judge(marked))
        scores = {row["case"]: row["clip_source"] for row in self.rows if not row["error"]}
        check = interval(list(scores.values()))
        remarks.append(
            "Self-check, the same for every run: CLIP of the source pictures with their own prompts is "
            f"{check.mean:.2f} (ViT-L/14 on the released data: 26.07, by one user's run)."
        )
        return remarks


def write(
    bench: PieBench,
    preset: Preset,
    rows: Mapping[str, Sequence[Mapping[str, Any]]],
    edited: Callable[[PieCase], Image.Image] | None = None,
) -> Report:
    """Write `table.md` and `table.csv` over all runs in the bench's folder, and a sheet of pictures for each run.

    rows: what `PieBench.run` or `score` returned, by run. edited: pictures from elsewhere, if those were scored.
    Raises `OutputError`.
    """
    report = Report(bench.rows(), bench.cases, bench.judges, bench.options, preset)
    with all_or_none() as opened:
        for name, text in (("table.md", report.markdown()), ("table.csv", report.csv())):
            with opened(bench.out / name) as file:
                file.write(text.encode())
        for run, scored in rows.items():
            cases = [case for case, row in zip(bench.cases, scored, strict=True) if not row["error"]]
            if cases:
                page = sheet(cases, edited or bench.edited(run), bench.options)
                images.save_png(page, bench.out / f"{run}.sheet.png", opened=opened)
    return report


def sheet(
    cases: Sequence[PieCase], edited: Callable[[PieCase], Image.Image], options: Options
) -> Image.Image:
    """Source, edit and mask of up to 24 cases, evenly spaced over the folder."""
    step = max(1, -(-len(cases) // _SHOWN))
    pictures: list[Image.Image] = []
    captions: list[str] = []
    for case in cases[::step]:
        mask = bordered(case.mask) if options.forced_border else case.mask
        for picture in (case.picture, edited(case), Image.fromarray(mask.astype(np.uint8) * 255)):
            pictures.append(
                images.fit(picture.convert("RGB"), 256, round(256 * picture.height / picture.width))
            )
        captions += [case.source_prompt, case.target_prompt, f"mask: {case.type}"]
    return sheets.sheet(pictures, captions, columns=6)


def _published_columns() -> list[Column]:
    return [
        Column("structure", "structure (DINO ViT-B/8) ×10³", better="low"),
        Column("psnr", "PSNR, dB", better="high"),
        Column("distance", "LPIPS (squeeze) ×10³", better="low"),
        Column("mse", "MSE ×10⁴", better="low"),
        Column("ssim", "SSIM ×10²", better="high"),
        Column("clip_whole", "CLIP whole (ViT-L/14)", better="high"),
        Column("clip_edited", "CLIP edited (ViT-L/14)", better="high"),
    ]


def _other(name: str, wanted: str) -> str:
    """The network's name if it is not the published one, which may be a folder of that name."""
    short = Path(name).name
    return "" if short == Path(wanted).name else short


def _short(judges: Judges) -> str:
    """The perceptual distance's name, without the path of its network's folder."""
    return judges.distance.name.replace(judges.encoder.name, Path(judges.encoder.name).name)


def _title(other: str) -> str:
    return f" by {other}" if other else ""


def _key(other: str) -> str:
    return f"_by_{other}" if other else ""


def _shown(value: object) -> str:
    return {True: "on", False: "off"}.get(value, str(value)) if isinstance(value, bool) else str(value)
