"""What a comparison writes: the grid, the table, and every edit with a record of how it was made."""

import io
import textwrap
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

from wordbrush import api, images
from wordbrush.evaluation.compare.result import Comparison
from wordbrush.evaluation.results import tables
from wordbrush.files import all_or_none
from wordbrush.model import Model

FILES = ("grid.png", "table.md", "table.csv")
SOURCE = "source.png"


def write(
    comparison: Comparison, model: Model, folder: Path, paths: Mapping[tuple[str, str, str], Path]
) -> None:
    """Write the grid, the table and the edits, and `source.png` if the source was generated: all or none.

    paths: each edit's file, from `request.paths`. Raises `OutputError`.
    """
    generated = io.BytesIO()
    if comparison.generated is not None:
        source = api.generated_image(model, comparison.generated)
        images.save_png(source, SOURCE, opened=lambda _: nullcontext(generated))
    with all_or_none() as opened:
        if comparison.generated is not None:
            with opened(folder / SOURCE) as out:
                out.write(generated.getvalue())
        for cell in comparison.cells:
            result = cell.result
            if result is None:
                continue
            if comparison.generated is not None and result.source.picture is not None:
                made_of = result.source.made_of(folder / SOURCE, generated.getvalue())
                result = replace(result, source=made_of)
            path = paths[cell.target, cell.start.inversion, cell.method]
            images.save_png(result.rendering, path, opened=opened)
        images.save_png(comparison.grid(), folder / FILES[0], opened=opened)
        for name, text in zip(FILES[1:], (comparison.table(), comparison.comma_separated()), strict=True):
            with opened(folder / name) as out:
                out.write(text.encode())


def shown(comparison: Comparison) -> str:
    """The table for a terminal, without its notices and as narrow as possible: headings are wrapped."""
    columns = [column for column in comparison.columns() if column.key != "notices"]
    titles, rule, *rows = (
        line.strip("| ").split(" | ") for line in tables.markdown(comparison.rows(), columns).splitlines()
    )
    values = list(zip(*rows, strict=True))
    widths = [max(map(len, (*title.split(), *column))) for title, column in zip(titles, values, strict=True)]
    wrapped = [textwrap.wrap(title, width) for title, width in zip(titles, widths, strict=True)]
    tallest = max(map(len, wrapped))
    heads = zip(*([""] * (tallest - len(lines)) + lines for lines in wrapped), strict=True)
    return "\n".join(
        "  ".join(
            cell.rjust(width) if numeric.endswith(":") else cell.ljust(width)
            for cell, width, numeric in zip(line, widths, rule, strict=True)
        ).rstrip()
        for line in (*heads, *rows)
    )
