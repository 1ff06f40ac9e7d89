"""Results as lines of JSON: one per row, appended, and flushed to the disk before `add` returns."""

import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from wordbrush.errors import OutputError, short
from wordbrush.files import atomic_write
from wordbrush.reading import content, json_text

Row = Mapping[str, Any]
Key = tuple[str, ...]

_MOST = 1024**3  # bytes: a million rows


class Records:
    """The rows of one file, each identified by the values of its `key` fields; a run that was killed can continue.

    When the file is opened, an incomplete last line is dropped. A row with the key of an old one replaces it.

        records = Records(folder / "results.jsonl", key=("method", "case"))
        if ("direct", "7-add") not in records:
            records.add([{"method": "direct", "case": "7-add", "psnr": 27.2}])
    """

    def __init__(self, path: str | os.PathLike[str], key: Iterable[str], *, mend: bool = True) -> None:
        """mend: False for a file that another process may be writing: it is read as it is, and left so.

        Raises `OutputError` if the file cannot be read, or a complete line in it is not a row.
        """
        self.path, self._fields = Path(path), tuple(key)
        self._rows: dict[Key, dict[str, Any]] = {}
        text = self._read()
        complete = text[: text.rfind("\n") + 1]
        lines = complete.split("\n")[:-1]
        for number, line in enumerate(lines, 1):
            try:
                row = json_text(line, f"line {number}", OutputError, finite=False)
                self._rows[self._key(row)] = row
            except (OutputError, TypeError, KeyError) as error:
                raise OutputError(
                    f"{self.path}, line {number}: expected a row of results, got {short(line)}; "
                    "remove the line, or choose another path"
                ) from error
        if mend and (len(complete) < len(text) or len(lines) > len(self._rows)):
            self._rewrite()

    def __contains__(self, key: object) -> bool:
        return key in self._rows

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return iter(self._rows.values())

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, key: Key) -> dict[str, Any]:
        return self._rows[key]

    def add(self, rows: Iterable[Row]) -> None:
        """Append rows; they are on the disk when this returns. Raises `OutputError`.

        NaN means "does not apply" here, and is stored as JSON's null.
        """
        new = {self._key(row): {name: _null_for_nan(value) for name, value in row.items()} for row in rows}
        replaces = any(key in self._rows for key in new)
        self._rows.update(new)
        if replaces:
            self._rewrite()
            return
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with open(self.path, "a", encoding="utf-8") as file:
                file.writelines(_line(row) for row in new.values())
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise OutputError(
                f"cannot write {self.path}: {error.strerror}; free disk space and start again"
            ) from error

    def _key(self, row: Row) -> Key:
        return tuple(str(row[field]) for field in self._fields)

    def _read(self) -> str:
        if not os.path.lexists(self.path):
            return ""
        return content(self.path, OutputError, most=_MOST).decode(errors="replace")

    def _rewrite(self) -> None:
        with atomic_write(self.path) as file:
            file.write("".join(map(_line, self._rows.values())).encode())


def fingerprint(*values: object) -> str:
    """16 hexadecimal digits of a hash of the values: the settings that a row was made with, or measured by."""
    return hashlib.sha256(json.dumps(values, sort_keys=True, default=str).encode()).hexdigest()[:16]


def _null_for_nan(value: Any) -> Any:
    return None if isinstance(value, float) and value != value else value


def _line(row: Row) -> str:
    return json.dumps(row) + "\n"
