"""Concepts on the command line: `--concept` on whatever computes, in rows of a batch, and `wordbrush concepts`."""

import json
import shlex
from collections.abc import Callable, Sequence
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from teaching import concept
from wordbrush.cli import main, worker
from wordbrush.cli.app import application
from wordbrush.cli.options import concepts
from wordbrush.cli.options.concepts import Named
from wordbrush.cli.options.setup import Setup
from wordbrush.concept import Base, Concept, TrainingPicture
from wordbrush.concept.portrait import Portrait
from wordbrush.concept.weights import LowRank, Shut
from wordbrush.errors import OptionsError
from wordbrush.images import load, read_provenance
from wordbrush.model import Model

PROMPT = "<my-cat> on a beach"
MINE = ("--concept", "my-cat.concept=0.8")
Tiny = Callable[..., Model]


@pytest.fixture(scope="module")
def folder(
    tmp_path_factory: pytest.TempPathFactory, tiny: Tiny, saved: Callable[[Model, Path], Path]
) -> Path:
    return saved(tiny("sd1"), tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, folder: Path) -> Path:
    """Concepts of the model in `folder`."""
    place, model = tmp_path_factory.mktemp("concepts"), Model.load(folder, device="cpu")
    concept(model, weights=LowRank, vectors=2).save(place / "my-cat.concept")
    concept(model, ("<b>",), seed=1).save(place / "b=0.5.concept")
    concept(model, ("<MY-cat>",), seed=2).save(place / "same-word.concept")
    away = replace(concept(model, ("<away>",)), base=Base(name="another", hash="1" * 64))
    away.save(place / "away.concept")
    return place


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, made: Path) -> Path:
    """A folder to work in, with a picture and copies of the concepts."""
    monkeypatch.chdir(tmp_path)
    Image.effect_noise((32, 32), 60).convert("RGB").save("photo.png")
    for file in made.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    return tmp_path


Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], folder: Path) -> Run:
    """run("edit", …) → exit code, stdout, stderr, with the tiny model."""

    def run(*tokens: str) -> tuple[int, str, str]:
        named = tokens[0] in ("replay", "concepts") or "--model" in tokens
        code = main([*tokens, *(() if named else ("--model", str(folder)))])
        out, err = capsys.readouterr()
        return code, out, err

    return run


# What one types ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "path", "strength"),
    [
        ("my-cat.concept", "my-cat.concept", 1.0),
        ("my-cat.concept=0.8", "my-cat.concept", 0.8),
        ("my-cat.concept=-2", "my-cat.concept", -2.0),
        ("my-cat.concept=0", "my-cat.concept", 0.0),
        ("b=0.5.concept", "b=0.5.concept", 1.0),
        ("b=0.5.concept=3", "b=0.5.concept", 3.0),
        ("c=0.5", "c=0.5", 1.0),  # a file of this name exists
        ("c=0.5=2", "c=0.5", 2.0),
        ("none=0.5", "none", 0.5),
        ("none=much", "none=much", 1.0),
        ("x=y=0.5", "x=y", 0.5),
    ],
)
def test_the_strength_is_what_follows_the_last_equals(
    here: Path, text: str, path: str, strength: float
) -> None:
    (here / "c=0.5").touch()
    found = Named.of(text)
    assert found == Named(Path(path), strength) and Named.of(str(found)) == found


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("my-cat.concept=nan", "the strength: expected a finite number, got nan"),
        ("my-cat.concept=1e400", "the strength: expected a finite number, got inf"),
        ("my-cat.concept=10.5", "the strength: expected less than or equal to 10, got 10.5"),
        ("none=-11", "the strength: expected greater than or equal to -10, got -11"),
        ("my-cat.concept=much", "expected a number after my-cat.concept=, .* got 'much'"),
        ("my-cat.concept=", "expected a number after my-cat.concept=, .* got ''"),
        (" ", "expected --concept FILE or FILE=STRENGTH, got nothing"),
    ],
)
def test_no_strength(here: Path, text: str, why: str) -> None:
    with pytest.raises(OptionsError, match=why):
        Named.of(text)


def test_a_folder_is_the_files_in_it(here: Path) -> None:
    (here / "peft").mkdir()
    (here / "peft" / "b").touch()
    (here / "peft" / "a").touch()
    assert Named.of("peft=2").files == [Path("peft/a"), Path("peft/b")]
    assert Named.of("my-cat.concept=2").files == [Path("my-cat.concept")]


# Every command ----------------------------------------------------------------------------------------------

COMPUTES = {
    "generate": (PROMPT, "--out", "cat.png"),
    "edit": ("photo.png", "--source", "a cat", "--target", PROMPT, "--out", "dog.png"),
    "sweep": (
        *("photo.png", "--source", PROMPT, "--target", "a dog on a beach", "--out", "strip.png"),
        *("--option", "strength", "--values", "0.5"),
    ),
    "invert": ("photo.png", "--prompt", PROMPT, "--out", "photo.source"),
    "heatmap": ("photo.png", "--prompt", PROMPT, "--word", "<my-cat>", "--out", "heat.png"),
    "mask": ("photo.png", "--prompt", PROMPT, "--mask-words", "<my-cat>", "--out", "mask.png"),
    "compare": (
        *("photo.png", "--source", "a cat on a beach", "--target", PROMPT, "--out", "compared"),
        *("--method", "prompt-to-prompt", "--inversion", "direct"),
    ),
}


def test_every_command_that_loads_a_model_takes_concepts() -> None:
    for command in (*COMPUTES, "batch", "evaluate bench", "evaluate pie", "evaluate directional"):
        app = application(command.split())
        for part in command.split():
            app = app[part]
        flags = {name for each in app.assemble_argument_collection() for name in each.names}
        assert "--concept" in flags and "--model" in flags, command


@pytest.mark.parametrize("command", COMPUTES)
def test_a_concept_goes_through_every_command(here: Path, run: Run, command: str) -> None:
    tokens = (command, *COMPUTES[command], "--steps", "2")
    code, _, err = run(*tokens, *MINE)
    assert code == 0, err
    code, _, err = run(*tokens)
    assert code == 2 and "which my-cat.concept teaches: give --concept my-cat.concept" in err


@pytest.mark.parametrize("command", [name for name in COMPUTES if name not in ("invert", "compare")])
def test_a_concepts_file_is_never_written_over(here: Path, run: Run, command: str) -> None:
    (here / "my-cat.concept").rename("my-cat.png")
    tokens = [*COMPUTES[command]]
    tokens[tokens.index("--out") + 1] = "my-cat.png"
    code, _, err = run(command, *tokens, "--concept", "my-cat.png=0.5")
    assert code == 2 and "my-cat.png is an input and would be overwritten" in err


@pytest.mark.slow
def test_what_is_made_with_concepts_is_made_again(here: Path, run: Run) -> None:
    both = (*MINE, "--concept", "b=0.5.concept")
    assert run("generate", PROMPT, "--steps", "2", *both, "--out", "cat.png")[0] == 0
    record = read_provenance("cat.png")["model"]["concepts"]
    assert [(each["path"], each.get("strength")) for each in record] == [
        ("my-cat.concept", 0.8),
        ("b=0.5.concept", None),
    ]
    assert run("replay", "cat.png")[:2] == (0, "cat.png  every pixel is the same\n")
    edit = ("edit", "cat.png", "--target", "<b> on a beach", "--steps", "2", "--reweight", "<b>=2")
    assert run(*edit, *both, "--out", "b.png")[0] == 0
    assert run("replay", "b.png", "--out", "again.png")[:2] == (0, "b.png  every pixel is the same\n")
    assert run("replay", "b.png", "--out", "my-cat.concept")[0] == 2
    (here / "else").mkdir()
    for name in ("b.png", "my-cat.concept", "b=0.5.concept", "cat.png"):
        (here / name).rename(here / "else" / name)
    assert run("replay", "else/b.png")[:2] == (0, "else/b.png  every pixel is the same\n")
    (here / "else" / "my-cat.concept").write_bytes(b"something else")
    code, _, err = run("replay", "else/b.png")
    assert (
        code == 2
        and "else/my-cat.concept has changed since: expected a concept that this picture was made with" in err
    )


@pytest.mark.slow
def test_a_source_is_edited_with_its_concepts(here: Path, run: Run) -> None:
    assert run("invert", "photo.png", "--prompt", PROMPT, *MINE, "--out", "photo.source")[0] == 0
    edit = ("edit", "photo.source", "--target", "a dog on a beach", "--out", "dog.png")
    code, _, err = run(*edit)
    assert code == 2 and "give --concept my-cat.concept=0.8 (in Python" in err
    assert run(*edit, *MINE)[0] == 0
    assert run("replay", "dog.png")[0] == 0
    code, _, err = run(*edit, "--concept", "my-cat.concept")
    assert code == 2 and "got my-cat.concept: give --concept my-cat.concept=0.8" in err


def test_what_is_doubtful_is_noted(here: Path, run: Run) -> None:
    code, _, err = run("generate", "<away>", "--steps", "1", "--concept", "away.concept", "--out", "a.png")
    assert code == 0
    assert "note: away.concept was trained on another, not on" in err and err.count("note: away") == 1


@pytest.mark.parametrize(
    ("given", "why"),
    [
        (("none.concept",), "expected a concept's file, but there is none at none.concept; check the path"),
        (("my-cat.concept=nan",), "expected a finite number"),
        (("my-cat.concept=much",), "expected a number after my-cat.concept="),
        (("my-cat.concept", "./my-cat.concept=0.5"), "expected each concept once, got my-cat.concept twice"),
        (
            ("my-cat.concept", "same-word.concept"),
            "words of their own, got two with '<MY-cat>', my-cat.concept and",
        ),
        (("cut.concept",), "cut.concept is damaged or no wordbrush concept"),
        (("turned.concept",), "turned.concept is damaged: its checksum does not fit its content"),
        (("text.concept",), "text.concept is damaged or no wordbrush concept"),
        (("",), "expected --concept FILE or FILE=STRENGTH, got nothing"),
    ],
)
def test_bad_concepts_do_not_wait_for_the_model(
    here: Path, run: Run, monkeypatch: pytest.MonkeyPatch, given: Sequence[str], why: str
) -> None:
    content = (here / "my-cat.concept").read_bytes()
    (here / "cut.concept").write_bytes(content[:-9])
    (here / "turned.concept").write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    (here / "text.concept").write_text("a cat")
    monkeypatch.setattr(Setup, "fresh", lambda self, fetch: pytest.fail("the model was loaded"))
    code, _, err = run(
        "generate", PROMPT, "--out", "cat.png", *(t for each in given for t in ("--concept", each))
    )
    assert code == 2 and why in err and err.count("\n") == 1
    assert not (here / "cat.png").exists()


def test_equal_files_are_one_concept(here: Path, run: Run) -> None:
    (here / "copy.concept").write_bytes((here / "away.concept").read_bytes())
    code, _, err = run(
        "generate", "a cat", "--out", "a.png", "--concept", "away.concept", "--concept", "copy.concept"
    )
    assert code == 2 and "two with '<away>', away.concept and copy.concept" in err


def test_a_word_is_looked_for_beside_the_picture(here: Path, run: Run) -> None:
    (here / "mine").mkdir()
    (here / "photo.png").rename(here / "mine" / "photo.png")
    (here / "my-cat.concept").rename(here / "mine" / "my cat.concept")
    (here / "same-word.concept").unlink()
    edit = ("edit", "mine/photo.png", "--source", "a cat", "--target", PROMPT, "--out", "dog.png")
    code, _, err = run(*edit)
    assert code == 2
    assert "got '<my-cat>', which mine/my cat.concept teaches: give --concept 'mine/my cat.concept'" in err
    typed = shlex.split(err.strip().rpartition("give ")[2])
    assert run(*edit, "--steps", "1", *typed)[0] == 0
    code, _, err = run("generate", "<nothing> here", "--out", "a.png")
    assert code == 2 and "which a concept teaches: apply its file (--concept nothing.concept)" in err


# Rows -------------------------------------------------------------------------------------------------------

Batch = Callable[..., tuple[int, dict[str, Any], str]]


@pytest.fixture
def batch(here: Path, folder: Path, capsys: pytest.CaptureFixture[str]) -> Batch:
    def batch(rows: Sequence[dict[str, Any]], *flags: str, out: str = "out"):
        Path("jobs.jsonl").write_text("\n".join(map(json.dumps, rows)))
        capsys.readouterr()
        code = main(["batch", "jobs.jsonl", "--out", out, "--json", "--model", str(folder), *flags])
        told, err = capsys.readouterr()
        return code, json.loads(told) if told else {}, err

    return batch


def counts(told: dict[str, Any]) -> tuple[int, int, int]:
    return told["done"], told["failed"], told["before"]


ROW: dict[str, Any] = {"verb": "generate", "prompt": PROMPT, "steps": 1}


@pytest.mark.slow
def test_a_row_with_concepts_makes_what_the_command_makes(here: Path, run: Run, batch: Batch) -> None:
    rows = [
        {**ROW, "id": "text", "concept": "my-cat.concept=0.8"},
        {**ROW, "id": "list", "concept": ["my-cat.concept=0.8", "b=0.5.concept"]},
        {**ROW, "id": "mapping", "concept": {"my-cat.concept": 0.8}},
        {**ROW, "id": "doubtful", "prompt": "<away>", "concept": "away.concept"},
    ]
    code, told, err = batch(rows)
    assert (code, counts(told)) == (0, (4, 0, 0)), err
    assert run("generate", PROMPT, "--steps", "1", *MINE, "--out", "alone.png")[0] == 0
    assert load("out/text.png").tobytes() == load("alone.png").tobytes() == load("out/mapping.png").tobytes()
    assert read_provenance("out/text.png")["model"] == read_provenance("alone.png")["model"]
    assert len(read_provenance("out/list.png")["model"]["concepts"]) == 2
    assert "away.concept was trained on another" in err
    assert (
        batch([{"verb": "replay", "picture": f"out/{name}.png"} for name in ("text", "list")], out="again")[0]
        == 0
    )


def test_the_batchs_own_concept_is_a_default(here: Path, batch: Batch) -> None:
    (here / "rows").mkdir()
    rows = [
        {**ROW, "id": "default"},
        {**ROW, "id": "own", "concept": "my-cat.concept", "seed": 1},
    ]
    code, told, err = batch(rows, *MINE)
    assert (code, counts(told)) == (0, (2, 0, 0)), err
    strengths = [
        read_provenance(f"out/{name}.png")["model"]["concepts"][0].get("strength")
        for name in ("default", "own")
    ]
    assert strengths == [0.8, None]
    code, _, err = batch(rows, "--concept", "none.concept", out="none")
    assert code == 2 and "there is none at none.concept" in err and not Path("none").exists()
    code, _, err = batch([ROW], out="without")
    assert code == 1 and "which my-cat.concept teaches" in err


def test_the_model_is_loaded_once_and_a_concept_once_for_the_rows_that_share_it(
    here: Path, batch: Batch, monkeypatch: pytest.MonkeyPatch
) -> None:
    loads: list[str] = []
    fresh, taught = Setup.fresh, concepts.taught
    monkeypatch.setattr(Setup, "fresh", lambda self, fetch: loads.append("model") or fresh(self, fetch=fetch))
    monkeypatch.setattr(
        worker, "taught", lambda base, texts: loads.append(", ".join(texts)) or taught(base, texts)
    )
    mine = {**ROW, "concept": "my-cat.concept"}
    rows = [mine, {**ROW, "prompt": "a cat"}, {**mine, "seed": 1}, {**mine, "concept": "my-cat.concept=0.5"}]
    code, told, err = batch(rows)
    assert (code, counts(told)) == (0, (4, 0, 0)), err
    assert loads.count("model") == 1 and len(loads) == 4


@pytest.mark.slow
def test_what_is_in_a_concepts_file_counts(here: Path, batch: Batch, folder: Path) -> None:
    rows = [{**ROW, "id": "a", "concept": "my-cat.concept"}, {**ROW, "id": "b", "prompt": "a cat"}]
    assert counts(batch(rows)[1]) == (2, 0, 0)
    assert counts(batch(rows)[1]) == (0, 0, 2)
    concept(Model.load(folder, device="cpu"), seed=9).save("my-cat.concept")
    before = load("out/a.png").tobytes()
    assert counts(batch(rows)[1]) == (1, 0, 1) and load("out/a.png").tobytes() != before
    rows[0]["concept"] = "my-cat.concept=0.5"
    assert counts(batch(rows)[1]) == (1, 0, 1)


@pytest.mark.parametrize(
    ("row", "why"),
    [
        ({"concept": "../my-cat.concept"}, "expected 'concept' to be below"),
        ({"concept": "/etc/passwd"}, "expected 'concept' to be below"),
        ({"concept": "my-cat.concept=11"}, "the strength: expected less than or equal to 10, got 11"),
        ({"concept": "none.concept"}, "there is none at none.concept"),
        ({"concept": ["my-cat.concept", "my-cat.concept"]}, "expected each concept once"),
        ({"concept": [["a"]]}, "expected 'concept' to be text"),
        ({"concept": "my-cat.concept", "out": "../my-cat.concept"}, "expected 'out' to be below"),
    ],
)
def test_a_bad_concept_is_reported_before_any_work(
    here: Path, batch: Batch, monkeypatch: pytest.MonkeyPatch, row: dict[str, Any], why: str
) -> None:
    monkeypatch.setattr(Setup, "fresh", lambda self, fetch: pytest.fail("the model was loaded"))
    code, _, err = batch([{**ROW, **row}])
    assert code == 1 and why in err


def test_no_row_writes_a_concept_that_another_reads(here: Path, batch: Batch) -> None:
    (here / "my-cat.concept").rename(here / "my-cat.png")
    rows = [{**ROW, "concept": "my-cat.png"}, {**ROW, "prompt": "a cat", "out": "my-cat.png"}]
    code, _, err = batch(rows, out=".")
    assert code == 1 and "is what line 1 reads" in err


# wordbrush concepts -----------------------------------------------------------------------------------------


def test_concepts_names_entries_that_are_shut(here: Path, run: Run, tiny: Callable[..., Model]) -> None:
    concept(tiny(), (), weights=Shut).save("shut.concept")
    code, out, _ = run("concepts", "shut.concept")
    assert code == 0 and "  weights  7 shut\n" in out


def test_concepts_tells_of_a_likeness(here: Path, run: Run, tiny: Callable[..., Model]) -> None:
    own = concept(tiny(), ("<my-cat>",))
    layer = "down_blocks.0.attentions.0.transformer_blocks.0.attn2"
    change = {name: torch.zeros(16, 24) for name in ("key_change", "value_change")}
    replace(own, weights={}, portraits={"<my-cat>": Portrait(0.8, {layer: change})}).save("like.concept")
    code, out, _ = run("concepts", "like.concept")
    assert code == 0 and "  likeness  <my-cat> (in 1 layer, parts × 0.8)\n" in out


def test_concepts_tells_what_they_are(here: Path, run: Run, folder: Path) -> None:
    file = BytesIO()
    Image.new("RGB", (40, 40), "red").save(file, "PNG")
    whole = replace(
        Concept.load("my-cat.concept"),
        previews=(file.getvalue(), file.getvalue()),
        pictures=(TrainingPicture(name="1.png", sha256="0" * 64),),
    )
    whole.save("whole.concept")
    code, out, _ = run("concepts", "whole.concept", "--model", str(folder), "--preview", "strip.png")
    assert code == 0 and out.splitlines()[0] == "whole.concept  a photo of <my-cat>"
    for line in (
        "words       <my-cat> (2 vectors)",
        "weights     7 low-rank",
        "options     steps 10",
        "1.png",
    ):
        assert line in out
    assert f"which is {folder}" in out and "method      dreambooth, seed 0" in out
    assert load("strip.png").width > 2 * 256
    code, out, _ = run("concepts", "whole.concept", "away.concept", "--json", "--model", str(folder))
    first, second = json.loads(out)["concepts"]
    assert first["words"] == {"<my-cat>": 2} and first["weights"] == {"low-rank": 7} and first["fits"] is True
    assert second["fits"] is False and second["base"] == {"name": "another", "hash": "1" * 64}
    assert first["bytes"] == (here / "whole.concept").stat().st_size and first["previews"] == 2


def test_concepts_lists_a_folder(here: Path, run: Run) -> None:
    every = ["away.concept", "b=0.5.concept", "my-cat.concept", "same-word.concept"]
    code, out, _ = run("concepts", "--json")
    assert code == 0 and [each["file"] for each in json.loads(out)["concepts"]] == every
    (here / "empty").mkdir()
    assert run("concepts", "empty")[:2] == (0, "no .concept files here\n")
    code, out, _ = run("concepts", str(here), "my-cat.concept", "--json")
    assert code == 0 and len(json.loads(out)["concepts"]) == 5


@pytest.mark.parametrize(
    ("tokens", "why"),
    [
        (("none.concept",), "expected a concept's file, but there is none at none.concept"),
        (("photo.png",), "expected a whole safetensors file, but photo.png is none"),
        (
            ("my-cat.concept", "--preview", "p.png"),
            "expected a concept with previews for --preview, got none",
        ),
        (("my-cat.concept", "--preview", "p.jpg"), "expected --preview to end in .png, got p.jpg"),
        (("bad.concept", "--preview", "p.png"), "preview 1 of bad.concept"),
    ],
)
def test_what_is_no_concept_is_one_line(here: Path, run: Run, tokens: Sequence[str], why: str) -> None:
    replace(Concept.load("my-cat.concept"), previews=(b"no picture",)).save("bad.concept")
    code, out, err = run("concepts", *tokens)
    assert (code, out) == (2, "") and why in err and err.count("\n") == 1
    assert not (here / "p.png").exists()
