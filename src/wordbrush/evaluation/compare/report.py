"""What a comparison writes: the grid, the table, and every edit with a record of how it was made."""

import hashlib
import io
import os
import textwrap
from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path

from PIL import Image

from wordbrush import images, provenance
from wordbrush.evaluation.compare.request import SEED
from wordbrush.evaluation.compare.result import Comparison
from wordbrush.evaluation.contender import save
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
    file, generated = None, io.BytesIO()
    if comparison.generated is not None:  # not written yet, and the records of the edits hold the file's hash
        source = comparison.generated
        record = provenance.source_record(model, source, source.options)
        entries = provenance.record("generate", model, record, comparison.picture)
        images.save_png(comparison.picture, SOURCE, entries, lambda _: nullcontext(generated))
        digest = hashlib.sha256(generated.getvalue()).hexdigest()
        file = provenance.FileRecord(path=os.fspath(folder / SOURCE), sha256=digest)
    elif comparison.original is not None and not isinstance(comparison.original, Image.Image):
        file = provenance.file_record(os.fspath(comparison.original))
    with all_or_none() as opened:
        if comparison.generated is not None:
            with opened(folder / SOURCE) as out:
                out.write(generated.getvalue())
        for cell in comparison.cells:
            source, result = cell.start.source, cell.result
            if result is None or source is None:
                continue
            is_seed = cell.start.inversion == SEED
            options = source.options if is_seed else cell.start.options
            record = provenance.source_record(model, source, options, picture=None if is_seed else file)
            path = paths[cell.target, cell.start.inversion, cell.method]
            save(result, path, cell.contender, record, opened=opened)
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
