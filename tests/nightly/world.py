"""A folder to make mistakes in: good inputs for every command, and bad ones of every kind."""

import os
import shutil
import struct
import zlib
from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image

from teaching import concept, customised
from wordbrush.cli import main
from wordbrush.concept import Base
from wordbrush.concept.weights import Full, LowRank
from wordbrush.evaluation.study.assignment import Trial
from wordbrush.evaluation.study.design import NewItem, Settings, write_study
from wordbrush.evaluation.study.store import Store
from wordbrush.model import Model

CAT, DOG = "a cat on a beach", "a dog on a beach"
LONG = "n" * 260  # a file system has names of up to 255 bytes
Seen = dict[str, tuple[object, ...]]


def build(folder: Path) -> None:
    """Fill the folder; paths are relative to it, so it has to be the current one."""
    assert folder.samefile(".")
    _inputs()
    _concepts()
    _pictures()
    _texts()
    for name, where in {
        "zero": "/dev/zero",
        "full": "/dev/full",
        "unreadable": "/proc/self/mem",  # a file that not even root can read from its beginning
        "circle": "circle",
        "dangling": "nowhere/at/all",
        "to-photo": "photo.png",
    }.items():
        for suffix in ("", ".png", ".source", ".toml", ".jsonl", ".csv", ".safetensors", ".concept"):
            os.symlink(f"{where}{suffix}" if name == "circle" else where, f"{name}{suffix}")
    for suffix in ("", ".png", ".source", ".toml", ".jsonl", ".csv", ".safetensors", ".concept"):
        os.mkfifo(f"fifo{suffix}")
        Path(f"folder{suffix}").mkdir()
        Path(f"file{suffix}").write_text("no such thing")


def _inputs() -> None:
    """What the commands read when nothing is wrong."""
    assert main(["generate", CAT, "--steps", "1", "--out", "photo.png"]) == 0
    assert main(["invert", "photo.png", "--steps", "1", "--prompt", CAT, "--out", "photo.source"]) == 0
    edit = ["edit", "photo.source", "--target", DOG, "--out", "made.png"]
    assert main(edit) == 0
    pie = ["evaluate", "pie", "pie", "--from-pocket", "1", "--steps", "1", "--out", "first"]
    assert main(pie) == 0
    shutil.rmtree("first")
    Path("cases.jsonl").write_text(f'{{"picture": "photo.png", "input": "{CAT}", "output": "{DOG}"}}\n')
    job = f'"verb": "edit", "picture": "photo.png", "source": "{CAT}", "target": "{DOG}", "steps": 1}}\n'
    Path("jobs.jsonl").write_text("{" + job)
    Path("ids.jsonl").write_text(f'{{"id": "a", {job}' * 2)
    Path("options.toml").write_text("steps = 1\n")
    photo = Image.open("photo.png")
    for place in ("real/cat", "generated/cat/0"):
        for i in range(2):
            path = Path("subjects", place, f"{i}.png")
            path.parent.mkdir(parents=True, exist_ok=True)
            photo.rotate(i).save(path)
    Path("subjects/subjects.toml").write_text(
        'method = "ours"\ntoken = "sks"\n[prompts]\nlive = ["a {token} {class}"]\nobject = ["a {token} {class}"]\n'
        '[[subjects]]\nname = "cat"\nclass = "cat"\nkind = "live"\n'
    )
    settings = Settings(title="Which?", kind="rating", methods=("ours", "theirs"), attention_checks=0)
    pictures = {"ours": photo.rotate(1), "theirs": photo.rotate(2)}
    study = write_study(Path("study"), settings, [NewItem("item-0", CAT, pictures, photo)])
    with Store(study.answers, "rating") as store:
        rater = store.admit("key", lambda number, taken: [Trial("item-0", ("ours",))])
        assert rater is not None
        store.record(rater.number, 1, {"background": "2", "text": "3", "realism": "4"})


def _concepts() -> None:
    model = Model.load("pocket", device="cpu")
    concept(model, weights=LowRank).save("my-cat.concept")
    concept(model, seed=1).save("same.concept")
    for seed, noun in enumerate(("dog", "vase")):
        customised(model, f"<my-{noun}>", noun, seed=seed).save(f"my-{noun}.concept")
    concept(model).save("concept.png")
    own = concept(model, ("<away>",), weights=Full)
    replace(own, base=Base(name="another", hash="1" * 64)).save("away.concept")
    good = Path("my-cat.concept").read_bytes()
    Path("cut.concept").write_bytes(good[:-9])
    Path("turned.concept").write_bytes(good[:-1] + bytes([good[-1] ^ 1]))
    Path("newer.concept").write_bytes(good.replace(b"wordbrush-concept.1", b"wordbrush-concept.9"))
    Path("bytes.concept").write_bytes(b"\xff" * 100)


def _pictures() -> None:
    photo = Image.open("photo.png").convert("RGB")
    good = Path("photo.png").read_bytes()
    Path("empty.png").touch()
    Path("text.png").write_text("not a picture")
    Path("cut.png").write_bytes(good[: len(good) // 2])
    Path("bomb.png").write_bytes(_png_header(65535, 65535) + good[33:])
    Path("wide.png").write_bytes(_png_header(40_000_001, 1) + good[33:])
    photo.save("wrong.png", format="JPEG")
    photo.resize((1, 1)).save("one.png")
    photo.convert("CMYK").save("cmyk.jpg")
    Image.fromarray(np.arange(64 * 64, dtype=np.uint16).reshape(64, 64) * 15).save("sixteen.png")
    Image.fromarray(np.zeros((8, 8), np.float32)).save("float.tif")
    photo.save("animated.gif", save_all=True, append_images=[photo.rotate(90)])
    photo.save("animated.webp", save_all=True, append_images=[photo.rotate(90)])
    photo.save("plain.png")  # without a record


def _png_header(width: int, height: int) -> bytes:
    data = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + data + struct.pack(">I", zlib.crc32(data))


def _texts() -> None:
    """TOML, JSON and folders of models, each wrong in its own way."""
    for name, text in {
        "empty": "",
        "deep": "steps = " + "[" * 10_000 + "]" * 10_000,
        "dotted": ".".join("a" * 5_000) + " = 1",
        "twice": "steps = 1\nsteps = 2",
        "kinds": "steps = [1, 2]\nguidance-scale = 'much'",
        "unknown": "no-such-option = 1",
        "huge": "steps = 0x" + "f" * 5_000,
        "nan": "guidance-scale = nan",
        "truth": "steps = true",
        "date": "steps = 1979-05-27",
        "zeros": "steps = 1\0",
        "large": "#" * 2 * 1024**2,
    }.items():
        Path(f"{name}.toml").write_text(text)
    Path("latin.toml").write_bytes(b"steps = '\xe9'")
    for name, text in {
        "empty": "",
        "deep": "[" * 100_000,
        "list": "[1]",
        "word": '"picture"',
        "kinds": '{"picture": 1, "input": [], "output": {}}',
        "unknown": f'{{"picture": "photo.png", "input": "{CAT}", "output": "{DOG}", "no-such": 1}}',
        "twice": f'{{"picture": "photo.png", "picture": "one.png", "input": "{CAT}", "output": "{DOG}"}}',
        "outside": f'{{"picture": "../photo.png", "input": "{CAT}", "output": "{DOG}"}}',
        "missing": f'{{"picture": "none.png", "input": "{CAT}", "output": "{DOG}"}}',
        "text": f'{{"picture": "text.png", "input": "{CAT}", "output": "{DOG}"}}',
        "half": f'{{"picture": "photo.png", "input": "\\ud800", "output": "{DOG}"}}',
        "huge": '{"picture": ' + "9" * 5_000 + "}",
    }.items():
        Path(f"{name}.jsonl").write_text(text)
        for listing in ("mapping_file.json", "model_index.json", "study.toml", "subjects.json"):
            Path(name).mkdir(exist_ok=True)
            Path(name, listing).write_text(text)
        for results in ("results.jsonl", "ledger.jsonl"):
            Path(name, results).write_text(text + "\n")
    Path("bytes.safetensors").write_bytes(b"\xff" * 100)
    Path("pickle.ckpt").write_bytes(b"\x80\x04.")


def seen(folder: Path) -> Seen:
    """Each path below the folder, with what changes when it is written to."""
    found: Seen = {}
    for path in sorted(folder.rglob("*")):
        status = path.lstat()
        target = os.readlink(path) if path.is_symlink() else ""
        is_folder = path.is_dir() and not target  # a folder's time changes with the temporary files in it
        found[str(path.relative_to(folder))] = (
            status.st_mode,
            target,
            *(() if is_folder else (status.st_size, status.st_mtime_ns)),
        )
    return found


def tidy(folder: Path, before: Seen) -> None:
    """Remove what was not there before."""
    for name in sorted(seen(folder).keys() - before.keys(), reverse=True):
        path = folder / name
        path.rmdir() if path.is_dir() and not path.is_symlink() else path.unlink()
