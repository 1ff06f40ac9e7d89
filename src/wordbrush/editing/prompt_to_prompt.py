"""Prompt-to-Prompt image editing with cross-attention control (Hertz et al. 2022, arXiv 2208.01626).

A target is denoised beside its source; in the early steps the words it shares with the source, or that stand in
for the source's words, look where the source's words looked. Swap (section 3.2, eq. for replace), refinement,
re-weighting, per-word windows, self-attention injection and local blend (section 4) are all here.

Deviations from the released code: words are aligned, not tokens (see `wordbrush.words`); no map is built (see
`wordbrush.attention_edit`); where words are only taken out, articles and padding keep their own maps by default
(the paper has no removals); the source's unconditional row is never computed and its conditional row only while
something reads it; a word that is nowhere is an error instead of an empty mask.
"""

import time
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import torch
from jaxtyping import Bool, Float
from pydantic import AfterValidator, Field
from torch import Tensor

from wordbrush.attention import attending
from wordbrush.attention_edit import AttentionEdit, EditedAttention, gate, refine, replace, reweight, window
from wordbrush.denoise import denoise
from wordbrush.errors import PromptError
from wordbrush.local_blend import LocalBlend, WordMaps
from wordbrush.model import Model
from wordbrush.options import Options as BaseOptions
from wordbrush.progress import Progress
from wordbrush.result import Result
from wordbrush.source import Source, watched
from wordbrush.words import Alignment, Word, Words, align

Window = tuple[float, float]
NEVER, USUAL = (0.0, 0.0), (0.0, 0.8)  # when words take the source's maps
BlendWords = tuple[tuple[Word, ...], tuple[Word, ...]]  # of the source and of the target


def _window(steps: float | Window) -> Window:
    return steps if isinstance(steps, tuple) else (0.0, steps)


def _in_order(steps: float | Window) -> float | Window:
    start, stop = _window(steps)
    if not 0 <= start <= stop <= 1:
        raise ValueError("expected a fraction from 0 to 1, or two in order (start, stop)")
    return steps


Steps = Annotated[float | Window, AfterValidator(_in_order)]


class Options(BaseOptions):
    """How to edit. Windows are fractions of the run: a number f means (0, f)."""

    kind: Literal["auto", "replace", "refine"] = Field(
        "auto", description="replace hands maps from word to word; refine keeps new words free; auto chooses"
    )
    cross_replace_steps: Steps | None = Field(
        None,
        description="the part of the run in which words take the source's cross-attention maps "
        "(default: 0.8; where words were only taken out, for the words that name something alone)",
    )
    self_replace_steps: Steps = Field(
        0.4, description="the part of the run in which the source's self-attention maps are used"
    )
    self_limit: int | None = Field(
        None,
        ge=0,
        description="largest site, in positions, for self-attention injection (default: where maps are read)",
    )
    word_steps: dict[str, Steps] = Field(
        default_factory=dict[str, Steps], description="windows of single target words, e.g. lion=0.4"
    )
    reweight: dict[str, float] = Field(
        default_factory=dict[str, float],
        description="weights of single target words, e.g. night=3 or beach=-1",
    )
    local_blend: Literal["auto", "off"] | tuple[str, ...] = Field(
        "auto",
        description="words outside of which the source is kept; "
        "auto takes the things that were swapped or taken out",
    )
    blend_start: float = Field(0.2, ge=0, le=1, description="the part of the run before local blend sets in")
    blend_threshold: float = Field(
        0.3, ge=0, le=1, description="share of a word's strongest attention that counts as it"
    )
    spare: tuple[str, ...] = Field((), description="words to leave alone, cut out of the local blend")
    spare_threshold: float = Field(0.3, ge=0, le=1, description="the same share for the words to leave alone")
    guidance_scale: float | None = Field(
        None, ge=0, le=100, description="text guidance (default: the source's)"
    )


@dataclass(frozen=True, eq=False)
class Plan:
    """What the words ask for in one target.

    edit: replace or refine, reweighted; not gated yet, since windows end at steps and the source has those.
    """

    alignment: Alignment
    edit: AttentionEdit
    blend_words: BlendWords


def plan(model: Model, prompt: str, targets: Sequence[str], options: Options) -> list[Plan]:
    """What editing a source of this prompt into each target will do, as far as the words decide it.

    Raises `PromptError` if the prompts do not fit the edit.
    """
    if not targets:
        raise PromptError("expected at least one target prompt, got none")
    before = model.read(prompt)
    alignments = [align(before, model.read(target)) for target in targets]
    prompts = [alignment.target for alignment in alignments]
    _require_somewhere([*options.reweight, *options.word_steps], prompts)
    _require_somewhere([*options.spare, *_given(options.local_blend)], [*prompts, before])
    return [
        Plan(alignment, _words_edit(alignment, options), _blend_words(options, alignment))
        for alignment in alignments
    ]


def edit(
    model: Model, source: Source, targets: Sequence[str], options: Options
) -> Generator[Progress, None, list[Result]]:
    """Edit a source into each of the target prompts, all in one batch; one result per target, in order.

    Raises `PromptError` like `plan`, `SourceError` if the source is another model's.
    """
    source.check(model)
    began = time.perf_counter()
    plans = plan(model, source.prompt, targets, options)
    alignments = [planned.alignment for planned in plans]
    blend_words = [planned.blend_words for planned in plans]
    blends = any(map(any, blend_words))

    height, width = source.trajectory.shape[-2:]
    map_positions = model.map_positions((height, width))
    guidance_scale = source.guidance_scale if options.guidance_scale is None else options.guidance_scale
    attention = EditedAttention(
        edits=[_gated(planned, source.steps, options) for planned in plans],
        steps=source.steps,
        self_window=_self_window(options.self_replace_steps, source.steps),
        self_limit=map_positions if options.self_limit is None else options.self_limit,
        guided=guidance_scale != 1,
        keep_source=blends,
    )
    blend = LocalBlend(
        int(options.blend_start * source.steps), options.blend_threshold, options.spare_threshold
    )
    columns = _blend_columns(alignments, blend_words, options.spare).to(model.device)
    maps = WordMaps(attention, columns, attention.rows, map_positions) if blends else None
    # A target without words to blend by is edited everywhere.
    everywhere = torch.tensor([not any(words) for words in blend_words], device=model.device)[
        :, None, None, None
    ]

    def mask() -> Bool[Tensor, "targets 1 height width"]:
        assert maps is not None
        pairs = maps.mean.reshape(
            len(targets) + 1, len(targets), 2, *maps.mean.shape[-2:]
        )  # each target has its own pair of columns
        own = torch.arange(len(targets))
        return blend.mask(pairs[0], pairs[own + 1, own], (height, width)) | everywhere

    def after_step(step: int, z: Tensor) -> Tensor:
        if maps is None or step < blend.start_step:
            return z
        return torch.where(mask(), z, source.trajectory[step + 1 : step + 2].to(z))

    with attending(model, maps or attention):
        loop = denoise(
            model,
            source.z_T.to(model.device).expand(len(targets), -1, -1, -1),
            model.encode_text(targets),
            source.null,
            source.schedule,
            guidance_scale=guidance_scale,
            rows=attention.rows,
            source=source.row(model),
            after_step=after_step,
        )
        states = yield from watched("editing", loop, model)

    trajectories = torch.stack([source.z_T.to(model.device).expand_as(states[0]), *states], dim=1)
    shares = (mask() if maps else everywhere.expand(-1, 1, height, width)).float().mean((1, 2, 3))
    results: list[Result] = []
    for i, (target, alignment, words) in enumerate(zip(targets, alignments, blend_words, strict=True)):
        share = float(shares[i])
        report: dict[str, Any] = {
            "words": alignment.describe(),
            "kind": _kind(alignment, options),
            "local_blend": list(dict.fromkeys(word.text for side in words for word in side)),
            "edited_share": share,
            "notices": _notices(alignment, options, words, share),
            "guidance_scale": guidance_scale,
            "unet_rows": sum(attention.rows(i).count for i in range(source.steps)),
            "seconds": round(time.perf_counter() - began, 3),
        }
        results.append(Result(target, report, source, trajectories[i], model))
    return results


def _kind(alignment: Alignment, options: Options) -> Literal["replace", "refine"]:
    if options.kind == "auto":
        return "replace" if alignment.is_one_to_one else "refine"
    return options.kind


def _words_edit(alignment: Alignment, options: Options) -> AttentionEdit:
    """Replace or refine, then reweighted, in the released code's order."""
    target = alignment.target
    edit = replace(alignment) if _kind(alignment, options) == "replace" else refine(alignment)
    if not options.reweight:
        return edit
    weights = torch.ones(target.length)
    for word, weight in options.reweight.items():
        if target.has(word):
            weights[target.indicator([word]) > 0] = weight
    return reweight(edit, weights)


def _gated(planned: Plan, steps: int, options: Options) -> AttentionEdit:
    """The planned edit in its windows: the prompt's, and those of single words."""
    target, fractions = planned.alignment.target, options.cross_replace_steps
    spans = [
        (target.indicator([word]), _window(own))
        for word, own in options.word_steps.items()
        if target.has(word)
    ]
    if fractions is None and planned.alignment.is_removal:
        # What is taken out would leave a hole in its own shape: the source's other words did not look there, and its
        # articles and end tokens did. So only what names something keeps looking where it did, lest it grow anew in
        # the hole. A weight works in the window alone, so a word that has one is held as well.
        named = (word for word in target.words if word.names_something)
        held = [*named, *_found(target, tuple(options.reweight))]
        spans.insert(0, (target.column(held), USUAL))
        fractions = NEVER
    fractions = USUAL if fractions is None else _window(fractions)
    return gate(planned.edit, window(target.length, steps, fractions, spans))


def _self_window(fractions: float | Window, steps: int) -> tuple[int, int]:
    start, stop = _window(fractions)
    return int(start * steps), int(stop * steps)


def _given(local_blend: str | tuple[str, ...]) -> tuple[str, ...]:
    return local_blend if isinstance(local_blend, tuple) else ()


def _require_somewhere(phrases: Sequence[str], prompts: Sequence[Words]) -> None:
    """Each phrase must occur in at least one of the prompts; the first prompt explains if it does not."""
    for phrase in phrases:
        if not any(words.has(phrase) for words in prompts):
            prompts[0].find(phrase)


def _blend_words(options: Options, alignment: Alignment) -> BlendWords:
    """The words that local blend edits in one target: as given, or what was swapped or taken out."""
    prompts = alignment.source, alignment.target
    match options.local_blend:
        case "off":
            return (), ()
        case "auto":
            # Elsewhere what changed is no thing with a place in the source: it may be anywhere.
            changed = alignment.changed() if alignment.is_one_to_one or alignment.is_removal else ()
            source = (word for match in changed for word in match.source if word.names_something)
            target = (word for match in changed for word in match.target if word.names_something)
            return tuple(source), tuple(target)
        case phrases:
            if phrases and not any(words.has(phrase) for phrase in phrases for words in prompts):
                alignment.target.find(phrases[0])  # raises, naming the words there are
            return _found(prompts[0], phrases), _found(prompts[1], phrases)


def _found(words: Words, phrases: Sequence[str]) -> tuple[Word, ...]:
    return tuple(word for phrase in phrases if words.has(phrase) for word in words.find(phrase))


def _blend_columns(
    alignments: Sequence[Alignment], blend_words: Sequence[BlendWords], spared: Sequence[str]
) -> Float[Tensor, "pictures tokens columns"]:
    """Indicators for the source and each target: two columns per target, its words to edit and to leave alone.

    The source has all of them, a target only its own pair.
    """
    length = alignments[0].source.length
    columns = torch.zeros(len(alignments) + 1, length, len(alignments), 2)
    for i, (alignment, edited) in enumerate(zip(alignments, blend_words, strict=True)):
        for picture, words, chosen in (
            (0, alignment.source, edited[0]),
            (i + 1, alignment.target, edited[1]),
        ):
            columns[picture, :, i, 0] = words.column(chosen)
            columns[picture, :, i, 1] = words.column(_found(words, spared))
    return columns.flatten(2)


def _notices(alignment: Alignment, options: Options, blend_words: BlendWords, share: float) -> list[str]:
    """What a user should know of an edit that did not fail and may still disappoint."""
    notices: list[str] = []
    is_reweighted = any(alignment.target.has(word) for word in options.reweight)
    if not alignment.changed() and not is_reweighted:
        notices.append("both prompts say the same: without a reweight, the edit is the source")
    if any(blend_words) and share == 0:
        notices.append("the local blend's mask is empty, so the picture is the source: lower blend_threshold")
    return notices
