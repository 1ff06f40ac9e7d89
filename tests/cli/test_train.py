"""`wordbrush train`: from a folder of pictures to a concept, stopped and gone on with, and what is said meanwhile."""

import io
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from rich.console import Console

from heeding import heed_signals
from wordbrush import images, training
from wordbrush.cli import main
from wordbrush.cli.terminal import Terminal
from wordbrush.concept import Concept
from wordbrush.files import sole
from wordbrush.fit.log import Log
from wordbrush.fit.loop import Step
from wordbrush.methods import typed
from wordbrush.model import Model
from wordbrush.progress import Progress

Run = Callable[..., tuple[int, str, str]]
Tiny = Callable[..., Model]
WORD = ("textual-inversion", "my-cat", "--token", "<my-cat>", "--init", "cat")
LORA = ("lora", "my-cat", "--prompt", "a sks cat")
BOOTH = ("dreambooth", "my-cat", "--prompt", "a sks cat", "--class-prompt", "a cat", "--class-pictures", "2")
SPECTRAL = ("svdiff", "my-cat", "--prompt", "a sks cat")
TWO = (*SPECTRAL[:2], "my-dog", *SPECTRAL[2:], "--prompt", "a tpk dog, on a beach")
CUSTOM = (
    "custom-diffusion",
    "my-cat",
    "--token",
    "<my-cat>",
    "--class-prompt",
    "a cat",
    "--class-pictures",
    "2",
)
CONES = ("cones", "my-cat", "--prompt", "a sks cat", "--learning-rate", "0.1")
METHODS = {
    "textual_inversion": WORD,
    "dreambooth": BOOTH,
    "lora": LORA,
    "svdiff": SPECTRAL,
    "custom_diffusion": CUSTOM,
    "cones": CONES,
}
PROMPTS = {"textual_inversion": "a photo of <my-cat>", "custom_diffusion": "photo of a <my-cat> cat"}
FEW = ("--steps", "6", "--checkpoint-every", "2", "--sample-every", "3", "--out", "my-cat.concept")


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory, tiny: Tiny, saved: Callable[[Model, Path], Path]) -> Path:
    return saved(tiny("sd1"), tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder to work in, with a folder of three pictures in it."""
    monkeypatch.chdir(tmp_path)
    Path("my-cat").mkdir()
    for number in range(3):
        noise = random.Random(number).randbytes(8 * 8 * 3)
        Image.frombytes("RGB", (8, 8), noise).resize((32, 32)).save(f"my-cat/{number}.png")
    return tmp_path


@pytest.fixture
def run(here: Path, model: Path, capsys: pytest.CaptureFixture[str]) -> Run:
    """run("lora", …) → exit code, stdout, stderr, on the tiny model."""

    def run(*tokens: str) -> tuple[int, str, str]:
        code = main(["train", *tokens, "--model", str(model)])
        heed_signals()
        out, err = capsys.readouterr()
        return code, out, err

    return run


def names(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


INPUTS = {f"my-cat/{number}.png" for number in range(3)}


def stopped_at(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    """Ctrl-C during the step after this one."""
    add = Log.add

    def interrupted(self: Log, step: Step) -> None:
        if step.number > number:
            signal.raise_signal(signal.SIGINT)
        add(self, step)

    monkeypatch.setattr(Log, "add", interrupted)


# From pictures to a concept ----------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_every_training_makes_a_concept_and_says_how_to_use_it(
    run: Run, here: Path, model: Path, method: str
) -> None:
    code, out, err = run(*METHODS[method], *FEW, "--batch-size", "2")
    assert (code, err) == (0, "")
    concept = Concept.load("my-cat.concept")
    prompt = PROMPTS.get(method, "a sks cat")
    assert concept.method == method and concept.prompt == prompt and concept.options["steps"] == 6
    assert [record.name for record in concept.pictures] == ["0.png", "1.png", "2.png"]
    use = f"wordbrush generate '{prompt}' --concept my-cat.concept --model {model} --out my-cat.png"
    assert out.splitlines() == [
        f"my-cat.concept  {prompt}",
        "my-cat.training/strip.png  how it was learned",
        use,
    ]
    classes = {f"my-cat.training/class/0000{k}.png" for k in range(2) if "--class-prompt" in METHODS[method]}
    samples = {f"my-cat.training/samples/000000{step}.png" for step in (3, 6)}
    kept = {"my-cat.training/log.jsonl", "my-cat.training/strip.png"}
    assert names(here) == INPUTS | classes | samples | kept | {"my-cat.concept"}
    log = [json.loads(line) for line in Path("my-cat.training/log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in log] == [1, 2, 3, 4, 5, 6]
    assert concept.preview and concept.preview.tobytes() == images.load(max(samples)).tobytes()


@pytest.mark.slow
def test_several_things_have_a_folder_and_a_prompt_each(run: Run, here: Path) -> None:
    """A comma in a prompt does not end it. Pictures are made of each class, and classes that are equal are one."""
    shutil.copytree("my-cat", "my-dog")
    told = ("--class-prompt", "a cat", "--class-prompt", "a dog", "--class-pictures", "1")
    code, out, _ = run(*TWO, *told, *FEW)
    assert code == 0 and out.startswith("my-cat.concept  a sks cat and a tpk dog, on a beach")
    concept = Concept.load("my-cat.concept")
    assert concept.prompt == "a sks cat and a tpk dog, on a beach"
    assert concept.options["prompt"] == ["a sks cat", "a tpk dog, on a beach"]
    assert [record.name for record in concept.pictures] == [
        f"my-{each}/{k}.png" for each in ("cat", "dog") for k in range(3)
    ]
    made = {path for path in names(here) if path.startswith("my-cat.training/class")}
    assert made == {"my-cat.training/class/00000.png", "my-cat.training/class-2/00000.png"}


@pytest.mark.slow
def test_one_picture_is_edited_through_what_was_learned_of_it(run: Run, here: Path, model: Path) -> None:
    """SVDiff's editing of one picture: its caption has no rare word, and an edit begins at the picture."""
    caption = ("a cat on a beach", "a dog on a beach")
    told = ("--prompt", caption[0], "--learning-rate", "0.05", *FEW)
    code, _, err = run("svdiff", "my-cat/0.png", *told)
    assert code == 0 and "one picture" in err
    edit = ("edit", "my-cat/0.png", "--source", caption[0], "--target", caption[1], "--steps", "2")
    for name, more in (("with", ("--concept", "my-cat.concept")), ("without", ())):
        assert main([*edit, *more, "--model", str(model), "--out", f"{name}.png"]) == 0
    assert images.load("with.png").tobytes() != images.load("without.png").tobytes()
    assert main(["replay", "with.png", "--out", "again.png"]) == 0
    assert images.load("again.png").tobytes() == images.load("with.png").tobytes()


@pytest.mark.slow
def test_json_has_all_of_it_with_the_last_losses(run: Run) -> None:
    code, out, err = run(*LORA, *FEW, "--json", "--work", "elsewhere/work")
    assert (code, err) == (0, "")
    (line,) = out.splitlines()
    told = json.loads(line)
    log = [json.loads(line) for line in Path("elsewhere/work/log.jsonl").read_text().splitlines()]
    assert told["losses"] == [step["loss"] for step in log] and len(told["losses"]) == 6
    assert (told["command"], told["method"], told["out"]) == ("train", "lora", "my-cat.concept")
    assert told["strip"] == "elsewhere/work/strip.png" and Path(told["strip"]).is_file()
    assert told["prompt"] == "a sks cat" and told["use"].startswith(
        "wordbrush generate 'a sks cat' --concept"
    )
    assert not Path("my-cat.training").exists()


@pytest.mark.slow
def test_options_come_from_a_file_too_and_flags_come_first(run: Run) -> None:
    Path("lora.toml").write_text('prompt = "a jkl cat"\nrank = 2\nsteps = 3\n')
    code, _, err = run("lora", "my-cat", "--option-file", "lora.toml", "--steps", "2", "--out", "a.concept")
    assert (code, err) == (0, "")
    concept = Concept.load("a.concept")
    assert concept.prompt == "a jkl cat" and (concept.options["rank"], concept.options["steps"]) == (2, 2)


@pytest.mark.slow
def test_a_preview_is_the_latest_sample_and_goes_in_the_end(
    run: Run, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written: list[str] = []
    save = images.save_png

    def spy(image: Image.Image, path: Any, *more: Any, **named: Any) -> None:
        written.append(str(path))
        save(image, path, *more, **named)

    monkeypatch.setattr(images, "save_png", spy)
    code, _, err = run(*LORA, *FEW, "--preview", "1")
    assert (code, err) == (0, "")
    assert written.index("my-cat.training/samples/0000003.png") < written.index("my-cat.preview.png")
    assert written.count("my-cat.preview.png") == 4  # from step 3 on
    assert not any("preview" in name for name in names(here))


# Several things at once, and one after another ---------------------------------------------------------------


@pytest.mark.slow
def test_several_folders_are_several_words(run: Run, here: Path) -> None:
    shutil.copytree("my-cat", "my-vase")
    words = (
        "--token",
        "<my-cat>",
        "--token",
        "<my-vase>",
        "--class-prompt",
        "a cat",
        "--class-prompt",
        "a vase",
    )
    code, out, err = run("custom-diffusion", "my-cat", "my-vase", *words, "--class-pictures", "1", *FEW)
    assert (code, err) == (0, "")
    concept = Concept.load("my-cat.concept")
    assert list(concept.placeholders) == ["<my-cat>", "<my-vase>"]
    assert out.startswith("my-cat.concept  photo of a <my-cat> cat and a <my-vase> vase\n")
    assert sorted({record.name.partition("/")[0] for record in concept.pictures}) == ["my-cat", "my-vase"]


def test_several_folders_for_a_method_that_learns_one_thing(run: Run, here: Path) -> None:
    shutil.copytree("my-cat", "my-vase")
    code, _, err = run("lora", "my-cat", "my-vase", *LORA[2:], *FEW)
    assert code == 2 and "expected one folder for lora, which learns one thing, got 2" in err


@pytest.mark.slow
def test_a_second_thing_is_learned_after_a_first(run: Run, here: Path) -> None:
    assert run(*CUSTOM, *FEW)[0] == 0
    word = ("--token", "<my-vase>", "--class-prompt", "a vase", "--class-pictures", "1")
    code, out, err = run(
        "custom-diffusion", "my-cat", *word, *FEW[:-1], "both.concept", "--concept", "my-cat.concept"
    )
    assert (code, err) == (0, "")
    assert list(Concept.load("both.concept").placeholders) == ["<my-cat>", "<my-vase>"]
    assert out.startswith("both.concept  photo of a <my-cat> cat and a <my-vase> vase\n")
    code, _, err = run(*LORA, *FEW[:-1], "other.concept", "--concept", "my-cat.concept")
    assert code == 2 and "expected a model without concepts to train" in err


# Before any work ---------------------------------------------------------------------------------------------

WRONG: dict[str, tuple[tuple[str, ...], str]] = {
    "no word": (("textual-inversion", "my-cat", *FEW), "say --token '<my-cat>'; option 'init' is missing: say --init"),
    "no prompt": (("lora", "my-cat", *FEW), "option 'prompt' is missing: say --prompt 'a sks cat'"),
    "no prompt of dreambooth": (("dreambooth", "my-cat", *FEW), "say --prompt 'a sks cat'"),
    "a blank prompt": (("lora", "my-cat", "--prompt", "  ", *FEW), "option 'prompt': expected some words"),
    "a prompt without words": (("lora", "my-cat", "--prompt", "...", *FEW), "option 'prompt': expected some words"),
    "a blank class": ((*LORA, "--class-prompt", "  ", *FEW), "option 'class_prompt': expected some words"),
    "a class without words": ((*LORA, "--class-prompt", "?", *FEW), "option 'class_prompt': expected some words"),
    "a blank word": ((*WORD[:3], " ", *WORD[4:], *FEW), "option 'token': expected some words"),
    "a word of two": ((*WORD[:3], "my cat", *WORD[4:], *FEW), "expected one word without spaces"),
    "a word that is known": ((*WORD[:3], "cat", *WORD[4:], *FEW), "which would mean something else"),
    "no output": (LORA, "--out"),
    "no concept": ((*LORA, "--out", "my-cat.png"), "expected --out to end in .concept"),
    "no folder": (("lora", "none", "--prompt", "a sks cat", *FEW), "expected a folder of pictures"),
    "an unknown option": ((*LORA, *FEW, "--vectors", "2"), "--vectors"),
    "too many steps": ((*LORA, *FEW, "--rank", "0"), "option 'rank'"),
    "work among the pictures": ((*LORA, *FEW, "--work", "my-cat/"), "another folder than the pictures'"),
    "work without a name": ((*LORA, *FEW, "--work", " "), "expected --work to name a folder"),
    "work is a file": ((*LORA, *FEW, "--work", "my-cat/0.png"), "my-cat/0.png is a file"),
    "fewer prompts than folders": ((*SPECTRAL[:2], "my-cat", *SPECTRAL[2:], *FEW), "for each of 2 folders, got 1"),
    "more prompts than folders": ((*SPECTRAL, "--prompt", "a jkl dog", *FEW), "for each of 1 folder, got 2"),
    "more classes than folders": (
        (*SPECTRAL, "--class-prompt", "a cat", "--class-prompt", "a dog", *FEW),
        "'class_prompt': expected one for all",
    ),
    "a blank prompt among two": ((*SPECTRAL, "--prompt", " ", *FEW), "'prompt.1': expected some words"),
    "one side alone": ((*SPECTRAL, "--side-by-side", "{left} and", *FEW), "expected one {left} and one {right}"),
    "two folders for one thing": ((*LORA[:2], "my-cat", *LORA[2:], *FEW), "expected one folder for lora"),
    "an unknown training": (("custom", "my-cat", *FEW), "custom"),
    "a prompt that does not fit": (("lora", "my-cat", "--prompt", "cat " * 90, *FEW), "shorten it"),
    "a sample's prompt that does not fit": ((*LORA, *FEW, "--sample-prompt", "cat " * 90), "shorten it"),
    "a sample's word that nobody learned": ((*LORA, *FEW, "--sample-prompt", "<my-dog>"), "<my-dog>"),
    "a precision below the model's": ((*BOOTH, *FEW, "--dtype", "bfloat16", "--precision", "float32"), "'precision'"),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_what_is_wrong_is_one_line_and_nothing_is_written(run: Run, here: Path, name: str) -> None:
    tokens, said = WRONG[name]
    code, out, err = run(*tokens)
    lines = [line for line in err.splitlines() if not line.startswith("note: ")]
    assert (code, out, len(lines)) == (2, "", 1) and said in err, err
    assert names(here) - {"my-cat.training/run.json"} == INPUTS
    assert "traceback" not in err.lower()


def test_a_model_is_not_loaded_for_a_folder_that_will_not_do(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("my-cat/3.png").write_bytes(b"no picture")
    assert main(["train", *LORA, *FEW, "--model", "no/such/model"]) == 2
    assert "3.png is not a picture" in capsys.readouterr().err


def test_notices_come_before_the_work(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    stopped_at(monkeypatch, 0)
    Path("my-cat/notes.md").write_text("mine")
    code, _, err = run(*BOOTH[:2], "--prompt", "a big cat", *FEW)
    assert code == 130
    notes = [line for line in err.splitlines() if line.startswith("note: ")]
    assert (
        len(notes) == 3
        and "notes.md" in notes[0]
        and "--class-prompt" in notes[1]
        and "'big' and 'cat'" in notes[2]
    )


@pytest.mark.parametrize("method", METHODS)
def test_help_lists_the_options_and_does_not_wait_for_torch(method: str) -> None:
    code = "import sys; from wordbrush.cli import main; main(); assert 'torch' not in sys.modules"
    command = [sys.executable, "-c", code, "train", typed(method), "--help"]
    told = subprocess.run(
        command, capture_output=True, text=True, check=True, env={**os.environ, "COLUMNS": "200"}
    )
    fields = training.METHODS[method].options().model_fields
    assert [name for name in fields if f"--{typed(name)} " not in told.stdout] == []
    assert "PydanticUndefined" not in told.stdout and "[default: ]" not in told.stdout


# Stopped, and gone on with -----------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_ctrl_c_and_the_same_command_again_end_with_the_same_concept(
    run: Run, here: Path, method: str
) -> None:
    assert run(*METHODS[method], *FEW[:-1], "whole.concept")[0] == 0
    with pytest.MonkeyPatch.context() as patch:
        stopped_at(patch, 4)
        code, out, err = run(*METHODS[method], *FEW)
    assert (code, out) == (130, "")
    assert err.splitlines() == [
        "error: stopped; at step 4 of 6; the last checkpoint (step 4) is kept, and the same command goes on from there"
    ]
    assert not Path("my-cat.concept").exists()
    code, out, err = run(*METHODS[method], *FEW)
    assert (code, err) == (0, "note: going on from step 4\n") and out.startswith("my-cat.concept  ")
    assert Path("my-cat.concept").read_bytes() == Path("whole.concept").read_bytes()
    logs = [Path(f"{name}.training/log.jsonl").read_text().splitlines() for name in ("my-cat", "whole")]
    mine, whole = ([json.loads(line)["loss"] for line in log] for log in logs)
    assert mine == whole
    assert not [name for name in names(here) if "step-" in name or "run.json" in name]


def test_ctrl_c_before_the_first_checkpoint_says_so(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    stopped_at(monkeypatch, 1)
    code, _, err = run(*LORA, *FEW)
    assert code == 130 and "at step 1 of 6, before the first checkpoint; the same command begins again" in err


@pytest.mark.slow
def test_ctrl_c_among_the_class_pictures_keeps_them(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    save = images.save_png

    def spy(image: Image.Image, path: Any, *more: Any, **named: Any) -> None:
        save(image, path, *more, **named)
        signal.raise_signal(signal.SIGINT)

    with monkeypatch.context() as patch:
        patch.setattr("wordbrush.training.prior.save_png", spy)
        code, _, err = run(*BOOTH, *FEW)
    assert code == 130 and "before the first step" in err
    before = Path("my-cat.training/class/00000.png").stat().st_mtime_ns
    assert run(*BOOTH, *FEW)[0] == 0
    assert Path("my-cat.training/class/00000.png").stat().st_mtime_ns == before


@pytest.mark.slow
def test_a_training_that_was_killed_before_it_was_saved_is_done_at_once(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(self: Concept, path: Path) -> None:
        signal.raise_signal(signal.SIGINT)

    with monkeypatch.context() as patch:
        patch.setattr(Concept, "save", interrupted)
        assert run(*LORA, *FEW)[0] == 130
    code, out, err = run(*LORA, *FEW, "--json")
    assert (code, err) == (0, "note: going on from step 6\n") and json.loads(out)["losses"] == []


@pytest.mark.slow
def test_another_training_in_the_same_folder_is_refused(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        stopped_at(patch, 4)
        assert run(*LORA, *FEW)[0] == 130
    code, _, err = run(*LORA, *FEW, "--rank", "2")
    assert code == 2 and "expected checkpoints of this training" in err
    with sole(Path("my-cat.training/.lock")):
        code, _, err = run(*LORA, *FEW)
    assert code == 2 and "another training is at work in my-cat.training: wait for it" in err
    assert run(*LORA, *FEW)[0] == 0


def test_an_empty_folder_that_was_there_stays(run: Run) -> None:
    Path("work").mkdir()
    assert run("lora", "none", "--prompt", "a sks cat", *FEW, "--work", "work")[0] == 2
    assert Path("work").is_dir() and not any(Path("work").iterdir())


@pytest.mark.slow
def test_done_once_is_done_again_from_the_start(run: Run) -> None:
    assert run(*LORA, *FEW)[0] == 0
    before = Path("my-cat.concept").read_bytes()
    code, _, err = run(*LORA, *FEW, "--seed", "1")
    assert (code, err) == (0, "") and Path("my-cat.concept").read_bytes() != before


# Several processes -------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_of_several_processes_the_first_prints_and_writes(here: Path, model: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [
        sys.executable,
        "-m",
        "wordbrush",
        "train",
        *LORA,
        *FEW,
        "--batch-size",
        "2",
        "--model",
        str(model),
    ]
    place = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    both = [
        subprocess.Popen(
            command,
            env={**os.environ, **place, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    (out, err), others = (process.communicate(timeout=300) for process in both)
    assert [process.returncode for process in both] == [0, 0], (err, others)
    assert out.startswith("my-cat.concept  a sks cat") and others[0] == ""
    assert "error" not in others[1] and "note" not in others[1]
    assert main(["train", *LORA, *FEW[:-1], "alone.concept", "--batch-size", "2", "--model", str(model)]) == 0
    shared, alone = (Concept.load(f"{name}.concept") for name in ("my-cat", "alone"))
    for name, change in alone.weights.items():
        for own, other in zip(vars(change).values(), vars(shared.weights[name]).values(), strict=True):
            torch.testing.assert_close(own, other, rtol=1e-3, atol=1e-5)


# Rare words, and the list of methods -------------------------------------------------------------------------


def test_rare_words_with_their_use(run: Run) -> None:
    code, out, err = run("rare-tokens", "--count", "5")
    assert (code, err) == (0, "")
    rows = [line.split() for line in out.splitlines()]
    assert len(rows) == 5 and all(use == ["a", token, "cat"] for token, _, *use in rows)
    code, out, _ = run("rare-tokens", "--count", "5", "--json")
    told = json.loads(out)["tokens"]
    assert [[each["token"], str(each["id"])] for each in told] == [row[:2] for row in rows]
    assert run("rare-tokens", "--count", "5", "--seed", "1")[1] != out
    code, out, err = run("rare-tokens", "--count", "1000", "--length", "2")
    assert code == 0 and 0 < len(out.splitlines()) < 100 and "not 1000: all of them are here" in err


def test_methods_lists_the_trainings_and_their_options(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["methods"]) == 0
    out = capsys.readouterr().out
    assert "training:" in out and all(f"  {typed(name)} " in out for name in METHODS)
    assert main(["methods", "lora"]) == 0
    assert "--rank N" in capsys.readouterr().out


# What a watched terminal shows -------------------------------------------------------------------------------


def test_the_bar_shows_what_a_training_says() -> None:
    terminal, shown = Terminal(), io.StringIO()
    terminal.errors = Console(file=shown, force_terminal=True, width=120)
    with terminal.watching() as show:
        show(Progress("training", 1, 9, says="loss 0.1234, rate 0.0001"))
        show(Progress("training", 2, 9, says="loss [0.1], rate 0.0001"))
    last = shown.getvalue().rpartition("training")[2]
    assert "2/9" in last and "loss [0.1], rate 0.0001" in last
