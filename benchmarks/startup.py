"""How long commands wait before they compute, and how their threads wait while they do.

    python benchmarks/startup.py [--rounds 7]
    python benchmarks/startup.py --threads [--rounds 5]

The first loads the built-in model, and edits a picture file from start to end, in new processes; figures are multiples
of what `import torch` takes in the same round. The second edits with each way in which idle threads can wait: alone and
beside one busy process. Its figures are multiples of the same edit with torch's own way of waiting, alone.
Medians over the rounds; every command is run once in each round, in turn, so that a busy machine slows all alike.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

ROOT = Path(__file__).parents[1]
TORCH = ("-c", "import torch")
LOAD = ("-c", "import wordbrush; wordbrush.Model.load('pocket')")
HELP = ("-m", "wordbrush", "--help")
EDIT = ("-m", "wordbrush", "edit", "examples/cat.png")
EDIT += ("--source", "a cat on a beach", "--target", "a dog on a beach", "--out")
BUSY = ("-c", "while True: pass")

# A value decides before the command line does; no spin count at all is torch's own way.
WAITS = {
    "torch's own": {"GOMP_SPINCOUNT": "300000"},
    "GOMP_SPINCOUNT=10000": {"GOMP_SPINCOUNT": "10000"},
    "OMP_WAIT_POLICY=passive": {"OMP_WAIT_POLICY": "passive"},
}


def seconds(arguments: Sequence[str], chosen: Mapping[str, str] | None = None) -> float:
    """Wall time of a Python process."""
    unset = ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")
    environment = {key: value for key, value in os.environ.items() if key not in unset}
    began = time.perf_counter()
    subprocess.run(
        (sys.executable, *arguments),
        cwd=ROOT,
        env={**environment, **(chosen or {})},
        check=True,
        capture_output=True,
    )
    return time.perf_counter() - began


def beside_another(arguments: Sequence[str], chosen: Mapping[str, str]) -> float:
    """The same beside one busy process."""
    with subprocess.Popen((sys.executable, *BUSY)) as busy:
        try:
            return seconds(arguments, chosen)
        finally:
            busy.kill()


def report(commands: Mapping[str, Callable[[], float]], rounds: int) -> None:
    """Print the median time of each command, and its median ratio to the first one of the same round."""
    for command in commands.values():
        command()  # files are in the machine's memory from here on
    taken = [[command() for command in commands.values()] for _ in range(rounds)]
    for name, column in zip(commands, zip(*taken, strict=True), strict=True):
        ratio = statistics.median(own / round[0] for own, round in zip(column, taken, strict=True))
        print(f"{name:45} {statistics.median(column):6.2f} s  {ratio:5.2f} ×")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--threads", action="store_true", help="compare ways of waiting")
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        edit = (*EDIT, f"{folder}/dog.png")
        if not options.threads:
            commands = {
                "import torch": lambda: seconds(TORCH),
                "wordbrush --help": lambda: seconds(HELP),
                "Model.load('pocket')": lambda: seconds(LOAD),
                "wordbrush edit of a picture file": lambda: seconds(edit),
            }
        else:
            commands = {
                f"{name}{place}": lambda way=way, run=run: run(edit, way)
                for place, run in (("", seconds), (", beside a busy process", beside_another))
                for name, way in WAITS.items()
            }
        report(commands, options.rounds)


if __name__ == "__main__":
    main()
