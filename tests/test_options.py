import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import Field, ValidationError

from wordbrush.errors import OptionsError
from wordbrush.options import Options, parse, read_toml


class Sampling(Options):
    steps: int = Field(50, ge=1, le=1000, description="denoising steps")
    guidance_scale: float = Field(7.5, ge=0, le=50, description="how strongly the text pulls")
    words: tuple[str, ...] = Field((), description="words to blend")


class Named(Options):
    name: str


def test_valid_values_become_an_immutable_value():
    options = parse(Sampling, {"steps": 20})
    assert options == Sampling(steps=20, guidance_scale=7.5)
    with pytest.raises(ValidationError):
        options.steps = 3  # type: ignore[misc]


@given(st.integers(1, 1000), st.floats(0, 50), st.lists(st.text(max_size=5), max_size=3))
def test_options_survive_a_trip_through_plain_values(steps: int, scale: float, words: list[str]):
    options = parse(Sampling, {"steps": steps, "guidance_scale": scale, "words": words})
    assert parse(Sampling, options.model_dump(mode="json")) == options


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"steps": 0}, r"option 'steps': expected greater than or equal to 1, got 0"),
        ({"steps": 1001}, r"option 'steps': expected less than or equal to 1000, got 1001"),
        ({"steps": "many"}, r"option 'steps': expected a valid integer.*got 'many'"),
        ({"guidance_scale": math.nan}, r"option 'guidance_scale': expected a finite number, got nan"),
        ({"guidance_scale": math.inf}, r"option 'guidance_scale': expected a finite number, got inf"),
        ({"setps": 20}, r"unknown option 'setps'; did you mean 'steps'\?"),
        ({"zzz": 20}, r"unknown option 'zzz'; there is steps, guidance_scale, words"),
        ({"words": [1]}, r"option 'words\.0': expected a valid string, got 1"),
        ({"steps": "x" * 500}, r"got 'x{56}…$"),
        ({"steps": True}, r"option 'steps': expected a number or text, got True"),
        ({"guidance_scale": False}, r"option 'guidance_scale': expected a number or text, got False"),
        ({"words": ["cat", True]}, r"option 'words': expected a number or text"),
        ({"x" * 500: 1}, r"unknown option 'x{56}…; there is"),
        ({f"x{i}": 1 for i in range(100)}, r"'x4'; there is steps, guidance_scale, words; and 95 more$"),
    ],
)
def test_bad_values_name_the_field_the_value_and_the_limit(values: dict[str, Any], message: str):
    with pytest.raises(OptionsError, match=message):
        parse(Sampling, values)


def test_every_problem_is_named_at_once():
    with pytest.raises(OptionsError, match=r"steps.*; .*guidance_scale"):
        parse(Sampling, {"steps": 0, "guidance_scale": -1})


def test_a_missing_option_is_named():
    with pytest.raises(OptionsError, match="option 'name' is missing"):
        parse(Named, {})


@given(st.dictionaries(st.text(max_size=8), st.none() | st.integers() | st.floats() | st.text(max_size=8)))
def test_whatever_comes_in_the_only_error_is_ours(values: dict[str, Any]):
    try:
        options = parse(Sampling, values)
    except OptionsError:
        return
    assert 1 <= options.steps <= 1000 and 0 <= options.guidance_scale <= 50


def test_toml_is_read(tmp_path: Path):
    (tmp_path / "edit.toml").write_text('steps = 20\nwords = ["cat"]\n')
    assert parse(Sampling, read_toml(tmp_path / "edit.toml")) == Sampling(steps=20, words=("cat",))


@pytest.mark.parametrize(
    ("content", "message"),
    [(None, "cannot read .*No such file"), (b"steps 20", "line 1"), (b"\xff\xfe", "is not a text file")],
)
def test_bad_toml_is_a_clear_error(tmp_path: Path, content: bytes | None, message: str):
    if content is not None:
        (tmp_path / "edit.toml").write_bytes(content)
    with pytest.raises(OptionsError, match=message):
        read_toml(tmp_path / "edit.toml")
