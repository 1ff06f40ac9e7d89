"""The cost of a Prompt-to-Prompt edit, relative to plain generation on the same model.

    python benchmarks/p2p.py                              # every model, dtype and number of targets: hours
    python benchmarks/p2p.py --model pocket --dtype float32 --targets 1

One process, one thread. The variants of a row run one after the other, in reversed order in odd rounds, and every ratio
is taken within its round. Times are CPU time, so other load on the machine matters little. Memory is the peak resident
set during a step, above what was resident before it. Each finished row is appended to the results file.

step       one UNet call in the heaviest phase (cross-attention edit and self-attention injection both on),
           relative to a plain call of the *same rows*, 1 + 2n for n targets
explicit   the same edit by the tests' implementation that builds every map, on the 2 (n + 1) rows that it needs
edit       a whole edit of a known trajectory, relative to plain generation of source and targets
"""

import argparse
import json
import logging
import statistics
import sys
import time
from collections.abc import Callable, Generator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path

import torch

from shapes import NAMES, build
from wordbrush.attention import Attend
from wordbrush.attention_edit import AttentionEdit, EditedAttention, refine, replace
from wordbrush.denoise import denoise
from wordbrush.editing.prompt_to_prompt import method as prompt_to_prompt
from wordbrush.editing.prompt_to_prompt.options import Options
from wordbrush.guidance import TextGuidance
from wordbrush.local_blend import WordMaps
from wordbrush.model import Conditioning, Model, TextEmbeds
from wordbrush.progress import drain
from wordbrush.request import EditRequest
from wordbrush.schedule import Level
from wordbrush.source import Source
from wordbrush.states import Trajectory
from wordbrush.words import align

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
import oracle  # noqa: E402 - the explicit-map implementation lives with the tests

SOURCE = "a cat on a beach"
SWAPS = ("a dog on a beach", "a fox on a beach", "a bear on a beach", "a lion on a beach")
REFINED = (
    "a dog on a beach at night",
    "a red cat on a beach",
    "a cat on a sunny beach",
    "a cat on a beach at sunset",
)
STEPS = 4  # in the step measurement; the edit is active in all of them


@dataclass(frozen=True)
class Variant:
    """Something to measure: a context to enter, and a call that takes a step index."""

    name: str
    context: Callable[[], AbstractContextManager[None]]
    call: Callable[[int], object]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", choices=NAMES, action="append")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), action="append")
    parser.add_argument("--targets", type=int, choices=(1, 2, 3, 4), action="append")
    parser.add_argument("--rounds", type=int, help="rounds of step measurements (default by model size)")
    parser.add_argument("--only", choices=("step", "edit"), help="measure steps or whole edits alone")
    parser.add_argument("--skip-explicit", action="store_true", help="where the maps do not fit into memory")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "p2p.jsonl")
    options = parser.parse_args()
    torch.set_num_threads(1)
    logging.getLogger("diffusers").setLevel(logging.ERROR)
    for name in options.model or NAMES:
        for dtype in options.dtype or ("float32", "bfloat16"):
            model = build(name, getattr(torch, dtype))
            for targets in options.targets or (1, 4):
                rounds = options.rounds or {"pocket": 15, "mid": 5, "sd15": 3}[name]
                rows: list[dict[str, float | str | None]] = []
                if options.only != "edit":
                    rows += measure_steps(model, targets, rounds, explicit=not options.skip_explicit)
                if options.only != "step":
                    rows.append(measure_edit(model, targets, {"pocket": 5, "mid": 3, "sd15": 1}[name]))
                options.out.parent.mkdir(parents=True, exist_ok=True)
                with open(options.out, "a") as file:
                    for row in rows:
                        found = {"model": name, "dtype": dtype, "targets": targets, **row}
                        print(json.dumps(found), file=file)
                        print(json.dumps(found), flush=True)


def measure_steps(
    model: Model, targets: int, rounds: int, explicit: bool
) -> list[dict[str, float | str | None]]:
    """Time and memory of one step of each variant, relative to the same rows without an edit."""
    height, width = model.image_size
    size = model.latent_size(height, width)
    before = model.read(SOURCE)
    swaps = [replace(align(before, model.read(prompt))) for prompt in SWAPS[:targets]]
    refined = [refine(align(before, model.read(prompt))) for prompt in REFINED[:targets]]
    columns = torch.zeros(targets + 1, model.tokens, 2)
    columns[:, 2, 0] = 1
    limit = model.map_positions(size)

    def edited(edits: Sequence[AttentionEdit]) -> EditedAttention:
        return EditedAttention(edits, STEPS, self_window=(0, STEPS), self_limit=limit)

    def blended(edits: Sequence[AttentionEdit]) -> Attend:
        attention = edited(edits)
        return WordMaps(attention, columns, attention.rows, limit)

    same_rows, all_rows = 1 + 2 * targets, 2 + 2 * targets
    variants = [
        Variant("plain", nullcontext, _call(model, size, same_rows)),
        Variant("plain, 2(n+1) rows", nullcontext, _call(model, size, all_rows)),
    ]
    for label, make in (("step", edited), ("step + blend", blended)):
        for kind, edits in (("replace", swaps), ("refine", refined)):
            attend = make(edits)
            variants.append(Variant(f"{label}: {kind}", nullcontext, _call(model, size, same_rows, attend)))
    if explicit:
        variants += explicit_variants(model, targets, limit, _call(model, size, all_rows))

    seconds: dict[str, list[float]] = {variant.name: [] for variant in variants}
    memory: dict[str, list[float]] = {variant.name: [] for variant in variants}
    with torch.no_grad():
        for k in range(rounds):
            for variant in variants if k % 2 == 0 else variants[::-1]:
                with variant.context():
                    variant.call(0)  # text projections and edited values are kept from the first step on
                    resident = _status("VmRSS")
                    Path("/proc/self/clear_refs").write_text("5")
                    began = time.process_time()
                    variant.call(1)
                    seconds[variant.name].append(time.process_time() - began)
                    memory[variant.name].append(_status("VmHWM") - resident)
    plain_memory = statistics.median(memory["plain"])
    return [
        {
            "what": variant.name,
            "seconds": round(statistics.median(seconds[variant.name]), 4),
            "ratio": round(_ratio(seconds[variant.name], seconds["plain"]), 3),
            "memory_mib": round(statistics.median(memory[variant.name]), 1),
            # A small model's step fits into memory that the allocator already holds: then there is no ratio.
            "memory_ratio": round(statistics.median(memory[variant.name]) / plain_memory, 2)
            if plain_memory > 1
            else None,
            "rounds": rounds,
        }
        for variant in variants
    ]


def explicit_variants(model: Model, targets: int, limit: int, call: Callable[[int], object]) -> list[Variant]:
    """The same edits by the tests' implementation, which builds every map."""
    before = model.read(SOURCE)
    alphas = torch.ones(STEPS + 1, model.tokens, dtype=model.dtype)
    swaps = [align(before, model.read(prompt)).replace_matrix.to(model.dtype) for prompt in SWAPS[:targets]]
    refined = [align(before, model.read(prompt)).refine_matrices for prompt in REFINED[:targets]]
    edits = {
        "replace": [oracle.CrossEdit(alphas, mapper=matrix) for matrix in swaps],
        "refine": [
            oracle.CrossEdit(alphas, refine=(gather.argmax(0), mask.to(model.dtype)))
            for gather, mask in refined
        ],
    }
    return [
        Variant(f"explicit: {kind}", lambda e=made: _explicitly(model, e, limit), call)
        for kind, made in edits.items()
    ]


@contextmanager
def _explicitly(model: Model, edits: Sequence[oracle.CrossEdit], limit: int) -> Generator[None, None, None]:
    before = dict(model.denoiser.unet.attn_processors)
    control = oracle.Control(edits, layers=len(before), self_window=(0, STEPS), self_limit=limit)
    model.denoiser.unet.set_attn_processor(oracle.ExplicitAttention(control))
    try:
        yield
    finally:
        model.denoiser.unet.set_attn_processor(before)


def measure_edit(model: Model, targets: int, rounds: int) -> dict[str, float | str | None]:
    """A whole edit of a known trajectory, relative to plain generation of source and targets; 10 steps each."""
    steps = 10
    schedule = model.schedule(steps)
    h, w = model.latent_size(*model.image_size)
    prompts = [SOURCE, *SWAPS[:targets]]
    text, null = model.encode_text(prompts), model.encode_text([""])
    z_T = torch.randn(1, model.latent_channels, h, w)  # noqa: N806
    source = Source(
        prompt=SOURCE,
        states=Trajectory(torch.randn(steps + 1, model.latent_channels, h, w)),
        null=null,
        schedule=schedule,
        guidance_scale=7.5,
        method="seed",
        model_hash=model.hash,
    )
    request = EditRequest(tuple(prompts[1:]), Options(local_blend="off"), SOURCE, source)
    conditions = {"text": Conditioning(text), "null": Conditioning(null)}

    def plainly() -> None:
        pictures = z_T.expand(len(prompts), -1, -1, -1)
        for _ in denoise(model, pictures, conditions, schedule, TextGuidance(7.5)):
            pass

    def edited() -> None:
        drain(prompt_to_prompt.edit(model, request))

    seconds: dict[str, list[float]] = {"plain": [], "edit": []}
    for _ in range(rounds):
        for name, run in (("plain", plainly), ("edit", edited)):
            began = time.process_time()
            run()
            seconds[name].append(time.process_time() - began)
    return {
        "what": "edit: replace",
        "seconds": round(statistics.median(seconds["edit"]), 3),
        "ratio": round(_ratio(seconds["edit"], seconds["plain"]), 3),
        "rounds": rounds,
    }


def _call(
    model: Model, size: tuple[int, int], rows: int, attend: Attend | None = None
) -> Callable[[int], object]:
    """A UNet call on `rows` random rows; the text is the same for all calls, as it is in the sampling loop."""
    latents = torch.randn(rows, model.latent_channels, *size)
    width = model.denoiser.unet.config.cross_attention_dim
    text = Conditioning(TextEmbeds(torch.randn(rows, model.tokens, width, dtype=model.dtype)))
    level = Level(500, 0.5**0.5, 0.5**0.5)
    return lambda step: model.predict(latents, level, text, attend=attend, step=step)


def _ratio(ours: Sequence[float], plain: Sequence[float]) -> float:
    return statistics.median(a / b for a, b in zip(ours, plain, strict=True))


def _status(key: str) -> float:
    """A memory figure of this process, in MiB."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(key):
            return int(line.split()[1]) / 1024
    raise KeyError(key)


if __name__ == "__main__":
    main()
