"""`wordbrush batch`, end to end, on a tiny random model in a folder."""

import csv
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from wordbrush.cli import main
from wordbrush.cli.options.setup import Setup
from wordbrush.cli.rows import VERBS
from wordbrush.cli.stopping import Stopped
from wordbrush.images import load, read_provenance, save_png
from wordbrush.model import Model

CAT, DOG = "a cat on a beach", "a dog on a beach"
PHOTO = {"picture": "photo.png", "steps": 2}
EDIT = {"verb": "edit", **PHOTO, "source": CAT}


@pytest.fixture(scope="module")
def folder(
    tmp_path_factory: pytest.TempPathFactory,
    tiny: Callable[..., Model],
    saved: Callable[[Model, Path], Path],
) -> Path:
    return saved(tiny("sd1"), tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder to work in, with one picture file of the model's size in it."""
    monkeypatch.chdir(tmp_path)
    noise = random.Random(0).randbytes(8 * 8 * 3)
    Image.frombytes("RGB", (8, 8), noise).resize((32, 32)).save("photo.png")
    return tmp_path


Run = Callable[..., tuple[int, dict[str, Any], str]]


@pytest.fixture
def batch(here: Path, folder: Path, capsys: pytest.CaptureFixture[str]) -> Run:
    """batch([{…}, …], "--sheet") → exit code, what --json prints, stderr; the rows' model is the tiny one."""

    def batch(rows: Sequence[Any] = (), *flags: str, jobs: str = "jobs.jsonl", out: str = "out"):
        if rows:
            texts = (row if isinstance(row, str) else json.dumps(row) for row in rows)
            Path(jobs).write_text("\n".join(texts))
        model = () if "--model" in flags else ("--model", str(folder))
        capsys.readouterr()
        code = main(["batch", jobs, "--out", out, "--json", *model, *flags])
        told, err = capsys.readouterr()
        return code, json.loads(told) if told else {}, err

    return batch


def counts(told: dict[str, Any]) -> tuple[int, int, int]:
    return told["done"], told["failed"], told["before"]


def ledger(path: str = "out/ledger.jsonl") -> dict[str, dict[str, Any]]:
    rows = [json.loads(line) for line in Path(path).read_text().splitlines()]
    return {row["id"]: row for row in rows}


def names(folder: str) -> set[str]:
    return {str(path.relative_to(folder)) for path in Path(folder).rglob("*") if path.is_file()}


def pixels(path: str | Path) -> bytes:
    return load(path).tobytes()


def timeless(record: dict[str, Any]) -> dict[str, Any]:
    """A record without what a clock has written into it."""
    return {**record, "report": {**record.get("report", {}), "seconds": None}}


# A row is a command -----------------------------------------------------------------------------------------

OPTIONS = {
    "reweight": {"dog": 2, "beach": -0.5},
    "word_steps": {"dog": [0.2, 0.8]},
    "self-replace-steps": [0, 0.5],
}
TYPED = ("--reweight", "dog=2", "--reweight", "beach=-0.5", "--word-steps", "dog=0.2,0.8")
SAME: dict[str, tuple[dict[str, Any], tuple[str, ...]]] = {
    "generate": ({"prompt": "--out=a cat", "seed": 7}, ("generate", "--seed", "7", "--", "--out=a cat")),
    "edit": (
        {"picture": "photo.png", "source": CAT, "target": DOG, **OPTIONS},
        ("edit", "photo.png", "--source", CAT, "--target", DOG, *TYPED, "--self-replace-steps", "0,0.5"),
    ),
    "invert": (
        {"picture": "photo.png", "prompt": CAT, "method": "null-text", "inner-steps": 2},
        ("invert", "photo.png", "--prompt", CAT, "--method", "null-text", "--inner-steps", "2"),
    ),
    "heatmap": (
        {"picture": "photo.png", "prompt": CAT, "word": "cat", "option_file": "options.toml"},
        ("heatmap", "photo.png", "--prompt", CAT, "--word", "cat", "--option-file", "options.toml"),
    ),
    "mask": (
        {"picture": "photo.png", "prompt": CAT, "mask_words": ["cat"]},
        ("mask", "photo.png", "--prompt", CAT, "--mask-words", "cat"),
    ),
    "replay": ({"picture": "made.png"}, ("replay", "made.png")),
}


@pytest.mark.slow
def test_a_row_makes_what_the_command_makes(here: Path, batch: Run, folder: Path) -> None:
    assert SAME.keys() == VERBS.keys()
    (here / "options.toml").write_text("guidance-scale = 2.5")
    model = ("--model", str(folder))
    assert main(["generate", CAT, "--steps", "3", *model, "--out", "made.png"]) == 0
    rows = [
        {"id": verb, "verb": verb, **row, **({"steps": 3} if verb != "replay" else {})}
        for verb, (row, _) in SAME.items()
    ]
    code, told, err = batch([*rows, *({**row, "id": f"{row['id']} again"} for row in rows)])
    assert (code, counts(told)) == (0, (12, 0, 0)), err
    for verb, (_, tokens) in SAME.items():
        steps = ("--steps", "3") if verb != "replay" else ()
        alone = f"alone{VERBS[verb]}"
        assert main([tokens[0], *steps, *model, "--out", alone, *tokens[1:]]) == 0
        for name in (verb, f"{verb}-again"):
            made = f"out/{name}{VERBS[verb]}"
            if verb == "invert":
                assert Path(made).read_bytes() == Path(alone).read_bytes()
            else:
                assert pixels(made) == pixels(alone), verb
                assert timeless(read_provenance(made)) == timeless(read_provenance(alone))


def test_several_targets_share_a_row_and_a_row_may_name_its_file(here: Path, batch: Run) -> None:
    rows = [
        {**EDIT, "target": [DOG, "a cat at night"]},
        {**EDIT, "target": DOG, "out": "mine/dog.png", "sheet": True, "long-prompt": False},
        {**EDIT, "target": [DOG, CAT], "out": "both/"},
    ]
    assert batch(rows)[0] == 0
    assert names("out") == {
        "ledger.jsonl",
        *(f"0001-a-dog-on-a-beach/{name}.png" for name in ("a-dog-on-a-beach", "a-cat-at-night")),
        *("mine/dog.png", "mine/dog.sheet.png"),
        *(f"both/a-{name}-on-a-beach.png" for name in ("dog", "cat")),
    }
    assert ledger()["0001-a-dog-on-a-beach"]["outputs"] == [
        {"path": "0001-a-dog-on-a-beach/a-dog-on-a-beach.png", "text": DOG},
        {"path": "0001-a-dog-on-a-beach/a-cat-at-night.png", "text": "a cat at night"},
    ]


@pytest.mark.slow
def test_csv_makes_what_jsonl_makes(here: Path, batch: Run) -> None:
    rows: list[dict[str, Any]] = [
        {"id": "a", **EDIT, "target": [DOG, "a cat, a dog"], "reweight": {"beach": 2}, "sheet": True},
        {"id": "b", **EDIT, "target": DOG, "negative-prompt": "night"},
        {"id": "c", "verb": "generate", "prompt": CAT, "seed": 3, "steps": 2},
    ]
    assert batch(rows, out="lines")[0] == 0
    columns = dict.fromkeys(name for row in rows for name in row)
    with open("jobs.csv", "w", encoding="utf-8-sig", newline="") as file:
        writer = csv.DictWriter(file, list(columns))
        writer.writeheader()
        for row in rows:
            row = {name: "|".join(value) if isinstance(value, list) else value for name, value in row.items()}
            writer.writerow(row | ({"reweight": "beach=2", "sheet": "true"} if row["id"] == "a" else {}))
    code, told, err = batch(jobs="jobs.csv", out="table")
    assert (code, counts(told)) == (0, (3, 0, 0)), err
    assert names("table") == names("lines")
    for name in names("table") - {"ledger.jsonl"}:
        assert pixels(f"table/{name}") == pixels(f"lines/{name}")


def test_paths_start_at_the_files_folder_and_stay_below_it(here: Path, batch: Run) -> None:
    (here / "deep").mkdir()
    (here / "photo.png").rename(here / "deep" / "photo.png")
    wrong = ("../deep/photo.png", str(here / "deep" / "photo.png"), "", "a\0b", "x" * 5000)
    rows = [{**EDIT, "target": DOG}, *({**EDIT, "picture": path, "target": DOG} for path in wrong[:3])]
    code, told, err = batch(rows, jobs="deep/jobs.jsonl")
    assert (code, counts(told)) == (1, (1, 3, 0))
    assert err.count("expected 'picture' to be below deep, got ") == 3
    assert read_provenance("out/0001-a-dog-on-a-beach.png")["source"]["picture"]["path"] == "deep/photo.png"
    rows = [{**EDIT, "picture": "deep/photo.png", "target": DOG}]
    assert batch(rows, "--root", ".", jobs="deep/jobs.jsonl", out="root")[0] == 0
    code, _, err = batch(rows, "--root", "nowhere", out="none")
    assert (
        code == 2 and "expected --root to be the folder that paths in rows start from, got 'nowhere'" in err
    )


@pytest.mark.slow
def test_each_model_is_loaded_once_and_only_the_users_own_may_be_fetched(
    here: Path, batch: Run, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (here / "tiny").symlink_to(folder)
    loaded: list[tuple[str, str | None, bool]] = []
    fresh = Setup.fresh

    def load(setup: Setup, *, fetch: bool) -> Model:
        loaded.append((setup.model, setup.dtype, fetch))
        return fresh(setup, fetch=fetch)

    monkeypatch.setattr(Setup, "fresh", load)
    row = {"verb": "generate", "prompt": CAT, "steps": 1}
    rows = [row, {**row, "dtype": "float64"}, {**row, "seed": 1}, {**row, "dtype": "float64", "seed": 1}]
    assert batch([*rows, {**row, "model": str(folder)}])[0] == 0
    assert loaded == [(str(folder), None, True), (str(folder), "float64", True)]
    code, _, err = batch([{**row, "model": "no/such"}, {**row, "model": "tiny"}], out="other")
    assert code == 1 and "no model 'no/such' on this machine, and nothing is fetched here" in err
    assert "expected 'model' to be below ., got 'tiny'" in err
    before = len(loaded)
    code, _, err = batch([row, row | {"seed": 1}], "--model", "pockt", out="none")
    assert code == 2 and "pockt" in err and len(loaded) == before + 1
    assert not Path("none").exists()  # no row is to blame


def test_a_replay_does_not_decide_in_how_many_threads_the_next_row_runs(
    here: Path, batch: Run, folder: Path
) -> None:
    assert main(["generate", CAT, "--steps", "1", "--model", str(folder), "--out", "made.png"]) == 0
    record = read_provenance("made.png") | {"threads": 3}
    save_png(load("made.png"), here / "made.png", record)
    assert batch([{"verb": "replay", "picture": "made.png"}])[0] == 0
    assert torch.get_num_threads() == 1


# Rows that fail ---------------------------------------------------------------------------------------------

BROKEN: list[tuple[Any, str]] = [
    ("nonsense", "expected JSON, got 'nonsense'"),
    (
        {"picture": "photo.png"},
        "expected 'verb' to name a command that makes a file, got None; there is generate,",
    ),
    ({"verb": "edti"}, "got 'edti'; did you mean 'edit'?"),
    ({"verb": ["edit"]}, "expected 'verb' to name a command"),
    ({"verb": "compare", "picture": "photo.png"}, "expected 'verb' to name a command that makes a file"),
    (
        {**EDIT, "target": DOG, "rewieght": {"dog": 2}},
        "unknown name 'rewieght' in a row of 'edit'; did you mean 'rew",
    ),
    ({**EDIT, "target": DOG, "help": True}, "unknown name 'help'"),
    ({**EDIT, "target": DOG, "json": True}, "unknown name 'json'"),
    ({**EDIT, "target": DOG, "method": "direct"}, "direct is an inversion, not an editing method"),
    ({**EDIT, "target": DOG, "steps": "many"}, "option 'steps': expected a valid integer"),
    ({**EDIT, "target": DOG, "steps": 2.5}, "option 'steps': expected a valid integer"),
    ({**EDIT, "target": [DOG, {"a": 1}]}, "expected 'target' to be text, a number, or a list or a mapping"),
    ({**EDIT, "target": {"a": {"b": 1}}}, "expected 'target' to be text"),
    ({**EDIT, "target": ""}, "expected --target to say what the picture shows, got nothing"),
    (EDIT, "--target"),
    ({**EDIT, "target": DOG, "sheet": "perhaps"}, "perhaps"),
    ({"verb": "generate", "prompt": ["a cat", "a dog"]}, "unexpected arguments: a dog"),
    ({"verb": "generate", "prompt": CAT, "seed": 1.5}, "expected a whole number, got '1.5'"),
    (
        {**EDIT, "picture": "none.png", "target": DOG},
        "expected a picture file, but there is none at none.png",
    ),
    ({**EDIT, "target": DOG, "out": "../dog.png"}, "expected 'out' to be below out, got '../dog.png'"),
    ({**EDIT, "target": DOG, "out": "/tmp/dog.png"}, "expected 'out' to be below out"),
    ({**EDIT, "target": DOG, "out": "dog.source"}, "expected --out to end in"),
    ({**EDIT, "target": DOG, "out": "sheets/1.png"}, "is written by the sheets of all results"),
    ({**EDIT, "target": DOG, "out": "good.png"}, "out/good.png is written by line 1: choose another 'out'"),
    ({**EDIT, "target": [DOG, CAT], "out": "GOOD.png/"}, "is written by line 1"),
    ({**EDIT, "target": DOG, "out": "good.sheet.png"}, "is written by line 1"),
    ({**EDIT, "target": DOG, "option_file": "../x.toml"}, "expected 'option_file' to be below ."),
]


@pytest.mark.parametrize(("row", "message"), BROKEN)
def test_a_broken_row_is_reported_before_any_work_and_stops_none(
    here: Path, batch: Run, monkeypatch: pytest.MonkeyPatch, row: Any, message: str
) -> None:
    good = {"id": "good", "verb": "generate", "prompt": CAT, "steps": 1}
    fresh = Setup.fresh

    def load(setup: Setup, *, fetch: bool) -> Model:
        assert len(ledger()) == 1  # all are checked before
        return fresh(setup, fetch=fetch)

    monkeypatch.setattr(Setup, "fresh", load)
    code, told, err = batch([good, row])
    assert (code, counts(told)) == (1, (1, 1, 0))
    assert err.startswith("error: line 2, 0002") and message in err and err.count("\n") == 1
    (failure,) = told["failures"]
    assert failure["line"] == 2 and message in failure["error"]
    entry = ledger()[failure["id"]]
    assert (entry["status"], entry["outputs"]) == ("failed", []) and entry["error"] == failure["error"]
    assert names("out") == {"ledger.jsonl", "good.png"}


def test_no_row_changes_what_another_reads(here: Path, batch: Run) -> None:
    rows = [{**EDIT, "target": DOG, "out": "photo.png"}, {**EDIT, "target": DOG}]
    before = Path("photo.png").read_bytes()
    code, _, err = batch(rows, out=".")
    assert code == 1 and "photo.png is what line 1 reads, and jobs run in any order" in err
    assert Path("photo.png").read_bytes() == before and "0002-a-dog-on-a-beach.png" in names(".")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("raised", "said"),
    [
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried"), "out of memory"),
        (MemoryError(), "out of memory"),
        (OSError(28, "No space left on device"), "No space left"),
        (ZeroDivisionError("by zero"), "ZeroDivisionError: by zero (an error in wordbrush"),
    ],
)
def test_whatever_a_row_raises_the_next_is_done(
    here: Path, batch: Run, monkeypatch: pytest.MonkeyPatch, raised: Exception, said: str
) -> None:
    from diffusers import UNet2DConditionModel

    forward, calls = UNet2DConditionModel.forward, 0

    def fail(*args: Any, **kwargs: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == 2:
            raise raised
        return forward(*args, **kwargs)

    monkeypatch.setattr("diffusers.UNet2DConditionModel.forward", fail)
    row = {"verb": "generate", "prompt": CAT, "steps": 2}
    code, told, err = batch([row, {**row, "seed": 1}])
    assert (code, counts(told)) == (1, (1, 1, 0)) and said in err
    assert batch()[1]["done"] == 0  # a failure is not tried again for ever
    assert "as before; --retry-failed tries again" in batch()[2]
    code, told, _ = batch((), "--retry-failed")
    assert (code, counts(told)) == (0, (1, 0, 1))
    assert names("out") == {"ledger.jsonl", "0001-a-cat-on-a-beach.png", "0002-a-cat-on-a-beach.png"}


def test_a_replay_with_other_pixels_has_failed(here: Path, batch: Run, folder: Path) -> None:
    assert main(["generate", CAT, "--steps", "1", "--model", str(folder), "--out", "made.png"]) == 0
    save_png(load("made.png"), here / "made.png", read_provenance("made.png") | {"pixels": "0" * 64})
    code, _, err = batch([{"verb": "replay", "picture": "made.png"}])
    assert code == 1 and "made.png the pixels differ" in err


@pytest.mark.parametrize(
    ("rows", "flags", "message"),
    [
        ((), (), "cannot read jobs.jsonl: No such file"),
        ((" ",), (), "expected at least one job, got none"),
        (({"id": "a"}, {"id": "a"}), (), "got 'a' in line 1 and in line 2"),
        (({},), ("--shard", "0/2"), "expected --shard as which/of how many, from 1/4 to 4/4, say, got '0/2'"),
        (({},), ("--shard", "3/2"), "expected --shard as"),
        (({},), ("--shard", "half"), "expected --shard as"),
        (({},), ("--out", " "), "expected --out to say where the results go"),
        (({},), ("--out", "photo.png"), "photo.png is a file, not a folder"),
    ],
)
def test_what_is_no_batch_is_refused(
    here: Path, batch: Run, rows: tuple[Any, ...], flags: tuple[str, ...], message: str
) -> None:
    out = "out" if "--out" not in flags else flags[1]
    code, _, err = batch(rows, *(flags if "--out" not in flags else ()), out=out)
    assert code == 2 and message in err and err.count("\n") == 1
    assert names(".") <= {"photo.png", "jobs.jsonl"}


# Going on ---------------------------------------------------------------------------------------------------

ROWS = [{"verb": "generate", "prompt": CAT, "steps": 1, "seed": seed} for seed in range(5)]


@pytest.mark.slow
def test_only_what_has_changed_is_done_again(here: Path, batch: Run) -> None:
    rows = [{"id": "a", **EDIT, "target": DOG}, {"id": "b", **ROWS[0]}, {"id": "c", **ROWS[1]}]
    assert counts(batch(rows)[1]) == (3, 0, 0)
    assert counts(batch(rows[::-1])[1]) == (0, 0, 3)
    rows[1]["seed"] = 7
    assert counts(batch(rows)[1]) == (1, 0, 2)
    Image.new("RGB", (32, 32)).save("photo.png")
    before = pixels("out/a.png")
    assert counts(batch(rows)[1]) == (1, 0, 2) and pixels("out/a.png") != before
    Path("out/c.png").unlink()
    assert counts(batch(rows)[1]) == (1, 0, 2)
    assert counts(batch(rows, "--device", "cpu")[1]) == (0, 0, 3)  # another machine is no other job
    assert counts(batch(rows, "--dtype", "float64")[1]) == (3, 0, 0)
    rows[2]["out"] = "d.png"
    assert counts(batch(rows, "--dtype", "float64")[1]) == (1, 0, 2) and "d.png" in names("out")


@pytest.mark.slow
def test_shards_share_the_rows_among_them(here: Path, batch: Run) -> None:
    assert counts(batch(ROWS, out="whole")[1]) == (5, 0, 0)
    made: list[set[str]] = []
    for number in (1, 2, 3):
        before = names("out") if made else set()
        code, told, _ = batch(ROWS, "--shard", f"{number}/3")
        assert code == 0 and told["before"] == 0
        made.append({name for name in names("out") - before if name.endswith(".png")})
    assert [sorted(int(name[:4]) for name in part) for part in made] == [[1, 4], [2, 5], [3]]
    assert names("out") - {f"ledger-{i}-of-3.jsonl" for i in (1, 2, 3)} == names("whole") - {"ledger.jsonl"}
    for name in set().union(*made):
        assert pixels(f"out/{name}") == pixels(f"whole/{name}")
    assert counts(batch(ROWS)[1]) == counts(batch(ROWS, out="whole")[1]) == (0, 0, 5)
    assert counts(batch(ROWS, "--shard", "9/9")[1]) == (0, 0, 0)


def test_two_processes_do_not_do_the_same_shard(here: Path, batch: Run) -> None:
    from wordbrush.jobs.ledger import opened

    with opened(Path("out"), (1, 2)):
        code, _, err = batch(ROWS, "--shard", "1/2")
        assert code == 2 and "out/ledger-1-of-2.jsonl is in use: another process does these jobs" in err
        assert batch(ROWS, "--shard", "2/2")[0] == 0


def started(folder: Path, *flags: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [
            sys.executable,
            "-m",
            "wordbrush",
            "batch",
            "jobs.jsonl",
            "--out",
            "out",
            "--model",
            str(folder),
            *flags,
        ],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )


@pytest.mark.slow
@pytest.mark.parametrize("asked", [signal.SIGKILL, signal.SIGINT])
def test_what_is_stopped_in_the_middle_goes_on_with_the_rest(
    here: Path, batch: Run, folder: Path, asked: signal.Signals
) -> None:
    rows = [{**ROWS[0], "steps": 12, "seed": seed} for seed in range(8)]
    Path("jobs.jsonl").write_text("\n".join(map(json.dumps, rows)))
    process, path = started(folder), here / "out" / "ledger.jsonl"
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and not (path.exists() and path.read_text().count("\n") >= 2):
        time.sleep(0.01)
    process.send_signal(asked)
    _, err = process.communicate(timeout=60)
    if asked == signal.SIGINT:
        assert (process.returncode, err) == (130, "error: stopped; no partial file is left\n")
    done = ledger()
    assert 2 <= len(done) < len(rows)
    times = {name: Path("out", f"{name}.png").stat().st_mtime_ns for name in done}
    code, told, err = batch(rows)
    assert (code, counts(told)) == (0, (len(rows) - len(done), 0, len(done))), err
    assert times == {name: Path("out", f"{name}.png").stat().st_mtime_ns for name in done}
    assert len(names("out")) == len(rows) + 1
    last = ledger()[f"{len(rows):04}-a-cat-on-a-beach"]["outputs"][0]["path"]
    assert (
        main(["generate", CAT, "--steps", "12", "--seed", "7", "--model", str(folder), "--out", "a.png"]) == 0
    )
    assert pixels(f"out/{last}") == pixels("a.png")


def test_a_stop_is_no_row_that_failed(here: Path, batch: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(*_: object, **__: object) -> None:
        raise Stopped

    monkeypatch.setattr("diffusers.UNet2DConditionModel.forward", stop)
    with pytest.raises(Stopped):
        from wordbrush.cli.app import run

        Path("jobs.jsonl").write_text(json.dumps(ROWS[0]))
        run(["batch", "jobs.jsonl", "--out", "out"])
    assert names(".") == {"photo.png", "jobs.jsonl"}


# What is shown ----------------------------------------------------------------------------------------------


def test_a_line_for_each_row_and_one_for_all(
    here: Path, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [
        {"id": "dog", **EDIT, "target": "a unicorn on a beach"},
        {"id": "bad", "verb": "edit"},
        {"id": "cat", **ROWS[0]},
    ]
    Path("jobs.jsonl").write_text("\n".join(map(json.dumps, rows)))
    Image.new("RGBA", (40, 32)).save("photo.png")
    assert main(["batch", "jobs.jsonl", "--out", "out", "--model", str(folder)]) == 1
    out, err = capsys.readouterr()
    assert out == f"dog.png  a unicorn on a beach\ncat.png  {CAT}\nout: 2 done, 1 failed, 0 done before\n"
    error, *notes = err.splitlines()
    assert error.startswith("error: line 2, bad: ")
    assert "note: transparency was filled with the colour (255, 255, 255)" in notes
    assert ledger()["dog"]["notices"] == [note.removeprefix("note: ") for note in notes]
    assert ledger()["dog"]["row"] == {**EDIT, "target": "a unicorn on a beach"}
    assert ledger()["cat"]["seconds"] > 0


@pytest.mark.slow
def test_sheets_show_what_all_shards_have_made(
    here: Path, batch: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("wordbrush.cli.worker._PAGE", 4)
    rows = [*ROWS, {"verb": "invert", **PHOTO, "prompt": CAT}, {"verb": "edit"}]
    batch(rows, "--shard", "1/2")
    code, told, _ = batch(rows, "--sheet")
    assert code == 1 and told["sheets"] == ["out/sheets/1.png", "out/sheets/2.png"]
    assert [load(page).width for page in told["sheets"]] == [16 + 4 * (256 + 16), 16 + 256 + 16]
    Path("out/0005-a-cat-on-a-beach.png").write_bytes(b"somebody's")
    assert batch(rows, "--sheet")[1]["sheets"] == ["out/sheets/1.png"]
