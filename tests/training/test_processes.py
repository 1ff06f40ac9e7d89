"""Two processes learn what one does; the first alone writes; nobody waits for ever for one that has stopped."""

import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from torch import Tensor

from wordbrush.concept import Concept

PROGRAM = Path(__file__).with_name("processes.py")
STOPPING = """
import sys, time, torch
from wordbrush.errors import WordbrushError
from wordbrush.fit import shared_out
with shared_out() as share:
    share.require_same(3)
    if share.rank == 1:
        sys.exit(3)
    try:
        share.average([torch.ones(2)])
    except WordbrushError as error:
        print(error)
        sys.stdout.flush()
        import os
        os._exit(4)
"""
APART = """
from wordbrush.errors import OptionsError
from wordbrush.fit import shared_out
with shared_out() as share:
    try:
        share.require_same(10 * share.rank)
    except OptionsError as error:
        print(error)
"""
SUMS = """
import torch
from wordbrush.fit import generator, shared_out
import wordbrush.fit.share as module
module._BUCKET = 5
with shared_out() as share:
    shapes = [(2, 2), (3,), (7,), (1,)]
    rows = [[torch.randn(shape, generator=generator(k, i)) for i, shape in enumerate(shapes)] for k in range(2)]
    mean = [(one + other) / 2 for one, other in zip(*rows)]
    own = [each.clone() for each in rows[share.rank]]
    share.average(own)
    print(all(torch.allclose(a, b, atol=1e-7) for a, b in zip(own, mean)), list(share.rows(6)))
"""


def free_port() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return str(probe.getsockname()[1])


def together(folder: Path, *command: str, count: int = 2) -> list[tuple[int, str, str]]:
    """The same command in several processes, with a launcher's environment: how each ended, and what it said."""
    folder.mkdir(parents=True, exist_ok=True)
    port, started = free_port(), []
    for rank in range(count):
        where = {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(count)}
        where |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        started.append(
            subprocess.Popen(
                [sys.executable, *command],
                cwd=folder,
                env={**os.environ, **where},
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
        )
    found = []
    for process in started:
        out, err = process.communicate(timeout=180)
        found.append((process.returncode, out, err))
    return found


def learned(folder: Path) -> dict[str, Tensor]:
    concept = Concept.load(folder / "learned.concept")
    found = {
        f"{name}.{kind}": each
        for name, own in concept.weights.items()
        for kind, each in vars(own).items()
        if isinstance(each, Tensor)
    }
    for own in concept.placeholders.values():
        found |= {str(i): each for i, each in enumerate(own.vectors)}
    return found


def require_near(one: dict[str, Tensor], other: dict[str, Tensor]) -> None:
    assert one.keys() == other.keys()
    # Adam divides a gradient by its own size: where that is rounding alone, so is the step.
    for name in one:
        if name.endswith(".indices"):
            places = [set(each[name].tolist()) for each in (one, other)]
            assert len(places[0] ^ places[1]) < 0.05 * len(places[0] | places[1])
        else:
            assert float((one[name] - other[name]).abs().mean()) < 1e-3


@pytest.mark.slow
@pytest.mark.parametrize(
    "variant",
    [
        "textual_inversion",
        "dreambooth, text, prior",
        "lora",
        "svdiff, two, text, prior",
        "custom_diffusion, prior",
        "cones",
    ],
)
def test_two_learn_what_one_does(variant: str, folder: Path, tmp_path: Path):
    for count in (1, 2):
        for code, _, err in together(tmp_path / str(count), str(PROGRAM), variant, str(folder), count=count):
            assert code == 0, err
    one, two = tmp_path / "1", tmp_path / "2"
    require_near(learned(one), learned(two))
    files = [sorted(str(path.relative_to(each)) for path in each.rglob("*")) for each in (one, two)]
    assert files[0] == files[1]
    lines = [(each / "run" / "log.jsonl").read_text().splitlines() for each in (one, two)]
    assert len(lines[0]) == len(lines[1]) == 6


@pytest.mark.slow
def test_accelerate_launch(folder: Path, tmp_path: Path):
    """Without a GPU, accelerate starts several processes with --multi_gpu; with --cpu it does with MPI alone."""
    accelerate = Path(sys.executable).with_name("accelerate")
    if not accelerate.is_file():
        pytest.skip("accelerate is not installed")
    flags = ["--multi_gpu", "--num_processes", "2", "--num_machines", "1", "--mixed_precision", "no"]
    flags += ["--dynamo_backend", "no", "--main_process_port", free_port()]
    ended = subprocess.run(
        [str(accelerate), "launch", *flags, str(PROGRAM), "lora", str(folder)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=180,
    )
    assert ended.returncode == 0, ended.stderr
    assert together(tmp_path / "one", str(PROGRAM), "lora", str(folder), count=1)[0][0] == 0
    require_near(learned(tmp_path), learned(tmp_path / "one"))


@pytest.mark.slow
def test_one_that_stops_is_noticed(tmp_path: Path):
    began = time.monotonic()
    (code, out, _), (stopped, _, _) = together(tmp_path, "-c", STOPPING)
    assert (code, stopped) == (4, 3)
    assert out.startswith("expected the other 1 of 2 processes to go on, but one has stopped")
    assert time.monotonic() - began < 60


@pytest.mark.slow
def test_a_folder_that_not_all_see(tmp_path: Path):
    for code, out, err in together(tmp_path, "-c", APART):
        assert code == 0, err
        assert "expected all processes to go on from one checkpoint, got steps 0 to 10" in out


@pytest.mark.slow
def test_means_and_rows(tmp_path: Path):
    ended = together(tmp_path, "-c", SUMS)
    assert [out.strip() or err for _, out, err in ended] == ["True [0, 2, 4]", "True [1, 3, 5]"]


def test_a_batch_that_cannot_be_shared():
    from wordbrush.errors import OptionsError
    from wordbrush.fit import Share

    with pytest.raises(OptionsError, match="'batch_size': expected a multiple of the 3 processes, got 4"):
        Share(1, 3).rows(4)
    assert torch.tensor(Share(0, 1).rows(4)).tolist() == [0, 1, 2, 3]
