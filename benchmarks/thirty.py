"""Two sheets of the first thirty scenes of a bench: every failure, and as many successes, in the order of the scenes.

    wordbrush evaluate bench --count 150 --seed 9101 --inversion straight --out thirty/
    python benchmarks/thirty.py thirty/

Writes `docs/benchmarks/thirty/failures.webp` and `successes.webp`. A success is shown for every kind of change in turn;
nothing is chosen by eye.
"""

import argparse
import json
from itertools import zip_longest
from pathlib import Path

from PIL import Image

from wordbrush.evaluation.bench.cases import UNCHANGED, Case, split
from wordbrush.evaluation.bench.sheets import Shown, contact_sheet
from wordbrush.images import load

DOCS = Path(__file__).parents[1] / "docs" / "benchmarks" / "thirty"
LABEL = "straight+prompt-to-prompt"
SCENES, SUCCESSES = 30, 24


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("bench", type=Path)
    parser.add_argument("--seed", type=int, default=9101)
    options = parser.parse_args()
    lines = [json.loads(line) for line in (options.bench / "results.jsonl").read_text().splitlines()]
    rows = {row["case"]: row for row in lines if row["method"] == LABEL}
    cases = [case for case in split(options.seed, 5 * SCENES) if case.kind != UNCHANGED]
    failed = [case for case in cases if not rows[case.name]["success"]]
    good = [case for case in cases if rows[case.name]["success"]]
    kinds = list(dict.fromkeys(case.kind for case in good))
    in_turn = zip_longest(*([case for case in good if case.kind == kind] for kind in kinds))
    chosen = [case for turn in in_turn for case in turn if case is not None][:SUCCESSES]
    DOCS.mkdir(parents=True, exist_ok=True)
    for name, shown, title in (
        ("failures", failed, f"All {len(failed)} failures of {len(cases)} changes"),
        ("successes", chosen, f"{len(chosen)} of {len(good)} successes, each kind in turn"),
    ):
        page = contact_sheet(
            title, [_shown(options.bench, case, rows[case.name]) for case in shown], across=3
        )
        page.resize((page.width * 4 // 5, page.height * 4 // 5), Image.Resampling.LANCZOS).save(
            DOCS / f"{name}.webp", quality=70, method=6
        )
        print(f"{DOCS / name}.webp  {len(shown)} cases")


def _shown(bench: Path, case: Case, row: dict[str, float]) -> Shown:
    near = row["truth_psnr"] if row["truth_psnr"] is not None else row["kept_psnr"]
    picture = load(bench / "edits" / LABEL / f"{case.name}.png")
    return Shown(case, picture, bool(row["success"]), f"{near:.1f} dB")


if __name__ == "__main__":
    main()
