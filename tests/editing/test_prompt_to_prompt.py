"""Whole edits against the explicit-map oracle, and what an edit promises its user."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import oracle
import pytest
import torch

from wordbrush.editing import prompt_to_prompt
from wordbrush.editing.prompt_to_prompt import Options
from wordbrush.model import Model
from wordbrush.options import parse
from wordbrush.progress import drain
from wordbrush.result import Result
from wordbrush.source import Source

SOURCE = ("a", "cat", "on", "a", "beach")
Tiny, Seeded = Callable[..., Model], Callable[..., Source]


@dataclass(frozen=True)
class Target:
    """A target as a reader sees it: its words, and which of them are the source's (by index) or stand for them."""

    words: tuple[str, ...]
    same: tuple[tuple[int, int], ...]
    swaps: tuple[tuple[int, int], ...] = ()

    @property
    def prompt(self) -> str:
        return " ".join(self.words)


def swap(word: str) -> Target:
    return Target(("a", word, "on", "a", "beach"), ((0, 0), (2, 2), (3, 3), (4, 4)), ((1, 1),))


DOG, TEAPOT, FOX = swap("dog"), swap("teapot"), swap("fox")
NIGHT = Target((*SOURCE, "at", "night"), tuple((i, i) for i in range(5)))
DOG_AT_NIGHT = Target(("a", "dog", "on", "a", "beach", "at", "night"), DOG.same)
A_CAT = Target(("a", "cat"), ((0, 0), (1, 1)))


def window(steps: float | tuple[float, float]) -> tuple[float, float]:
    return steps if isinstance(steps, tuple) else (0.0, steps)


def control(
    model: Model, targets: Sequence[Target], source: Source, options: Mapping[str, Any]
) -> oracle.Control:
    """The oracle's control for the same options, from the words as given by hand."""
    told = Options(**options)
    tokenizer, length, steps = model.tokenizers[0], model.tokens, source.steps
    latent_size = (source.trajectory.shape[-2], source.trajectory.shape[-1])
    before = oracle.spans(tokenizer, SOURCE)

    def tokens(words: Sequence[str], of: Sequence[str]) -> list[int]:
        where = oracle.spans(tokenizer, of)
        return [t for i, word in enumerate(of) if word in words for t in where[i]]

    def indicator(words: Sequence[str], of: Sequence[str]) -> torch.Tensor:
        column = torch.zeros(length, dtype=torch.float64)
        column[tokens(words, of)] = 1
        return column

    edits: list[oracle.CrossEdit] = []
    for target in targets:
        after = oracle.spans(tokenizer, target.words)
        spans = [(tokens([word], target.words), window(w)) for word, w in told.word_steps.items()]
        edit = oracle.CrossEdit(oracle.word_alphas(steps, length, window(told.cross_replace_steps), spans))
        is_swap = len(target.same) + len(target.swaps) == len(target.words) == len(SOURCE)
        if told.kind == "replace" or (told.kind == "auto" and is_swap):
            edit.mapper = oracle.replace_mapper(before, after, target.same + target.swaps, length)
        else:
            edit.refine = oracle.refine_mapper(before, after, target.same, length)
        edit.weights = torch.ones(length, dtype=torch.float64)
        for word, weight in told.reweight.items():
            edit.weights[tokens([word], target.words)] = weight
        edits.append(edit)

    grid = MAPS[model.name, latent_size]
    start, stop = window(told.self_replace_steps)
    blend: oracle.Blend | None = None
    if told.local_blend != "off":
        words: list[tuple[torch.Tensor, torch.Tensor] | None] = []
        for target in targets:
            if told.local_blend != "auto":
                chosen = told.local_blend
            else:
                chosen = tuple(SOURCE[i] for i, _ in target.swaps) + tuple(
                    target.words[j] for _, j in target.swaps
                )
            pair = (indicator(chosen, SOURCE), indicator(chosen, target.words))
            words.append(pair if chosen else None)
        spare = [(indicator(told.spare, SOURCE), indicator(told.spare, t.words)) for t in targets]
        blend = oracle.Blend(
            words,
            spare,
            grid[0] * grid[1],
            grid,
            int(told.blend_start * steps),
            told.blend_threshold,
            told.spare_threshold,
        )
    limit = grid[0] * grid[1] if told.self_limit is None else told.self_limit
    layers = len(model.unet.attn_processors)
    return oracle.Control(edits, layers, (int(start * steps), int(stop * steps)), limit, blend)


# The grid whose maps are read, for each model and latent size in use: worked out by hand from the UNets' shapes.
MAPS = {
    ("tiny SD1", (16, 16)): (16, 16),
    ("tiny SD1", (32, 32)): (16, 16),
    ("tiny SD1", (16, 24)): (16, 24),
    ("tiny SD2", (16, 16)): (16, 16),
    ("tiny SD2", (15, 9)): (15, 9),
    ("tiny SDXL", (16, 16)): (8, 8),
    ("tiny SDXL", (13, 22)): (7, 11),
}


def run(model: Model, source: Source, targets: Sequence[Target], options: Mapping[str, Any]) -> list[Result]:
    loop = prompt_to_prompt.edit(model, source, [t.prompt for t in targets], parse(Options, options))
    return drain(loop)


def compare(model: Model, source: Source, targets: Sequence[Target], options: Mapping[str, Any]) -> None:
    """The package's whole edit is the oracle's, at every step, masks included."""
    results = run(model, source, targets, options)
    explicit = control(model, targets, source, options)
    path, masks = oracle.edit(
        model,
        source.z_T,
        [" ".join(SOURCE), *(t.prompt for t in targets)],
        explicit,
        steps=source.steps,
        guidance_scale=options.get("guidance_scale", source.guidance_scale),
        null=source.null,
        pinned=source.trajectory,
    )
    for i, result in enumerate(results):
        assert result.trajectory.dtype == torch.float64
        torch.testing.assert_close(result.trajectory, path[:, i + 1], atol=1e-10, rtol=0)
        assert (result.trajectory[-1] - source.trajectory[-1]).abs().max() > 1e-3, "nothing was edited"
        if masks:
            mask = masks[-1][i]
            assert result.report["edited_share"] == pytest.approx(float(mask.double().mean()), abs=1e-6)
            outside = (result.trajectory[-1] == source.trajectory[-1]).all(0, keepdim=True)
            assert torch.equal(~outside, mask)
    if masks and explicit.blend is not None and any(w is not None for w in explicit.blend.words):
        shares = [float(m.double().mean()) for m, w in zip(masks[-1], explicit.blend.words, strict=True) if w]
        assert all(0.02 < share < 0.98 for share in shares), f"masks that say nothing: {shares}"


OFF: dict[str, Any] = {"local_blend": "off"}
KINDS: dict[str, tuple[tuple[Target, ...], dict[str, Any]]] = {
    "replace": ((DOG,), {**OFF, "cross_replace_steps": 1.0, "self_replace_steps": 0.0}),
    "replace, unequal tokens": ((TEAPOT,), OFF),
    "refine, words added": ((NIGHT,), OFF),
    "refine, words deleted": ((A_CAT,), {**OFF, "cross_replace_steps": 0.6}),
    "refine, a word swapped": ((DOG,), {**OFF, "kind": "refine"}),
    "reweight after replace": ((DOG,), {**OFF, "reweight": {"beach": 3.0, "dog": -1.0}}),
    "reweight after refine": ((NIGHT,), {**OFF, "reweight": {"night": 4.0, "cat": 0.0}}),
    "windows": ((DOG,), {**OFF, "cross_replace_steps": (0.2, 0.7), "self_replace_steps": (0.3, 0.9)}),
    "words' own windows": (
        (NIGHT,),
        {**OFF, "cross_replace_steps": 0.9, "word_steps": {"cat": 0.3, "beach": (0.5, 1.0), "night": 1.0}},
    ),
    "one word's object only": (
        (DOG_AT_NIGHT,),
        {**OFF, "cross_replace_steps": 0.0, "word_steps": {"beach": 1.0}, "self_replace_steps": 0.0},
    ),
    "self-attention alone": ((DOG,), {**OFF, "cross_replace_steps": 0.0, "self_replace_steps": 0.8}),
    "self-attention, small sites": ((DOG,), {**OFF, "self_replace_steps": 1.0, "self_limit": 64}),
    "self-attention, every site": ((NIGHT,), {**OFF, "self_replace_steps": 1.0, "self_limit": 10**6}),
    "blend": ((DOG,), {"blend_threshold": 0.7}),
    "blend, from the first step": ((DOG,), {"blend_threshold": 0.6, "blend_start": 0.0}),
    "blend, late": ((TEAPOT,), {"blend_threshold": 0.6, "blend_start": 0.7, "cross_replace_steps": 0.5}),
    "blend, spared": (
        (DOG,),
        {"local_blend": ("cat", "dog"), "blend_threshold": 0.5, "spare": ("beach",), "spare_threshold": 0.8},
    ),
    "blend after refine, a target's word": ((NIGHT,), {"local_blend": ("night",), "blend_threshold": 0.75}),
    "guidance of its own": ((DOG,), {**OFF, "guidance_scale": 2.0}),
    "no guidance": ((DOG,), {"guidance_scale": 1.0, "blend_threshold": 0.7}),
    "everything": (
        (DOG_AT_NIGHT,),
        {
            "cross_replace_steps": (0.1, 0.9),
            "word_steps": {"beach": 0.5},
            "self_replace_steps": 0.5,
            "reweight": {"night": 2.0, "a": 0.5},
            "local_blend": ("cat", "dog", "night"),
            "blend_threshold": 0.7,
            "spare": ("beach",),
            "spare_threshold": 0.9,
        },
    ),
}


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_edit_equals_the_explicit_maps(kind: str, tiny: Tiny, seeded: Seeded) -> None:
    targets, options = KINDS[kind]
    compare(tiny("sd1", torch.float64), seeded("sd1"), targets, options)
