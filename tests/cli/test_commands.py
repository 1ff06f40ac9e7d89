"""The commands, end to end, on a tiny random model in a folder: everything but the knowledge."""

import errno
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_type_hints

import pytest
import torch
from PIL import Image

from wordbrush import editing, inversion, recording
from wordbrush.cli import main
from wordbrush.cli.options import flags, setup
from wordbrush.images import load, read_provenance
from wordbrush.model import Model

CAT, DOG = "a cat on a beach", "a dog on a beach"
EDIT = ("edit", "photo.png", "--source", CAT, "--target", DOG, "--out", "dog.png")
METHODS = {**editing.METHODS, **inversion.METHODS}


def saved(model: Model, folder: Path) -> Path:
    """The model as a diffusers folder."""
    parts = {
        "unet": model.denoiser.unet,
        "vae": model.autoencoder.vae,
        "text_encoder": model.text.encoders[0],
    }
    index: dict[str, Any] = {"wordbrush": {"defaults": {"steps": 3, "guidance_scale": 3.0}}}
    for name, part in parts.items():
        part.save_pretrained(folder / name)
        index[name] = ["transformers" if name == "text_encoder" else "diffusers", type(part).__name__]
    model.text.tokenizers[0].save_pretrained(folder / "tokenizer")
    index["scheduler"] = ["diffusers", "DDIMScheduler"]
    (folder / "scheduler").mkdir()
    (folder / "scheduler" / "scheduler_config.json").write_text(json.dumps(model.schedule_config))
    (folder / "model_index.json").write_text(json.dumps(index))
    return folder


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory, tiny: Callable[..., Model]) -> Path:
    return saved(tiny("sd1"), tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder to work in, with one picture file of the model's size in it."""
    monkeypatch.chdir(tmp_path)
    noise = random.Random(0).randbytes(8 * 8 * 3)
    Image.frombytes("RGB", (8, 8), noise).resize((32, 32)).save("photo.png")
    return tmp_path


Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], folder: Path) -> Run:
    """run("edit", …) → exit code, stdout, stderr; commands that compute get the tiny model."""

    def run(*tokens: str) -> tuple[int, str, str]:
        computes = tokens[0] in ("generate", "edit", "invert", "heatmap") and "--model" not in tokens
        code = main([*tokens, *(("--model", str(folder)) if computes else ())])
        out, err = capsys.readouterr()
        return code, out, err

    return run


def names(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


# The commands -----------------------------------------------------------------------------------------------


def test_generate_writes_a_picture_that_says_how_it_was_made(here: Path, run: Run):
    code, out, err = run("generate", CAT, "--seed", "7", "--out", "cat.png")
    assert (code, out, err) == (0, f"cat.png  {CAT}\n", "")
    assert load("cat.png").size == (32, 32)
    made = read_provenance("cat.png")
    assert made["command"] == "generate"
    assert made["source"]["options"] == {"seed": 7}
    assert (made["source"]["steps"], made["source"]["guidance_scale"]) == (3, 3.0)


def test_generate_in_another_size(here: Path, run: Run):
    assert run("generate", CAT, "--width", "48", "--steps", "1", "--out", "cat.png")[0] == 0
    assert load("cat.png").size == (48, 32)
    assert run("replay", "cat.png")[:2] == (0, "cat.png  every pixel is the same\n")


def test_edit_says_which_words_matched_and_writes_it_down(here: Path, run: Run):
    code, out, err = run("edit", "photo.png", "--source", CAT, "--target", DOG, "--out", "dog.png", "--sheet")
    assert code == 0
    first, second = out.splitlines()
    assert first == "dog.png  a [cat → dog] on a beach"
    assert second.startswith("  swap: 'dog' in place of 'cat'; prompt-to-prompt, cross-replace-steps ")
    assert names(here) == {"photo.png", "dog.png", "dog.sheet.png"}
    assert load("dog.sheet.png").width > 2 * 256
    made = read_provenance("dog.png")
    assert made["report"]["words"] == "a [cat → dog] on a beach"
    assert made["source"]["picture"]["path"] == "photo.png"
    assert (made["source"]["method"], made["method"], made["targets"]) == (
        "direct",
        "auto",
        [DOG],
    )


@pytest.mark.slow
def test_one_slider_goes_from_the_source_to_the_edit(here: Path, run: Run):
    assert run(*EDIT, "--strength", "0.25")[0] == 0
    assert read_provenance("dog.png")["options"] == {"start": 0.75}
    assert run("replay", "dog.png")[0] == 0
    code, _, err = run(*EDIT, "--strength", "0")
    assert code == 0 and "the picture is the source" in err
    assert run(*EDIT, "--strength", "1")[0] == 0
    whole = load("dog.png").tobytes()
    assert run(*EDIT)[0] == 0 and load("dog.png").tobytes() == whole
    for flag, said in ((("--start", "0.5"), "strength or start"), (("--sheet",), "got '2'")):
        code, _, err = run(*EDIT, "--strength", "2" if flag == ("--sheet",) else "1", *flag)
        assert code == 2 and said in err
    Path("weak.toml").write_text("strength = 0.5")
    assert run(*EDIT, "--option-file", "weak.toml")[0] == 0
    assert read_provenance("dog.png")["options"] == {"start": 0.5}


def test_several_targets_share_a_folder_and_have_names_of_their_own(here: Path, run: Run):
    targets = [DOG, "A dog, on a beach!", "a cat on a beach at night", "sheet"]
    flags_ = [token for target in targets for token in ("--target", target)]
    code, out, _ = run("edit", "photo.png", "--source", CAT, *flags_, "--out", "edits/", "--sheet")
    assert code == 0
    stems = ["a-dog-on-a-beach", "a-dog-on-a-beach-2", "a-cat-on-a-beach-at-night", "sheet-2", "sheet"]
    assert names(here) == {"photo.png", *(f"edits/{stem}.png" for stem in stems)}
    assert len(out.splitlines()) == 8  # a line for the file, a line for what the words ask for
    assert [read_provenance(f"edits/{stem}.png").get("index", 0) for stem in stems[:4]] == [0, 1, 2, 3]
    code, out, _ = run("replay", "edits/a-cat-on-a-beach-at-night.png")
    assert (code, out) == (0, "edits/a-cat-on-a-beach-at-night.png  every pixel is the same\n")


def test_invert_once_edit_for_ever(here: Path, run: Run):
    options = ("--method", "null-text", "--inner-steps", "2", "--steps", "2")
    code, out, _ = run("invert", "photo.png", "--prompt", CAT, *options, "--out", "photo.source", "--sheet")
    assert (code, out) == (0, f"photo.source  {CAT}\n")
    code, _, err = run("edit", "photo.source", "--target", CAT, "--reweight", "beach=2", "--out", "more.png")
    assert code == 0, err
    assert "both prompts say the same" not in err
    made = read_provenance("more.png")
    assert made["source"]["saved"]["path"] == "photo.source"
    assert made["source"]["method"] == "null_text"
    assert made["options"] == {"reweight": {"beach": 2.0}}
    assert names(here) == {"photo.png", "photo.source", "photo.sheet.png", "more.png"}
    assert run("replay", "more.png")[0] == 0


@pytest.mark.slow
@pytest.mark.parametrize("method", ["straight", "direct"])
def test_invert_and_record_and_an_edit_computes_less(here: Path, run: Run, method: str):
    start = ("invert", "photo.png", "--prompt", CAT, "--method", method, "--steps", "3")
    assert run(*start, "--out", "plain.source")[0] == 0
    code, out, err = run(*start, "--record", "--out", "photo.source")
    assert (code, out, err) == (0, f"photo.source  {CAT}\n", "")
    assert Path("photo.source").stat().st_size > Path("plain.source").stat().st_size
    rows: list[int] = []
    for name in ("plain", "photo"):
        code, out, err = run("edit", f"{name}.source", "--target", DOG, "--out", f"{name}-dog.png", "--json")
        assert code == 0, err
        rows.append(json.loads(out)["outputs"][0]["report"]["unet_rows"])
        assert run("replay", f"{name}-dog.png")[:2] == (0, f"{name}-dog.png  every pixel is the same\n")
    assert rows[1] < rows[0]
    assert read_provenance("photo-dog.png")["source"]["recording"] == {}
    assert "recording" not in read_provenance("plain-dog.png")["source"]


@pytest.mark.slow
def test_what_does_not_fit_into_the_memory_of_a_recording_is_told(
    here: Path, run: Run, monkeypatch: pytest.MonkeyPatch
):
    start = ("invert", "photo.png", "--prompt", CAT, "--steps", "3", "--out", "photo.source")
    monkeypatch.setattr(recording, "_MB", 1000)
    code, _, err = run(*start, "--record", "--record-memory", "40")
    assert code == 0 and "of the steps are recorded in 40 MB" in err
    code, out, _ = run(*start, "--record", "--record-memory", "1", "--json")
    assert code == 0 and json.loads(out)["notices"][0].startswith("0% of the steps")
    assert run("edit", "photo.source", "--target", DOG, "--out", "dog.png")[0] == 0
    code, _, err = run(*start, "--record-memory", "1")
    assert code == 2 and "give both, or neither" in err
    code, _, err = run(*start, "--record", "--record-memory", "0")
    assert code == 2 and "'memory'" in err


def test_heatmap_of_a_word(here: Path, run: Run):
    code, out, _ = run("heatmap", "photo.png", "--prompt", CAT, "--word", "cat", "--out", "heat.png")
    assert (code, out) == (0, f"heat.png  cat in: {CAT}\n")
    assert load("heat.png").size == (32, 32)
    run("invert", "photo.png", "--prompt", CAT, "--out", "photo.source")
    assert run("heatmap", "photo.source", "--word", "cat", "--out", "same.png")[0] == 0
    code, _, err = run("replay", "heat.png")
    assert code == 2 and "cannot be replayed" in err


@pytest.mark.slow
@pytest.mark.parametrize("method", inversion.METHODS)
def test_replay_makes_the_same_pixels_whatever_the_inversion(here: Path, run: Run, method: str):
    options = ("--inversion", method, "--steps", "2", "--guidance-scale", "2", "--blend-start", "0.5")
    code, _, err = run(*EDIT, *options)
    assert code == 0, err
    code, out, err = run("replay", "dog.png", "--out", "again.png")
    assert (code, out) == (0, "dog.png  every pixel is the same\n"), err
    assert load("again.png").tobytes() == load("dog.png").tobytes()
    assert run("replay", "again.png")[0] == 0


LONG = "a cat on a beach and a tree " * 11 + "next to a house"  # 92 tokens: four chunks of pocket's context
SHEEP = LONG.replace("house", "sheep")
ON_POCKET = ("--model", "pocket", "--steps", "2")


def chunks(picture: str) -> int:
    return read_provenance(picture)["model"].get("chunks", 1)


@pytest.mark.slow
def test_a_long_prompt_goes_through_every_command(here: Path, run: Run):
    code, _, err = run("generate", LONG, *ON_POCKET, "--out", "cat.png")
    assert code == 2 and "at most 30 tokens, got 92" in err and "4 chunks (--long-prompt" in err
    long = (*ON_POCKET, "--long-prompt")
    assert run("generate", LONG, *long, "--out", "cat.png")[0] == 0
    code, out, err = run("edit", "cat.png", "--target", SHEEP, *long, "--out", "sheep.png")
    assert code == 0 and "next to a [house → sheep]" in out, err
    assert load("cat.png").tobytes() != load("sheep.png").tobytes()
    for picture in ("cat.png", "sheep.png"):
        assert chunks(picture) == 4
        assert run("replay", picture)[:2] == (0, f"{picture}  every pixel is the same\n")
    assert run("heatmap", "cat.png", "--word", "house", *long, "--out", "heat.png")[0] == 0
    told = ("--target", SHEEP, "--method", "prompt-to-prompt", "--inversion", "direct", "--word", "house")
    code, out, err = run("compare", "cat.png", *told, *long, "--out", "all/")
    assert code == 0 and "pocket judges by as much of a target" in err, err
    assert chunks(str(next(Path("all").glob("*.direct.*.png")))) == 4


@pytest.mark.slow
def test_a_long_prompts_source_is_edited_in_as_many_chunks(here: Path, run: Run):
    long = ("--model", "pocket", "--long-prompt")
    code, _, err = run("invert", "photo.png", "--prompt", LONG, *long, "--steps", "2", "--out", "long.source")
    assert code == 0, err
    edit = ("edit", "long.source", "--target", SHEEP, "--out", "sheep.png")
    code, _, err = run(*edit, "--model", "pocket")
    assert code == 2 and "got one with 4: use model.with_chunks(4), on the command line --long-prompt" in err
    assert run(*edit, *long)[0] == 0 and chunks("sheep.png") == 4
    assert run("replay", "sheep.png")[:2] == (0, "sheep.png  every pixel is the same\n")
    assert run("heatmap", "long.source", "--word", "house", *long, "--out", "heat.png")[0] == 0
    # A short prompt's source stays in one chunk, whatever is asked for.
    assert run("invert", "photo.png", "--prompt", CAT, *long, "--steps", "2", "--out", "short.source")[0] == 0
    assert run("edit", "short.source", "--target", DOG, "--model", "pocket", "--out", "dog.png")[0] == 0
    code, _, err = run("edit", "short.source", "--target", SHEEP, *long, "--out", "no.png")
    assert (
        code == 2 and "fit the chunks of short.source (1), got one that needs 4: shorten it, or edit" in err
    )


@pytest.mark.parametrize(
    ("command", "needed"),
    [
        (("generate", CAT), 1),
        (("generate", CAT, "--negative-prompt", "night " * 40), 2),
        (("edit", "photo.png", "--source", CAT, "--target", DOG), 1),
        (("edit", "photo.png", "--source", CAT, "--target", "a dog " * 31), 3),
        (("edit", "photo.png", "--source", "a cat " * 31, "--target", "a dog"), 3),
        (("edit", "photo.png", "--source", CAT, "--target", DOG, "--negative-prompt", "night " * 40), 2),
    ],
)
def test_as_many_chunks_as_the_longest_prompt_of_a_command_needs(
    command: tuple[str, ...], needed: int, here: Path, run: Run
):
    code, _, err = run(*command, "--long-prompt", "--out", "out.png")
    assert code == 0 and chunks("out.png") == needed, err


def test_replay_says_what_differs(here: Path, run: Run, folder: Path, tmp_path: Path):
    run("generate", CAT, "--out", "cat.png", "--guidance-scale", "1")
    record = read_provenance("cat.png")
    record["versions"]["torch"] = "1.0"
    record["pixels"] = "0" * 64
    from wordbrush.images import save_png

    save_png(load("cat.png"), "old.png", record)
    code, out, _ = run("replay", "old.png", "--json")
    assert code == 1
    told = json.loads(out)
    assert told["same"] is False and told["differences"] == [f"torch: 1.0 then, {made_with('torch')} now"]


def made_with(library: str) -> str:
    from importlib.metadata import version

    return version(library)


def test_methods_lists_every_method_and_its_options(run: Run):
    _, out, _ = run("methods")
    for name, method in METHODS.items():
        assert name.replace("_", "-") in out and method.summary in out
        _, own, _ = run("methods", name)
        for option in method.options().model_fields:
            assert f"--{option.replace('_', '-')} " in own


def test_models_lists_the_built_in_one_with_its_figures_and_the_hubs(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    weights, cache = tmp_path / "weights", tmp_path / "hub"
    snapshot = cache / "models--someone--diffusion" / "snapshots" / ("0" * 40)
    for path in (weights, snapshot):
        path.mkdir(parents=True)
        (path / "model_index.json").write_text("{}")
    (weights / "README.md").write_text("# pocket\n| measured | |\n|---|---|\n| right object | 97 % |\n")
    monkeypatch.setattr("wordbrush.model.POCKET", weights)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(cache))
    _, out, _ = run("models")
    assert "right object  97 %" in out and "someone/diffusion" in out
    pocket, other = json.loads(run("models", "--json")[1])["models"]
    assert (pocket["name"], pocket["figures"]) == ("pocket", {"right object": "97 %"})
    assert other["name"] == "someone/diffusion"


# Flags ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", METHODS)
def test_options_read_from_the_file_are_those_of_the_method(name: str):
    module = METHODS[name].load()
    reads = getattr(module, "invert", None) or module.edit
    kind = get_type_hints(reads).get("options") or module.Options
    assert METHODS[name].options() is kind


@pytest.mark.parametrize(
    ("typed", "kept"),
    [
        (["--reweight", "night=3", "--reweight", "beach=-1"], {"reweight": {"night": 3.0, "beach": -1.0}}),
        (["--word-steps", "dog=0.2,0.6"], {"word_steps": {"dog": [0.2, 0.6]}}),
        (["--cross-replace-steps", "0.5"], {"cross_replace_steps": 0.5}),
        (["--self-replace-steps", "0.1, 0.5"], {"self_replace_steps": [0.1, 0.5]}),
        (["--local-blend", "off"], {"local_blend": "off"}),
        (["--local-blend", "cat"], {"local_blend": ["cat"]}),
        (
            ["--local-blend", "cat,dog", "--spare", "beach"],
            {"local_blend": ["cat", "dog"], "spare": ["beach"]},
        ),
        (["--word-edit", "auto"], {}),
        (["--option-file", "empty.toml"], {}),
    ],
)
def test_what_is_typed_becomes_what_the_options_mean(
    here: Path, run: Run, typed: list[str], kept: dict[str, Any]
):
    (here / "empty.toml").touch()
    prompts = ("--source", "a cat on a beach at night", "--target", "a dog on a beach at night")
    code, _, err = run("edit", "photo.png", *prompts, "--out", "dog.png", *typed)
    assert code == 0, err
    assert read_provenance("dog.png").get("options", {}) == kept


def test_help_shows_what_values_look_like():
    options = editing.METHODS["prompt_to_prompt"].options().model_fields
    looks = {name: flags.metavar(field.annotation) for name, field in options.items()}
    assert looks["word_edit"] == "auto|replace|refine" and looks["local_blend"] == "auto|off|TEXT,…"
    assert looks["word_steps"] == "TEXT=X|X,X" and looks["self_limit"] == "N"
    assert flags.describe(options["blend_start"]).endswith("(≥ 0, ≤ 1)")


def test_flags_outweigh_the_option_file(here: Path, run: Run):
    (here / "edit.toml").write_text("steps = 2\nblend-start = 0.5\nspare = ['beach']\n")
    arguments = ("--source", CAT, "--target", DOG, "--option-file", "edit.toml", "--blend-start", "0.1")
    assert run("edit", "photo.png", *arguments, "--out", "dog.png")[0] == 0
    made = read_provenance("dog.png")
    assert made["options"] == {"blend_start": 0.1, "spare": ["beach"]}
    assert made["source"]["options"] == {"steps": 2}


@pytest.mark.parametrize(
    "command",
    ["", "generate", "edit", "invert --method null-text", "heatmap", "replay", "batch", "methods", "models"],
)
def test_help_does_not_wait_for_torch(command: str):
    code = "import sys; from wordbrush.cli import main; main(); assert 'torch' not in sys.modules"
    told = subprocess.run(
        [sys.executable, "-c", code, *command.split(), "--help"], capture_output=True, text=True
    )
    assert told.returncode == 0, told.stderr
    assert "Usage: wordbrush" in told.stdout and told.stderr == ""
    assert ("--inner-steps" in told.stdout) == ("null-text" in command)
    assert ("--reweight" in told.stdout) == (command == "edit")


# What is shown ----------------------------------------------------------------------------------------------


def test_json_is_one_line_and_the_rest_goes_to_stderr(here: Path, run: Run):
    Image.new("RGBA", (160, 32)).save("wide.png")
    prompts = ("--source", CAT, "--target", DOG, "--target", CAT)
    code, out, err = run("edit", "wide.png", *prompts, "--out", "edits", "--json", "--sheet")
    assert code == 0 and out.count("\n") == 1
    told = json.loads(out)
    assert told["sheet"] == "edits/sheet.png"
    first, second = told["outputs"]
    assert (
        first["out"] == "edits/a-dog-on-a-beach.png"
        and first["report"]["words"] == "a [cat → dog] on a beach"
    )
    seen = "of wide.png (160 × 32) the model sees 96 × 32 pixels at (32, 0); the rest stays as it is"
    assert seen in second["report"]["notices"]
    for notice in ("transparency was filled", "the model sees", "both prompts say the same"):
        assert err.count(notice) == 1


def test_a_picture_that_wordbrush_made_says_what_it_shows(here: Path, run: Run):
    run("generate", CAT, "--out", "cat.png")
    code, _, err = run("edit", "cat.png", "--target", DOG, "--out", "dog.png")
    assert code == 0 and f'cat.png says that it was made from "{CAT}"' in err
    code, _, err = run("heatmap", "dog.png", "--word", "dog", "--out", "heat.png")
    assert code == 0 and f'dog.png says that it was made from "{DOG}"' in err


def test_a_prompt_does_not_command_the_terminal(here: Path, run: Run):
    run("generate", f"{CAT}\x1b[2J\x9b1m\r\nnext", "--out", "cat.png")
    code, out, err = run("edit", "cat.png", "--target", DOG, "--out", "dog.png")
    assert code == 0 and f"{CAT}�[2J�1m next" in err and err.count("\n") == len(err.splitlines())
    told = run("invert", "cat.png", "--out", "cat.source", "--json")[1]
    assert "\x9b" not in told and "\x1b" not in told
    assert json.loads(told)["prompt"] == f"{CAT}\x1b[2J\x9b1m\r\nnext"
    assert f"{CAT}�[2J�1m�\nnext" in run("invert", "cat.png", "--out", "cat.source")[1]


def test_a_preview_stands_beside_the_output_while_it_is_made(
    here: Path, run: Run, monkeypatch: pytest.MonkeyPatch
):
    seen: list[tuple[int, int]] = []
    monkeypatch.setattr(
        "wordbrush.images.save_png",
        lambda image, path, *_, **__: seen.append(image.size) if path.name == "cat.preview.png" else None,
    )
    assert run("generate", CAT, "--steps", "5", "--preview", "2", "--out", "cat.png")[0] == 0
    assert seen == [(32, 32)] * 2


def test_a_preview_never_takes_the_place_of_a_file(here: Path, run: Run):
    (here / "cat.preview.png").write_bytes(b"somebody's")
    code, _, err = run("generate", CAT, "--preview", "1", "--out", "cat.png")
    assert code == 2 and "cat.preview.png exists, and a preview would overwrite it" in err
    assert (here / "cat.preview.png").read_bytes() == b"somebody's"
    assert run("generate", CAT, "--steps", "1", "--out", "cat.png")[0] == 0
    for theirs in ("cat.png", "photo.png"):  # not even one that wordbrush made
        (here / "cat.preview.png").write_bytes((here / theirs).read_bytes())
        code, _, err = run("generate", CAT, "--preview", "1", "--out", "cat.png")
        assert code == 2 and "cat.preview.png exists" in err


@pytest.mark.slow
def test_a_preview_that_a_killed_command_left_is_in_nobodys_way(here: Path, folder: Path, run: Run):
    command = ["generate", CAT, "--preview", "1", "--out", "cat.png", "--model", str(folder)]
    with subprocess.Popen([sys.executable, "-m", "wordbrush", *command, "--steps", "1000"]) as process:
        deadline = time.monotonic() + 120
        while not (here / "cat.preview.png").exists() and time.monotonic() < deadline:
            time.sleep(0.02)
        process.kill()
    assert (here / "cat.preview.png").exists()
    code, _, err = run(*command, "--steps", "1")
    assert code == 0, err
    assert names(here) == {"photo.png", "cat.png"}


# What goes wrong --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("tokens", "message"),
    [
        (("edit", "photo.png", "--target", DOG, "--out", "dog.png"), "what photo.png shows, as in --source"),
        (("edit", "none.png", *EDIT[2:]), "there is none at none.png"),
        (("edit", "notes.toml", *EDIT[2:]), "notes.toml is not a picture that can be read"),
        (("edit", "half.png", *EDIT[2:]), "half.png is damaged or cut short"),
        (("edit", "none.source", "--target", DOG, "--out", "dog.png"), "there is no source file none.source"),
        (
            ("edit", "none.source", "--target", DOG, "--inversion", "straight", "--out", "dog.png"),
            "already has its prompt and its steps: leave --inversion out",
        ),
        (
            ("heatmap", "none.source", "--word", "cat", "--inversion", "ddim", "--out", "h.png"),
            "leave --inversion out",
        ),
        (
            (*EDIT, "--noise-seed", "3"),
            "--noise-seed is an option of --inversion straight or --inversion edit-friendly: give that as well",
        ),
        ((*EDIT, "--mask-threshold=0.3"), "--mask-threshold is an option of --method mask-based"),
        (
            ("invert", "photo.png", "--prompt", CAT, "--noise-seed", "3", "--out", "c.source"),
            "--noise-seed is an option of --method straight",
        ),
        (("generate", CAT, "--noise-seed", "3", "--out", "c.png"), "Unknown option: --noise-seed"),
        (("edit", "none.source", *EDIT[2:]), "already has its prompt and its steps: leave --source out"),
        (("edit", "none.source", "--target", DOG, "--steps", "3", "--out", "dog.png"), "leave 'steps' out"),
        ((*EDIT[:5], " ", *EDIT[6:]), "expected --target to say what the picture shows"),
        (("edit", "photo.png", "--source", "", *EDIT[4:]), "expected --source to say what photo.png shows"),
        ((*EDIT, "--reweight", "beech=2"), "has no 'beech'; did you mean 'beach'?"),
        ((*EDIT, "--reweight", "beach"), "option 'reweight': expected TEXT=X, got 'beach'"),
        ((*EDIT, "--reweight", "beach=much"), "option 'reweight.beach': expected a valid number"),
        ((*EDIT, "--spare", "tree"), "has no 'tree'"),
        ((*EDIT, "--steps", "0"), "option 'steps': expected greater than or equal to 1, got '0'"),
        ((*EDIT, "--guidance-scale", "nan"), "option 'guidance_scale': expected a finite number"),
        ((*EDIT, "--rewieght", "beach=2"), "Did you mean --reweight?"),
        ((*EDIT, "--option-file", "notes.toml"), "unknown option 'blend_strat'; did you mean 'blend_start'?"),
        ((*EDIT, "--option-file", "none.toml"), "cannot read none.toml: No such file"),
        ((*EDIT, "--method", "p2p"), "there is no editing method 'p2p'"),
        ((*EDIT, "--method", "prompt-to-promt"), "did you mean 'prompt-to-prompt'?"),
        ((*EDIT, "--method", "null-text"), "expected --inversion null-text"),
        ((*EDIT, "--model", "pockt"), "no model 'pockt'; did you mean 'pocket'?"),
        ((*EDIT, "please"), "unexpected arguments: please; put quotes around text with spaces"),
        (
            ("generate", "a", "cat", "--out", "cat.png"),
            "unexpected arguments: cat; put quotes around text with spaces",
        ),
        (("edit", ".", *EDIT[2:]), "expected a picture file, but . is a folder"),
        ((*EDIT, "--inversion", "nulltext"), "did you mean 'null_text'?"),
        ((*EDIT, "--inversion", ""), "there is no inversion method ''"),
        (("invert", "photo.png", "--method", "", "--out", "p.source"), "there is no inversion method ''"),
        (("evaluate", "bench", "--seed", "-1", "--out", "o"), "Must be >= 0"),
        (("evaluate", "directional", "--pocket", "1", "--seed", "-1", "--out", "o"), "Must be >= 0"),
        (("edit", "a\0.png", *EDIT[2:]), "expected arguments without a character 0, got 'a\\x00.png'"),
        ((*EDIT, "--device", "abacus"), "there is no device 'abacus' here; there is cpu"),
        ((*EDIT, "--model", "no/such/model"), "no model 'no/such/model'"),
        ((*EDIT, "--preview", "0"), "Must be >= 1"),
        ((*EDIT, "--preview", "1.5"), "expected a whole number, got '1.5'"),
        ((*EDIT, "--steps", "2.5"), "option 'steps': expected a valid integer"),
        (("generate", CAT, "--seed", "1.5", "--out", "cat.png"), "expected a whole number, got '1.5'"),
        (("generate", CAT, "--steps", "2.5", "--out", "cat.png"), "expected a whole number, got '2.5'"),
        (("generate", CAT, "--width", "1e3", "--out", "cat.png"), "expected a whole number, got '1e3'"),
        ((*EDIT[:-1], "photo.png"), "photo.png is an input and would be overwritten"),
        (
            (*EDIT[:-1], "dog.bmp"),
            "expected --out to end in .png or .jpg or .jpeg or .tif or .tiff or .webp, got dog.bmp",
        ),
        ((*EDIT, "--target", CAT), "2 targets need a folder: expected --out FOLDER/, got dog.png"),
        ((*EDIT[:5], "a dog " * 40, *EDIT[6:]), "nothing would be seen"),
        (("generate", CAT, "--steps", "0", "--out", "cat.png"), "steps"),
        (("generate", CAT, "--guidance-scale", "nan", "--out", "cat.png"), "guidance_scale"),
        (("generate", CAT, "--width", "0", "--out", "cat.png"), "multiples of"),
        (("generate", CAT, "--seed", "9" * 5000, "--out", "cat.png"), "whole number of at most 30 digits"),
        (("generate", CAT, "--steps", "9" * 5000, "--out", "cat.png"), "whole number of at most 30 digits"),
        (("generate", CAT, "--seed", "1" + "0" * 25, "--out", "cat.png"), "option 'seed'"),
        ((*EDIT, "--steps", "9" * 5000), "integer, exceeded maximum size, got '9999"),
        ((*EDIT, "--reweight", "x" * 10**5), "option 'reweight': expected TEXT=X, got"),
        ((*EDIT, "x" * 10**5), "unexpected arguments: xxx"),
        ((*EDIT, *["x"] * 10**4), "unexpected arguments: x x"),
        ((*EDIT[:-1], "x" * 10**5 + ".png"), "File name too long"),
        (("edit", "x" * 10**5, *EDIT[2:]), "File name too long"),
        ((*EDIT, "--device", "x" * 10**5), "there is no device 'xxx"),
        (("generate", "a cat\udcff", "--out", "cat.png"), "expected arguments in UTF-8, got 'a cat\\udcff'"),
        (("edit", "\udcff.png", *EDIT[2:]), "expected arguments in UTF-8, got '\\udcff.png'"),
        ((*EDIT[:-1], "\udcff.png"), "expected arguments in UTF-8, got"),
        ((*EDIT, "--option-file", "/dev/zero"), "cannot read /dev/zero: expected a file, got a pipe"),
        ((*EDIT, "--option-file", "."), "cannot read .: expected a file, got a folder"),
        (("evaluate", "bench", "--count", "1" + "0" * 12, "--out", "o"), "Must be <= 100000"),
        (("evaluate", "pie", "p", "--from-pocket", "1" + "0" * 12, "--out", "o"), "Must be <= 100000"),
        (("evaluate", "pie", "p", "--count", "1" + "0" * 12, "--out", "o"), "Must be <= 100000"),
        (("evaluate", "directional", "--pocket", "1" + "0" * 12, "--out", "o"), "Must be <= 100000"),
        (("evaluate", "subjects", "s", "--kid-subset", "1" + "0" * 12, "--out", "o"), "Must be <= 100000"),
        (("generate", CAT, "--width", "100000000", "--out", "cat.png"), "at most 64 times as many pixels"),
        (("generate", CAT, "--width", "1" + "0" * 21, "--out", "cat.png"), "at most 64 times as many pixels"),
        (("generate", "???", "--out", "cat.png"), "says what the picture shows, got '???'"),
        ((*EDIT[:5], "...", *EDIT[6:]), "says what the picture shows, got '...'"),
        ((*EDIT[:3], "?!", *EDIT[4:]), "says what the picture shows, got '?!'"),
        (("generate", CAT, "--out", ""), "expected --out to name the output, got nothing"),
        ((*EDIT[:-1], ""), "expected --out to name the output, got nothing"),
        (("generate", CAT, "--seed", "-1", "--out", "cat.png"), "option 'seed': expected greater"),
        (("generate", CAT, "--out", "notes.toml/cat.png"), "notes.toml is a file, not a folder"),
        ((*EDIT[:-1], "/proc/dog.png"), "cannot write /proc: "),
        (("invert", "photo.png", "--prompt", CAT, "--out", "photo.png"), "expected --out to end in .source"),
        (("heatmap", "photo.png", "--prompt", CAT, "--word", "dog", "--out", "h.png"), "has no 'dog'"),
        (("replay", "photo.png"), "photo.png does not say how it was made"),
        (("methods", "p2p"), "there is no such method 'p2p'"),
        (("edti",), 'Did you mean "edit"?'),
    ],
)
def test_bad_input_is_one_line_and_writes_nothing(
    here: Path, run: Run, tokens: tuple[str, ...], message: str
):
    (here / "notes.toml").write_text("blend_strat = 0.5")
    (here / "half.png").write_bytes((here / "photo.png").read_bytes()[:200])
    before = {path: (here / path).read_bytes() for path in names(here)}
    code, out, err = run(*tokens)
    assert (code, out) == (2, "")
    assert err.startswith("error: ") and err.count("\n") == 1 and message in err
    assert len(err) < 2100
    assert {path: (here / path).read_bytes() for path in names(here)} == before


@pytest.mark.parametrize(
    ("flags_", "message"),
    [
        (("--reweight", "wrong=3"), "has no 'wrong'"),
        (("--word-steps", "wrong=0.4"), "has no 'wrong'"),
        (("--local-blend", "wrong"), "has no 'wrong'"),
        (("--spare", "wrong"), "has no 'wrong'"),
        (("--word-edit", "replace", "--target", f"{DOG} at night"), "use a refine edit"),
    ],
)
def test_what_is_wrong_with_a_word_does_not_wait_for_the_inversion(
    here: Path, run: Run, monkeypatch: pytest.MonkeyPatch, flags_: tuple[str, ...], message: str
):
    def wait(*_: object, **__: object) -> None:
        raise AssertionError("the UNet was called")

    monkeypatch.setattr("diffusers.UNet2DConditionModel.forward", wait)
    edit = (*EDIT[:-1], "edits/")
    assert "the UNet was called" in run(*edit)[2]  # the control: nothing is wrong with these words
    code, _, err = run(*edit, *flags_)
    assert code == 2 and message in err


def test_a_disk_that_fills_up_leaves_none_of_several_pictures(
    here: Path, run: Run, monkeypatch: pytest.MonkeyPatch
):
    flushed: list[int] = []

    def fills_up(file: int) -> None:
        flushed.append(file)
        if len(flushed) == 2:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", fills_up)
    code, out, err = run(*EDIT[:-1], "new/folder/", "--target", CAT)
    assert (code, out) == (2, "") and "No space left" in err
    assert [path.name for path in here.iterdir()] == ["photo.png"]


@pytest.mark.parametrize(
    "command",
    [
        ("invert", "photo.png", "--prompt", CAT, "--out", "new/photo.source"),
        ("heatmap", "photo.png", "--prompt", CAT, "--word", "cat", "--out", "new/heat.png"),
    ],
)
def test_a_sheet_that_cannot_be_written_takes_the_result_with_it(
    here: Path, run: Run, monkeypatch: pytest.MonkeyPatch, command: tuple[str, ...]
):
    flushed: list[int] = []

    def fills_up(file: int) -> None:
        flushed.append(file)
        if len(flushed) == 2:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", fills_up)
    code, out, err = run(*command, "--sheet")
    assert (code, out) == (2, "") and "No space left" in err
    assert [path.name for path in here.iterdir()] == ["photo.png"]


@pytest.mark.slow
def test_one_picture_makes_one_source_file(here: Path, run: Run):
    for i in range(6):  # a hash map's order would differ in at least one of them
        run("invert", "photo.png", "--prompt", CAT, "--steps", "1", "--out", f"{i}.source")
    assert len({(here / f"{i}.source").read_bytes() for i in range(6)}) == 1


@pytest.mark.parametrize(
    ("out", "message"),
    [
        ("pipe.png", "it is not a file but a pipe"),
        ("null.png", "it is not a file but a pipe"),
        ("circle.png", "cannot write circle.png"),
        ("a" * 252 + ".png", "File name too long"),
        ("new/" + "a" * 252 + ".png", "File name too long"),
        ("a" * 246 + ".png", "sheet.png: File name too long"),
        ("same.png", "same.sheet.png and same.png are links to one file"),
    ],
)
def test_what_cannot_be_written_is_refused_before_any_work(
    here: Path, run: Run, monkeypatch: pytest.MonkeyPatch, out: str, message: str
):
    os.mkfifo("pipe.png")
    for name, target in (("null", "/dev/null"), ("circle", "circle.png"), ("same.sheet", "same.png")):
        (here / f"{name}.png").symlink_to(target)
    before = sorted(here.iterdir())
    monkeypatch.setattr("wordbrush.cli.options.setup.Setup.load", lambda _: pytest.fail("work has begun"))
    code, _, err = run(*EDIT[:-1], out, "--sheet")
    assert code == 2 and message in err and err.count("\n") == 1
    assert sorted(here.iterdir()) == before


@pytest.mark.parametrize("name", ["😀" * 60, "漢" * 80])
def test_long_names_of_any_script_are_written(here: Path, run: Run, name: str):
    code, _, err = run("generate", CAT, "--steps", "1", "--out", f"{name}.png")
    assert code == 0, err
    assert names(here) == {"photo.png", f"{name}.png"}


@pytest.mark.parametrize("out", ["dog.png", "edits/dog.png"])
def test_replay_finds_relative_paths_from_any_folder(
    here: Path, folder: Path, run: Run, monkeypatch: pytest.MonkeyPatch, out: str
):
    (here / "tiny").symlink_to(folder)
    (here / "photos").mkdir()
    (here / "photo.png").rename(here / "photos" / "cat.png")
    code, _, err = run("edit", "photos/cat.png", *EDIT[2:-1], out, "--model", "tiny")
    assert code == 0, err
    (here / "else").mkdir()
    monkeypatch.chdir(here / "else")
    code, told, err = run("replay", f"../{out}")
    assert (code, told) == (0, f"../{out}  every pixel is the same\n"), err


def test_a_changed_input_cannot_be_replayed(here: Path, run: Run):
    run(*EDIT)
    Image.new("RGB", (32, 32)).save("photo.png")
    code, _, err = run("replay", "dog.png")
    assert code == 2 and "photo.png has changed since" in err
    (here / "photo.png").unlink()
    code, _, err = run("replay", "dog.png")
    assert code == 2 and "it is missing" in err


def test_a_source_of_another_model_is_refused(
    here: Path, run: Run, tiny: Callable[..., Model], tmp_path_factory: pytest.TempPathFactory
):
    other = saved(tiny("sd2"), tmp_path_factory.mktemp("models") / "other")
    run("invert", "photo.png", "--prompt", CAT, "--out", "photo.source")
    edit = ("edit", "photo.source", "--target", DOG, "--out", "dog.png")
    code, _, err = run(*edit, "--model", str(other))
    assert code == 2 and "made with another model" in err and "dog.png" not in names(here)


@pytest.mark.parametrize("found", ["[" * 10**5, '{"a": ' + "9" * 5000 + "}", "[1]", "\0", "a pipe"])
def test_a_models_config_that_is_none_is_one_line(here: Path, run: Run, found: str):
    (here / "model").mkdir()
    path = here / "model" / "model_index.json"
    if found == "a pipe":
        os.mkfifo(path)
    else:
        path.write_text(found)
    code, _, err = run("generate", CAT, "--out", "cat.png", "--model", "model")
    assert code == 2 and "model/model_index.json" in err and len(err) < 300, err


def test_what_nobody_expected_is_no_traceback_either(run: Run, monkeypatch: pytest.MonkeyPatch):
    def fail(*_: object, **__: object) -> None:
        raise ZeroDivisionError("by zero")

    monkeypatch.setattr("wordbrush.cli.commands.listings._built_in", fail)
    code, out, err = run("models")
    assert (code, out) == (1, "") and err.startswith("error: ZeroDivisionError: by zero")
    assert "Traceback" not in err


def test_a_lack_of_memory_is_the_size_s_fault(here: Path, run: Run, monkeypatch: pytest.MonkeyPatch):
    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 10 bytes")

    monkeypatch.setattr("diffusers.UNet2DConditionModel.forward", fail)
    code, _, err = run("generate", CAT, "--out", "cat.png")
    assert code == 2 and "out of memory: make a smaller picture" in err


def test_a_reader_that_has_seen_enough_is_no_error():
    read, write = os.pipe()
    os.close(read)
    told = subprocess.run(
        [sys.executable, "-m", "wordbrush", "methods"], stdout=write, stderr=subprocess.PIPE
    )
    os.close(write)
    assert (told.returncode, told.stderr) == (0, b"")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("asked", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)]
)
def test_a_stop_leaves_nothing_however_often_it_is_asked_for(
    here: Path, folder: Path, asked: signal.Signals, code: int
):
    command = [
        "generate",
        CAT,
        "--steps",
        "1000",
        "--preview",
        "1",
        "--out",
        "out/cat.png",
        "--model",
        str(folder),
    ]
    process = subprocess.Popen(
        [sys.executable, "-m", "wordbrush", *command],
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    preview = here / "out" / "cat.preview.png"
    deadline = time.monotonic() + 120
    while not preview.exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)
    assert preview.exists()
    for _ in range(3):
        process.send_signal(asked)
        time.sleep(0.02)
    _, err = process.communicate(timeout=60)
    assert process.returncode == code
    assert err == "error: stopped; no partial file is left\n"
    assert [path.name for path in here.iterdir()] == ["photo.png"]  # the folder has gone with the preview


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs Linux's full device")
@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_a_full_stdout_is_one_line_too(unbuffered):
    with open("/dev/full", "wb") as full:
        told = subprocess.run(
            [sys.executable, "-m", "wordbrush", "methods", "--json"],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            env=os.environ | {"PYTHONUNBUFFERED": unbuffered},
        )
    assert told.returncode == 2 and told.stderr.startswith("error: cannot write to stdout: No space left")
    assert told.stderr.count("\n") == 1


def test_ctrl_c_may_come_while_modules_are_imported():
    code = """
import signal, sys
class Interrupt:
    def find_spec(self, name, *_):
        if name == "cyclopts":
            signal.raise_signal(signal.SIGINT)
sys.meta_path.insert(0, Interrupt())
from wordbrush.cli import main
sys.exit(main(["methods"]))
"""
    told = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
    )
    assert (told.returncode, told.stdout, told.stderr) == (
        130,
        "",
        "error: stopped; no partial file is left\n",
    )


@pytest.mark.parametrize(("tokens", "is_at_its_end"), [("", True), ("['methods']", False)])
def test_only_a_process_of_its_own_is_not_cleaned_up(tokens: str, is_at_its_end: bool) -> None:
    code = (
        f"import sys, gc; from wordbrush.cli import main; main({tokens}); sys.exit(gc.get_freeze_count() > 0)"
    )
    done = subprocess.run([sys.executable, "-c", code, "methods"], capture_output=True)
    assert done.returncode == is_at_its_end


@pytest.mark.parametrize(
    ("chosen", "expected"),
    [
        ({}, "10000"),
        ({"GOMP_SPINCOUNT": "7"}, "7"),
        ({"OMP_WAIT_POLICY": "active"}, None),
        ({"KMP_BLOCKTIME": "0"}, None),
    ],
)
def test_idle_threads_spin_briefly_unless_the_user_has_chosen(
    monkeypatch: pytest.MonkeyPatch, chosen: dict[str, str], expected: str | None
) -> None:
    monkeypatch.setattr(os, "environ", dict(chosen))
    assert main(["methods"]) == 0
    assert os.environ.get("GOMP_SPINCOUNT") == expected


@pytest.mark.parametrize(
    ("dtype", "slowdown", "is_noted"),
    [("bfloat16", 67.4, True), ("float16", 23.0, True), ("bfloat16", 0.5, False), ("float32", 67.4, False)],
)
def test_a_number_type_that_this_processor_emulates_is_noted(
    run: Run, here: Path, monkeypatch: pytest.MonkeyPatch, dtype: str, slowdown: float, is_noted: bool
) -> None:
    monkeypatch.setattr(setup, "times_float32", lambda _: slowdown)
    code, _, err = run("generate", CAT, "--steps", "1", "--dtype", dtype, "--out", "cat.png")
    assert code == 0
    told = f"note: {dtype} takes {slowdown:.0f} times as long as float32 on this processor, which has no instructions"
    assert err.startswith(told) == is_noted
    assert err.count("\n") == is_noted


def test_a_number_type_is_measured_against_float32() -> None:
    assert 0.2 < setup.times_float32(torch.float32) < 5
    assert setup.times_float32(torch.float64) > 0
