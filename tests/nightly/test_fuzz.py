"""Files with random damage: a reader reads them or raises a `WordbrushError`; it never hangs, and stays small."""

import json
import random
import resource
import shutil
import struct
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from safetensors import safe_open
from safetensors.torch import save as to_safetensors

from nightly.limits import limited
from nightly.world import build
from wordbrush import Model, images, provenance
from wordbrush.editing.prompt_to_prompt.options import Options
from wordbrush.errors import WordbrushError
from wordbrush.evaluation.directional import cases
from wordbrush.evaluation.pie import format as pie
from wordbrush.evaluation.study import design
from wordbrush.evaluation.study.store import Store
from wordbrush.evaluation.subjects import format as subjects
from wordbrush.options import parse, read_toml
from wordbrush.records import Records
from wordbrush.source import Source, _checksum

pytestmark = pytest.mark.nightly
BLOCKS = 20
LONGEST = 30  # seconds of a reader
GIB = 1024**3
EXTREMES = (b"\0\0\0\0", b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff", b"\0\0\0\x01", b"\x80\0\0\0")
VALUES: tuple[Any, ...] = (
    *(None, True, 0, -1, 1, 2**31, 2**63, 10**30, 0.5, -0.0, 1e308, float("nan"), float("inf")),
    *("", " ", "a", "\0", "\ud800", "x" * 10_000, "../../etc/passwd", "/dev/zero", "auto", "1e400"),
    *([], [[]], [1, 2, 3], [None], {}, {"a": 1}, [2**31] * 3, [0] * 3),
)
Damage = Callable[[random.Random, bytes], bytes]

# How files are damaged --------------------------------------------------------------------------------------


def of_bytes(chance: random.Random, content: bytes) -> bytes:
    """Flipped bits, extreme numbers, and pieces that are cut out, repeated, moved or new."""
    found = bytearray(content)
    for _ in range(chance.choice((1, 1, 1, 2, 8))):
        a, b = sorted(chance.choices(range(len(found) + 1), k=2))
        match chance.randrange(7):
            case 0 if found:
                found[a % len(found)] ^= 1 << chance.randrange(8)
            case 1:
                del found[a:]
            case 2:
                found[a : a + 4] = chance.choice(EXTREMES)
            case 3:
                del found[a : min(b, a + 64)]
            case 4:
                found[a:a] = found[a : min(b, a + 256)]
            case 5:
                found[a : a + 32] = found[b : b + 32]
            case _:
                found[a:a] = chance.randbytes(chance.choice((1, 4, 64)))
    return bytes(found)


def of_start(chance: random.Random, content: bytes) -> bytes:
    """The same near the beginning, where formats say what follows."""
    size = min(len(content), chance.choice((64, 512, 4096)))
    return of_bytes(chance, content[:size]) + content[size:]


def of_chunks(chance: random.Random, content: bytes) -> bytes:
    """A PNG whose chunks are other ones, each with a right checksum."""
    chunks: list[tuple[bytes, bytes]] = []
    at = 8
    while at + 12 <= len(content):
        (length,) = struct.unpack_from(">I", content, at)
        chunks.append((content[at + 4 : at + 8], content[at + 8 : at + 8 + length]))
        at += 12 + length
    i = chance.randrange(len(chunks))
    kind, data = chunks[i]
    match chance.randrange(5):
        case 0:
            chunks[i] = kind, of_bytes(chance, data)
        case 1:
            del chunks[i]
        case 2:
            chunks.insert(chance.randrange(len(chunks) + 1), (kind, data))
        case 3:
            kind = chance.choice(
                (b"iCCP", b"eXIf", b"zTXt", b"iTXt", b"tRNS", b"PLTE", b"acTL", b"fdAT", b"gAMA")
            )
            chunks.insert(
                i,
                (
                    kind,
                    chance.choice(
                        (b"", data[:1000], chance.randbytes(30), b"a\0\0" + zlib.compress(b"b" * 10**6))
                    ),
                ),
            )
        case _:
            chance.shuffle(chunks)
    written = (
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in chunks
    )
    return content[:8] + b"".join(written)


def of_values(chance: random.Random, content: bytes, most: int = 1000) -> bytes:
    """JSON, or lines of JSON, with other values and keys in it. most: how many times as large numbers become."""
    lines = content.decode().splitlines() if content.count(b"\n{") else [content.decode()]
    i = chance.randrange(len(lines))
    value = json.loads(lines[i])
    for _ in range(chance.choice((1, 1, 2, 4))):
        value = _other(chance, value, most)
    lines[i] = json.dumps(value)
    return ("\n".join(lines) + "\n").encode()


def of_config(chance: random.Random, content: bytes) -> bytes:
    """A network's config with other values; a much larger network would be built before it is checked."""
    return of_values(chance, content, most=3)


def _other(chance: random.Random, value: Any, most: int) -> Any:
    if isinstance(value, dict) and value and chance.random() < 0.95:
        key = chance.choice(list(value))
        match chance.randrange(8):
            case 0:
                return {name: each for name, each in value.items() if name != key}
            case 1:
                return {**value, chance.choice(("", "a", "\0", "x" * 1000, "_class_name")): value[key]}
            case _:
                return {**value, key: _other(chance, value[key], most)}
    if isinstance(value, list) and value and chance.random() < 0.8:
        i = chance.randrange(len(value))
        match chance.randrange(5):
            case 0:
                return value[:i]
            case 1:
                return value + value[:i]
            case _:
                return [*value[:i], _other(chance, value[i], most), *value[i + 1 :]]
    if type(value) in (int, float) and chance.random() < 0.5:
        return chance.choice((-value, value * 2, value * most, value + 1, value / 3, -1, 0))
    return chance.choice(VALUES)


def of_words(chance: random.Random, content: bytes) -> bytes:
    """TOML with other values after its equals signs."""
    lines = content.decode().split("\n")
    for i in chance.sample(range(len(lines)), k=min(len(lines), chance.choice((1, 1, 2)))):
        name, equals, _ = lines[i].partition("=")
        value = (
            json.dumps(chance.choice(VALUES), ensure_ascii=chance.random() < 0.5)
            .encode(errors="replace")
            .decode()
        )
        lines[i] = f"{name}{equals or '='} {value}"
    return "\n".join(lines).encode()


def of_header(chance: random.Random, content: bytes) -> bytes:
    """A safetensors file whose header says something else; a source's checksum fits it."""
    stop = 8 + int.from_bytes(content[:8], "little")
    header = of_values(chance, content[8:stop]).rstrip()
    return len(header).to_bytes(8, "little") + header + content[stop:]


def of_sealed(chance: random.Random, content: bytes) -> bytes:
    """A source that says something else, under a checksum that fits: only somebody who means it makes one."""
    path = Path("sealed.source")
    path.write_bytes(content)
    with safe_open(path, framework="pt") as file:
        metadata, tensors = dict(file.metadata()), {name: file.get_tensor(name) for name in file.keys()}
    said = of_values(chance, metadata["source"].encode()).decode().strip()
    if chance.random() < 0.3:
        name = chance.choice(list(tensors))
        tensors[name] = chance.choice(
            (
                tensors[name][:0],
                tensors[name].double(),
                tensors[name].flatten(),
                tensors[name] / 0,
                tensors[name].int(),
            )
        )
    tensors = {name: tensor.contiguous() for name, tensor in tensors.items()}
    return to_safetensors(tensors, {**metadata, "source": said, "sha256": _checksum(said, tensors)})


# What is read -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Kind:
    """A file, how it is damaged, and what reads it. tries: in each block."""

    path: str
    read: Callable[[Path], object]
    damages: Sequence[Damage]
    tries: int = 30
    is_whole: bool = True


def _picture(path: Path) -> None:
    images.load(path)


def _recorded(path: Path) -> None:
    for read in (images.load, images.read_provenance, provenance.read_record):
        try:
            read(path)
        except WordbrushError as error:
            last = error
        else:
            last = None
    if last is not None:
        raise last


def _answers(path: Path) -> None:
    with Store(path, "rating") as store:
        store.answers()


def _model(path: Path) -> None:
    Model.load(next(each for each in path.parents if (each / "model_index.json").exists()))


SOURCE_MODEL: list[Model] = []


def _source(path: Path) -> None:
    Source.load(path, SOURCE_MODEL[0])


BYTES, JSON, CONFIG = (of_bytes, of_start), (of_bytes, of_values, of_values), (of_bytes, of_config, of_config)
KINDS = {
    "PNG with a record": Kind("made.png", _recorded, (*BYTES, of_chunks)),
    "JPEG": Kind("photo.jpg", _picture, BYTES),
    "WebP": Kind("photo.webp", _picture, BYTES),
    "TIFF": Kind("photo.tif", _picture, BYTES),
    "BMP": Kind("photo.bmp", _picture, BYTES),
    "source": Kind("photo.source", _source, (*BYTES, of_header)),
    "source, sealed": Kind("photo.source", _source, (of_sealed,)),
    "options": Kind("all.toml", lambda path: parse(Options, read_toml(path)), (of_bytes, of_words)),
    "PIE mapping": Kind("pie/mapping_file.json", lambda path: pie.read(path.parent), JSON),
    "results": Kind("results.jsonl", lambda path: Records(path, ("run", "case")), JSON),
    "cases": Kind("cases.jsonl", cases.read, JSON),
    "subjects": Kind("subjects/subjects.toml", lambda path: subjects.read(path.parent), (of_bytes, of_words)),
    "study": Kind("study/study.toml", lambda path: design.load(path.parent), (of_bytes, of_words)),
    "study item": Kind(
        "study/items/item-0/item.toml", lambda path: design.load(path.parents[2]), (of_bytes, of_words)
    ),
    "answers": Kind("study/answers.sqlite", _answers, BYTES),
    "model index": Kind("tiny/model_index.json", _model, JSON, 10),
    "UNet config": Kind("tiny/unet/config.json", _model, CONFIG, 10),
    "autoencoder config": Kind("tiny/vae/config.json", _model, CONFIG, 10),
    "text encoder config": Kind("tiny/text_encoder/config.json", _model, CONFIG, 10),
    "scheduler config": Kind("tiny/scheduler/scheduler_config.json", _model, JSON, 10),
    "tokenizer config": Kind("tiny/tokenizer/tokenizer_config.json", _model, JSON, 10),
    "tokenizer": Kind("tiny/tokenizer/tokenizer.json", _model, BYTES, 10),
    "weights": Kind("tiny/unet/diffusion_pytorch_model.safetensors", _model, (of_start, of_header), 10),
    "single file": Kind("single.safetensors", Model.load, (of_start, of_header), is_whole=False),
}


@pytest.fixture(scope="session")
def files(
    tmp_path_factory: pytest.TempPathFactory,
    tiny: Callable[..., Model],
    saved: Callable[[Model, Path], Path],
) -> Path:
    """Whole files of every kind."""
    folder = tmp_path_factory.mktemp("files")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        build(folder)
        SOURCE_MODEL.append(Model.load("pocket"))
        photo = Image.open("photo.png").convert("RGB")
        exif = Image.Exif()
        exif[0x0112] = 6  # rotated
        photo.save("photo.jpg", exif=exif)
        photo.save("photo.webp", exif=exif)
        photo.save("photo.tif", compression="tiff_lzw")
        photo.convert("P").save("photo.bmp")
        Path("all.toml").write_text(
            "cross_replace_steps = [0.1, 0.8]\nself_replace_steps = 0.4\nblend_start = 0.2\nlocal_blend = ['cat']\n"
            "reweight = {cat = 2, beach = -1.5}\nword_steps = {cat = [0.1, 0.4]}\nspare = 'auto'\nfinish = 0.5\n"
        )
        row = {"run": "a", "case": "b", "psnr": 27.2, "notices": ["c"], "error": None}
        Path("results.jsonl").write_text(
            "".join(json.dumps({**row, "case": str(i)}) + "\n" for i in range(5))
        )
        saved(tiny("sd1"), folder / "tiny")
        shutil.copy("tiny/unet/diffusion_pytorch_model.safetensors", "single.safetensors")
    return folder


@pytest.mark.parametrize("block", range(BLOCKS))
@pytest.mark.parametrize("name", KINDS)
def test_damaged(name: str, block: int, files: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(files)
    kind = KINDS[name]
    path = files / kind.path
    whole = path.read_bytes()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    broken: list[str] = []
    try:
        if kind.is_whole:
            kind.read(path)  # the control: it is read when nothing is wrong with it
        for number in range(kind.tries):
            chance = random.Random(f"{name} {block} {number}")
            path.write_bytes(chance.choice(kind.damages)(chance, whole))
            try:
                with limited(LONGEST):
                    kind.read(path)
            except WordbrushError as error:
                if len(str(error)) > 2000:
                    broken.append(f"{number}: a message of {len(str(error))} characters: {error!s:.300}")
            except BaseException as error:
                if isinstance(error, KeyboardInterrupt | SystemExit):
                    raise
                broken.append(f"{number}: {type(error).__name__}: {error!s:.300}")
    finally:
        path.write_bytes(whole)
        for left in path.parent.glob(f"{path.name}-*"):  # SQLite's
            left.unlink()
    assert not broken
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024
    assert grown < GIB, f"{grown / GIB:.1f} GiB"
