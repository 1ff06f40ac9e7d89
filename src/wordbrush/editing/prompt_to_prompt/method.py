"""Prompt-to-Prompt image editing with cross-attention control (Hertz et al. 2022, arXiv 2208.01626).

A target is denoised beside its source; in the early steps the words that it shares with the source, or that replace
source words, take the source's attention maps. Swap (section 3.2, eq. for replace), refinement,
re-weighting, per-word windows, self-attention injection and local blend (section 4) are all here.

Deviations from the released code: words are aligned, not tokens (see `wordbrush.words`); no map is built (see
`wordbrush.attention_edit`); where words are only removed, articles and padding keep their own maps by default
(the paper has no removals); the source's unconditional row is never computed and its conditional row only while
something reads it; an unknown word is an error instead of an empty mask.
"""

import time
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from wordbrush.attention_edit import AttentionEdit, EditedAttention, gate, refine, replace, reweight, window
from wordbrush.denoise import denoise
from wordbrush.editing.prompt_to_prompt.options import Options, Window, window_of
from wordbrush.errors import PromptError
from wordbrush.guidance import Guidance, TextGuidance
from wordbrush.local_blend import LocalBlend, WordMaps
from wordbrush.model import Conditioning, Model
from wordbrush.progress import Progress
from wordbrush.request import EditRequest, Need
from wordbrush.result import Report, Result
from wordbrush.sampling import watched
from wordbrush.source import Source
from wordbrush.words import Alignment, Word, Words, align

NEEDS: frozenset[Need] = frozenset({"source"})

NEVER: Window = (0.0, 0.0)
USUAL: Window = (0.0, 0.8)  # the steps that use the source's cross-attention maps
BlendWords = tuple[tuple[Word, ...], tuple[Word, ...]]  # of the source and of the target


@dataclass(frozen=True, eq=False)
class Plan:
    """What the words ask for in one target.

    edit: replace or refine, reweighted; not gated yet, since windows end at steps and the source has those.
    """

    alignment: Alignment
    edit: AttentionEdit
    blend_words: BlendWords


def plan(model: Model, request: EditRequest) -> list[Plan]:
    """What editing a source of this prompt into each target will do, as far as the words decide it.

    Raises `PromptError` if the prompts do not fit the edit.
    """
    options: Options = request.options
    if not request.targets or request.prompt is None:
        raise PromptError("expected the source's prompt and at least one target prompt, got none")
    source = model.read(request.prompt)
    alignments = [align(source, model.read(target)) for target in request.targets]
    prompts = [alignment.target for alignment in alignments]
    _require_somewhere([*options.reweight, *options.word_steps], prompts)
    _require_somewhere([*options.spare, *_given(options.local_blend)], [*prompts, source])
    return [
        Plan(alignment, _words_edit(alignment, options), _blend_words(options, alignment))
        for alignment in alignments
    ]


def edit(model: Model, request: EditRequest) -> Generator[Progress, None, list[Result]]:
    """Edit a source into each of the target prompts, all in one batch; one result per target, in order.

    Raises `PromptError` like `plan`, `SourceError` if the source is another model's.
    """
    source, options = request.started(model), request.options
    began = time.perf_counter()
    plans = plan(model, request)
    count, z_T = len(plans), source.z_T.to(model.device)  # noqa: N806
    guidance_scale = source.guidance_scale if options.guidance_scale is None else options.guidance_scale
    guidance = TextGuidance(guidance_scale)
    attention = _attention(model, source, plans, options, guidance)
    blending = _Blending(model, source, plans, options, attention)
    text = Conditioning(model.encode_text(request.targets))
    loop = denoise(
        model,
        z_T.expand(count, -1, -1, -1),
        {"text": text, "null": source.unconditional()},
        source.schedule,
        guidance,
        rows=attention.rows,
        source=source.row(model),
        attend=blending.maps or attention,
        after_step=blending.after_step,
    )
    states = yield from watched("editing", loop, model)
    trajectories = torch.stack([z_T.expand_as(states[0]), *states], dim=1)
    shares = blending.mask().float().mean((1, 2, 3))
    rows = sum(attention.rows(i).count for i in range(source.steps))
    seconds = round(time.perf_counter() - began, 3)
    return [
        Result(
            target,
            _report(planned, options, float(share), guidance_scale, rows, seconds),
            source,
            trajectory,
            model,
        )
        for target, planned, share, trajectory in zip(
            request.targets, plans, shares, trajectories, strict=True
        )
    ]


def _attention(
    model: Model, source: Source, plans: Sequence[Plan], options: Options, guidance: Guidance
) -> EditedAttention:
    """The plans in their windows, as the attention of the run."""
    start, stop = window_of(options.self_replace_steps)
    height, width = source.z_T.shape[-2:]
    limit = model.map_positions((height, width)) if options.self_limit is None else options.self_limit
    return EditedAttention(
        edits=[_gated(planned, source.steps, options) for planned in plans],
        steps=source.steps,
        self_window=(int(start * source.steps), int(stop * source.steps)),
        self_limit=limit,
        branches=lambda step: guidance.branches(step / source.steps),
        keep_source=any(any(planned.blend_words) for planned in plans),
    )


class _Blending:
    """Local blend during one run: `maps` sees the attention, `after_step` puts the source back outside of the masks."""

    def __init__(
        self,
        model: Model,
        source: Source,
        plans: Sequence[Plan],
        options: Options,
        attention: EditedAttention,
    ) -> None:
        height, width = source.z_T.shape[-2:]
        self._size, self._source, self._count = (height, width), source, len(plans)
        start = int(options.blend_start * source.steps)
        self._blend = LocalBlend(start, options.blend_threshold, options.spare_threshold)
        # A target without words to blend by is edited everywhere.
        words = [any(planned.blend_words) for planned in plans]
        self._everywhere = ~torch.tensor(words, device=model.device)[:, None, None, None]
        columns = _blend_columns(plans, options.spare).to(model.device)
        positions = model.map_positions(self._size)
        self.maps = WordMaps(attention, columns, attention.rows, positions) if any(words) else None

    def mask(self) -> Bool[Tensor, "targets 1 height width"]:
        """Where each target may differ from the source, by the maps so far."""
        if self.maps is None:
            return self._everywhere.expand(-1, 1, *self._size)
        # Each target has its own pair of columns.
        pairs = self.maps.mean.reshape(self._count + 1, self._count, 2, *self.maps.mean.shape[-2:])
        own = torch.arange(self._count)
        return self._blend.mask(pairs[0], pairs[own + 1, own], self._size) | self._everywhere

    def after_step(self, step: int, z: Float[Tensor, "targets c h w"]) -> Float[Tensor, "targets c h w"]:
        """The latents that go on: the targets' inside their masks, the source's outside."""
        if self.maps is None or step < self._blend.start_step:
            return z
        return torch.where(self.mask(), z, self._source.states.at(step + 1).to(z))


def _report(
    planned: Plan, options: Options, share: float, guidance_scale: float, rows: int, seconds: float
) -> Report:
    blended = [word.text for side in planned.blend_words for word in side]
    return Report(
        words=planned.alignment.describe(),
        edited_share=share,
        guidance_scale=guidance_scale,
        unet_rows=rows,
        seconds=seconds,
        notices=tuple(_notices(planned, options, share)),
        details={"kind": _kind(planned.alignment, options), "local_blend": list(dict.fromkeys(blended))},
    )


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
        (target.indicator([word]), window_of(own))
        for word, own in options.word_steps.items()
        if target.has(word)
    ]
    if fractions is None and planned.alignment.is_removal:
        # A removed thing would leave a hole of its own shape: the source's articles and end tokens attended there, its
        # other words did not. So only words that name something keep the source's maps, and nothing grows in the hole.
        # A weight works in the window only, so a word that has one keeps them too.
        named = (word for word in target.words if word.names_something)
        held = [*named, *_found(target, tuple(options.reweight))]
        spans.insert(0, (target.column(held), USUAL))
        fractions = NEVER
    fractions = USUAL if fractions is None else window_of(fractions)
    return gate(planned.edit, window(target.length, steps, fractions, spans))


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


def _blend_columns(plans: Sequence[Plan], spared: Sequence[str]) -> Float[Tensor, "pictures tokens columns"]:
    """Indicators for the source and each target: two columns per target, its words to edit and to leave alone.

    The source has all of them, a target only its own pair.
    """
    length = plans[0].alignment.source.length
    columns = torch.zeros(len(plans) + 1, length, len(plans), 2)
    for i, planned in enumerate(plans):
        prompts = planned.alignment.source, planned.alignment.target
        for picture, words, chosen in zip((0, i + 1), prompts, planned.blend_words, strict=True):
            columns[picture, :, i, 0] = words.column(chosen)
            columns[picture, :, i, 1] = words.column(_found(words, spared))
    return columns.flatten(2)


def _notices(planned: Plan, options: Options, share: float) -> list[str]:
    notices: list[str] = []
    alignment = planned.alignment
    is_reweighted = any(alignment.target.has(word) for word in options.reweight)
    if not alignment.changed() and not is_reweighted:
        notices.append("both prompts say the same: without a reweight, the edit is the source")
    if any(planned.blend_words) and share == 0:
        notices.append("the local blend's mask is empty, so the picture is the source: lower blend_threshold")
    return notices
