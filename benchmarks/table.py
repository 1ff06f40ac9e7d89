"""Print the results of `p2p.py` as a Markdown table, with the last measurement of each row.

python benchmarks/table.py
"""

import json
from pathlib import Path

RESULTS = Path(__file__).parent / "results" / "p2p.jsonl"


def main() -> None:
    found = {}
    for line in RESULTS.read_text().splitlines():
        row = json.loads(line)
        found[row["model"], row["dtype"], row["targets"], row["what"]] = row
    kinds = list(dict.fromkeys(what for *_, what in found))
    print("| model, type, targets | " + " | ".join(kinds) + " |")
    print("|---" * (len(kinds) + 1) + "|")
    for model, dtype, targets in dict.fromkeys(key[:3] for key in found):
        cells = [_cell(found.get((model, dtype, targets, what))) for what in kinds]
        print(f"| {model}, {dtype}, {targets} | " + " | ".join(cells) + " |")


def _cell(row: dict[str, float | None] | None) -> str:
    """Time relative to plain, and relative memory where it was measured."""
    if row is None:
        return "–"
    memory = f" ({row['memory_ratio']:.2f})" if row.get("memory_ratio") is not None else ""
    return f"{row['ratio']:.2f}{memory}"


if __name__ == "__main__":
    main()
