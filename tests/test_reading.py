"""Small files that anybody may have written: each kind of damage is one short sentence in time."""

import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wordbrush.errors import InputError, ModelError, OptionsError, OutputError
from wordbrush.reading import content, json_file, json_mapping, json_text, text, toml_file

Read = Callable[..., Any]
READERS = [content, text, json_file, json_mapping, toml_file]


def refused(read: Read, path: object, raises: type[Exception] = OptionsError, **told: Any) -> str:
    """The message: one line, not much longer than the path."""
    start = time.monotonic()
    with pytest.raises(raises) as caught:
        read(path, raises, **told)
    assert time.monotonic() - start < 5
    message = str(caught.value)
    assert "\n" not in message and len(message) < 300 + min(len(str(path)), 300)
    return message


def test_what_is_there_is_read(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_bytes('\ufeff{"a": [1, 2.5, "é"],\r\n "b": null}'.encode())
    assert json_file(tmp_path / "a.json", InputError) == {"a": [1, 2.5, "é"], "b": None}
    assert text(tmp_path / "a.json", InputError).count("\n") == 1
    (tmp_path / "a.toml").write_text(
        'a.b = [0.1, 0.2]\n["c.d"]\ne = """\n' + "x. " * 500 + '"""\nf = 1 # .....\n'
    )
    assert toml_file(tmp_path / "a.toml", InputError)["c.d"]["f"] == 1


@pytest.mark.parametrize("read", READERS)
@pytest.mark.parametrize("raises", [OptionsError, ModelError, OutputError])
def test_only_files_are_read(tmp_path: Path, read: Read, raises: type[Exception]) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "circle").symlink_to("circle")
    (tmp_path / "link").symlink_to("pipe")
    for path in (tmp_path / "pipe", tmp_path / "link", "/dev/zero", "/dev/null"):
        assert "expected a file, got a pipe or a device" in refused(read, path, raises)
    assert "expected a file, got a folder" in refused(read, tmp_path, raises)
    assert "Too many levels of symbolic links" in refused(read, tmp_path / "circle", raises)
    assert "No such file" in refused(read, tmp_path / "none", raises)
    assert "File name too long" in refused(read, tmp_path / ("a" * 256), raises)
    assert "null byte" in refused(read, f"{tmp_path}/a\0b", raises)


@pytest.mark.parametrize("read", READERS)
def test_what_is_larger_than_it_can_be_is_not_read_to_its_end(tmp_path: Path, read: Read) -> None:
    with open(tmp_path / "large", "wb") as file:
        file.truncate(10**12)  # a hole: it takes no room on the disk, and all memory if it is read
    assert "expected at most" in refused(read, tmp_path / "large")
    (tmp_path / "small").write_bytes(b"[" + b" " * 100 + b"]")
    assert "expected at most 9.537e-05 MiB" in refused(read, tmp_path / "small", most=100)


@pytest.mark.parametrize(
    ("found", "message"),
    [(b"\xff\xfe", "got other bytes from 1 on"), (b"a = 1\0", "got a byte 0 in it")],
)
@pytest.mark.parametrize("read", [text, json_file, toml_file])
def test_what_is_no_text_is_refused(tmp_path: Path, read: Read, found: bytes, message: str) -> None:
    (tmp_path / "file").write_bytes(found)
    assert message in refused(read, tmp_path / "file")


@pytest.mark.parametrize(
    ("found", "message"),
    [
        ("[" * 10**6, "at most 64 levels deep"),
        ("[" * 100 + "]" * 100, "at most 64 levels deep"),
        ('{"a":' * 10**5 + "1" + "}" * 10**5, "at most 64 levels deep"),
        ("9" * 5000, "a whole number of 5000 digits"),
        ("[1, -" + "9" * 41 + "]", "a whole number of 42 digits"),
        ("x" * 10**6, "expected JSON, got 'xxx"),
        ('{"a": 1, "b": 2, "a": 3}', "the key 'a' comes more than once"),
        (json.dumps({"a" * 10**6: 1})[:-1] + "}}", "Extra data"),
        ("[NaN]", "nan, where a number has to be finite"),
        ("[-Infinity]", "-inf, where"),
        ("[1e999]", "inf, where"),
        ('["\\ud800"]', "surrogates not allowed"),
        ('{"\\ud800": 1}', "surrogates not allowed"),
        ('["\\u0000"]', "a character 0"),
        ("", "Expecting value"),
    ],
)
def test_damaged_json_is_one_short_sentence(tmp_path: Path, found: str, message: str) -> None:
    (tmp_path / "a.json").write_text(found)
    assert message in refused(json_file, tmp_path / "a.json")


def test_pythons_infinities_are_read_where_they_are_wanted() -> None:
    assert json_text("[Infinity, 1e999]", "here", InputError, finite=False) == [float("inf")] * 2


def test_a_list_is_no_mapping(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text("[1]")
    assert "expected names and values in JSON, got [1]" in refused(json_mapping, tmp_path / "a.json")


@pytest.mark.parametrize(
    ("found", "message"),
    [
        (".".join("a" * 50_000) + " = 1", "at most 64 levels deep"),
        ("x = {" + " . ".join(["a"] * 50_000) + " = 1}", "at most 64 levels deep"),
        ("[" + ".".join(['"a"'] * 30_000) + "]", "at most 64 levels deep"),
        ("a = " + "[" * 10**5, "at most 64 levels deep"),
        ("a = " + "[" * 70 + "]" * 70, "at most 64 levels deep"),
        ("a = " + "{b = " * 10**4, "at most 64 levels deep"),
        ("a = " + "9" * 5000, "a whole number has too many digits"),
        ("a = 0x" + "f" * 50_000, "a whole number of 200000 bits"),
        ("a" * 10**5 + " = 1\n" + "a" * 10**5 + " = 2", "is not a TOML file"),
        ("[" + "a" * 10**5 + "]\n[" + "a" * 10**5 + "]", "is not a TOML file"),
        ('a = "\\u0000"', "a character 0"),
        ('a = """' + "\\x" * 10**5, "is not a TOML file"),
        ("a = '''" + '"""\\"' * 10**5, "is not a TOML file"),
        ("steps 20", "at line 1"),
    ],
)
def test_damaged_toml_is_one_short_sentence(tmp_path: Path, found: str, message: str) -> None:
    (tmp_path / "a.toml").write_text(found)
    assert message in refused(toml_file, tmp_path / "a.toml")


@given(st.binary(max_size=60) | st.text("[]{}\"\\.=#\n' ab1-", max_size=60).map(str.encode))
def test_whatever_is_in_a_file_the_only_error_is_ours(
    tmp_path_factory: pytest.TempPathFactory, found: bytes
) -> None:
    path = tmp_path_factory.getbasetemp() / "any"
    path.write_bytes(found)
    for read in (json_file, toml_file):
        try:
            read(path, InputError)
        except InputError as error:
            assert len(str(error)) < 400
