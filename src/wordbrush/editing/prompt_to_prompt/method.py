"""Prompt-to-Prompt image editing with cross-attention control (Hertz et al. 2022, arXiv 2208.01626).

A target is denoised beside its source; in the early steps the words that it shares with the source, or that replace
source words, take the source's attention maps. Swap (section 3.2, eq. for replace), refinement,
re-weighting, per-word windows, self-attention injection and local blend (section 4) are all here.

Deviations from the released code: words are aligned, not tokens (see `wordbrush.words`); no map is built (see
`wordbrush.attention_edit`); windows, blend words and the like follow from what the words change, where the user does
not choose (see `defaults`); what is inside the mask may be finished with ordinary guidance and without the source
(`finish`, ours); an edit may begin late in its source's run (`start`, ours: the method's strength); the source's
unconditional row is never computed and its conditional row only while something reads it; an unknown word is an error
instead of an empty mask; where the words ask for nothing the result is the source.
"""

import time
from collections.abc import Generator, Sequence
from dataclasses import dataclass, replace
from typing import Literal, TypeVar

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from wordbrush import attention_edit
from wordbrush.attention_edit import AttentionEdit, EditedAttention, gate, refine, reweight, window
from wordbrush.changes import Change, read
from wordbrush.denoise import Step, denoise
from wordbrush.editing import UNCHANGED, Dial
from wordbrush.editing.prompt_to_prompt import defaults
from wordbrush.editing.prompt_to_prompt.blending import Blending, BlendWords, WordPair, found, kept_things
from wordbrush.editing.prompt_to_prompt.idle import idle
from wordbrush.editing.prompt_to_prompt.options import Options, Window, window_of
from wordbrush.errors import OptionsError
from wordbrush.guidance import DifferenceGuidance, SwitchedGuidance, TextGuidance
from wordbrush.local_blend import LocalBlend
from wordbrush.model import Conditioning, Model
from wordbrush.progress import Progress
from wordbrush.recording import Reads
from wordbrush.request import EditRequest, Need
from wordbrush.result import Looks, Report, Result
from wordbrush.sampling import watched
from wordbrush.source import Source
from wordbrush.states import StraightPath
from wordbrush.words import Alignment, Words

NEEDS: frozenset[Need] = frozenset({"source"})

STRENGTH = Dial(option="start", source=1.0, full=0.0)

NEVER: Window = (0.0, 0.0)
T = TypeVar("T")


@dataclass(frozen=True, eq=False)
class Plan:
    """What the words ask for in one target.

    edit: replace or refine, reweighted; not gated yet, since windows end at steps and the source has those.
    names_only: whether the windows are those of words that name something, and other words keep their own maps.
    """

    alignment: Alignment
    change: Change
    edit: AttentionEdit
    is_reweighted: bool
    names_only: bool

    @property
    def asks_for_nothing(self) -> bool:
        """Whether the edit is the source."""
        return self.change.kind == "nothing" and not self.is_reweighted


def plan(model: Model, request: EditRequest) -> list[Plan]:
    """What editing a source of this prompt into each target will do, as far as the words decide it.

    Raises `PromptError` if the prompts do not fit the edit.
    """
    options: Options = request.options
    alignments = request.alignments(model)
    source = alignments[0].source
    prompts = [alignment.target for alignment in alignments]
    _require_somewhere([*options.reweight, *options.word_steps], prompts)
    _require_somewhere([*_given(options.spare), *_given(options.local_blend)], [*prompts, source])
    return [_planned(alignment, options) for alignment in alignments]


def _planned(alignment: Alignment, options: Options) -> Plan:
    change = read(alignment)
    # A removed thing would leave a hole of its own shape: the source's articles and end tokens attended there, its
    # other words did not. So only words that name something keep the source's maps, and nothing grows in the hole.
    names_only = change.kind == "remove" and options.cross_replace_steps is None
    is_reweighted = any(alignment.target.has(word) for word in options.reweight)
    return Plan(alignment, change, _words_edit(alignment, options), is_reweighted, names_only)


def edit(model: Model, request: EditRequest) -> Generator[Progress, None, list[Result]]:
    """Edit a source into each of the target prompts; one result per target, in order.

    Targets for which the same was decided are one batch. Raises `PromptError` like `plan`, `SourceError` if the source
    is another model's.
    """
    source, given = request.started(model), request.options
    began = time.perf_counter()
    plans = plan(model, request)
    is_source = given.start == 1
    if not is_source:
        source = source.late(given.start, model)
    decided = [defaults.decided(given, planned.change, source) for planned in plans]
    batches: dict[str, list[int]] = {}
    for i, (planned, options) in enumerate(zip(plans, decided, strict=True)):
        if not (planned.asks_for_nothing or is_source):
            batches.setdefault(options.model_dump_json(), []).append(i)
    outcomes: dict[int, _Outcome] = {}
    idles: dict[int, list[str]] = {}
    rows, is_strange = 0, False
    for done, members in enumerate(batches.values()):
        run = _Run(model, source, [plans[i] for i in members], decided[members[0]], request.free(source))
        outcomes |= zip(members, (yield from run.edited(done, len(batches))), strict=True)
        idles |= zip(members, run.idle(given), strict=True)
        rows += run.unet_rows
        is_strange = is_strange or run.is_strange
    seconds = round(time.perf_counter() - began, 3)
    results: list[Result] = []
    for i, (target, planned, options) in enumerate(zip(request.targets, plans, decided, strict=True)):
        outcome = outcomes.get(i) or _Outcome.unchanged(model, source, planned.asks_for_nothing)
        notices = [*_notices(planned, outcome, is_source, request.mask is not None), *idles.get(i, [])]
        if i in outcomes:
            notices += defaults.notices(model, source, is_strange)
        report = _report(planned, options, given, outcome, source, rows, seconds, notices)
        results.append(Result(target, report, source, outcome.trajectory, model, outcome.mask, outcome.looks))
    return results


@dataclass(frozen=True, eq=False)
class _Outcome:
    """What became of one target. mask: where it was free to change; blended: the words it kept to; looks: where those
    looked."""

    trajectory: Float[Tensor, "steps_plus_1 c h w"]
    mask: Bool[Tensor, "height width"]
    blended: tuple[str, ...] = ()
    looks: Looks = (None, None)

    @property
    def share(self) -> float:
        """The share of the picture that it was free to change."""
        return float(self.mask.float().mean())

    @classmethod
    def unchanged(cls, model: Model, source: Source, is_asked: bool) -> "_Outcome":
        """The source. is_asked: by the words, and then it ends with the picture that it was made of, however well that
        was inverted; where an edit was only not begun, it ends where weaker and weaker ones do."""
        trajectory = source.trajectory
        if is_asked:
            trajectory = torch.cat([trajectory[:-1], source.encoded(model)])
        nowhere = torch.zeros(trajectory.shape[-2:], dtype=torch.bool)
        return cls(trajectory.to(model.device), nowhere)


class _Run:
    """The targets of one batch, and the options that they share. free: the latents that the user lets change."""

    def __init__(
        self,
        model: Model,
        source: Source,
        plans: Sequence[Plan],
        options: Options,
        free: Bool[Tensor, "1 1 h w"],
    ) -> None:
        self._model, self._source, self._plans, self._options = model, source, plans, options
        self.is_strange = False
        self._words = [_blend_words(planned, options, source) for planned in plans]
        self._guidance = self._guiding(options)
        self._attention = self._attending(options)
        self._blending = Blending(
            model,
            source,
            self._words,
            self._attention,
            LocalBlend(
                self._blend_start(options),
                _decided(options.blend_threshold),
                _decided(options.spare_threshold),
            ),
            _decided(options.blend_difference),
            _decided(options.hold),
            self._finish,
            free,
        )

    @property
    def _finish(self) -> int:
        """The first step whose guidance is the ordinary one."""
        steps = self._source.steps
        return sum(i / steps < self._guidance.at for i in range(steps))

    @property
    def unet_rows(self) -> int:
        """The rows of all steps."""
        once = sum(self._attention.rows(i).count for i in range(self._source.steps))
        return once * self._source.states.predictions

    def edited(self, done: int, of: int) -> Generator[Progress, None, list[_Outcome]]:
        """Edit the targets of this batch, of `of` batches of which `done` are made."""
        model, source = self._model, self._source
        count, z_T = len(self._plans), source.z_T.to(model.device)  # noqa: N806
        text = Conditioning(model.encode_text([planned.alignment.target.prompt for planned in self._plans]))
        loop = denoise(
            model,
            z_T.expand(count, -1, -1, -1),
            {"text": text, "null": self._null()},
            source.schedule,
            self._guidance,
            rows=self._attention.rows,
            source=source.row(model),
            attend=self._blending.attend,
            after_step=self._blending.after_step,
        )
        states = yield from watched("editing", loop, model, done=done, of=of, see=self._see)
        trajectories = torch.stack([z_T.expand_as(states[0]), *states], dim=1)
        return [
            _Outcome(trajectory, mask, one.texts, looks)
            for trajectory, mask, one, looks in zip(
                trajectories, self._blending.masks, self._words, self._blending.looks, strict=True
            )
        ]

    def idle(self, given: Options) -> list[list[str]]:
        """For each target, what to say of options that were given and do nothing."""
        steps = self._source.steps
        leads_away = any("null" in self._guidance.branches(i / steps) for i in range(steps))
        never, injects = self._blend_start(self._options) >= steps, self._attention.self_window
        return [
            idle(given, self._options, planned.alignment.target, edit, words, injects, never, leads_away)
            for planned, edit, words in zip(self._plans, self._attention.edits, self._words, strict=True)
        ]

    def _blend_start(self, options: Options) -> int:
        """The first step after which local blend acts: before the masks are fixed, or there would be none; but 1 is
        never."""
        start = int(_decided(options.blend_start) * self._source.steps)
        return start if start == self._source.steps else min(start, self._finish - 1)

    def _null(self) -> Conditioning | list[Conditioning]:
        """What the guidance leads away from."""
        negative = self._options.negative_prompt
        if negative is None:
            return self._source.unconditional()
        return Conditioning(self._model.encode_text([negative]))

    def _see(self, step: Step) -> None:
        """Note how well the model denoises the source: what it does badly there it has not learned to draw."""
        states = self._source.states
        if isinstance(states, StraightPath) and step.source_noise is not None:
            here, noise = states.levels[step.index].t, states.noise.to(step.source_noise)
            self.is_strange |= defaults.is_strange(self._model, here, noise, step.source_noise)

    def _guiding(self, options: Options) -> SwitchedGuidance:
        """The source's guidance, and the ordinary one to finish with."""
        first = self._source.states.guidance(_scale(self._source, options))
        if isinstance(first, DifferenceGuidance):
            first = replace(first, share=lambda: self._blending.share())
        elif options.hold:
            raise OptionsError(
                "hold weighs the difference that edits on the straight path follow, and this source has a path of its "
                "own: leave hold out, or invert with straight"
            )
        # The straight path's scale weighs that difference and says nothing of how to guide without it.
        then = first if isinstance(first, TextGuidance) else TextGuidance(self._model.defaults.guidance_scale)
        return SwitchedGuidance(first, then, _decided(options.finish))

    def _attending(self, options: Options) -> EditedAttention:
        """The plans in their windows, as the attention of the run."""
        source, guidance = self._source, self._guidance
        is_reading = any(words.is_read for words in self._words)
        steps, size = source.steps, (source.z_T.shape[-2], source.z_T.shape[-1])
        start, stop = window_of(_decided(options.self_replace_steps))
        maps = self._model.map_positions(size)
        return EditedAttention(
            edits=[_gated(planned, steps, options) for planned in self._plans],
            steps=steps,
            self_window=(int(start * steps), int(stop * steps)),
            self_limit=maps if options.self_limit is None else options.self_limit,
            branches=lambda step: guidance.branches(step / steps),
            also=lambda step: Reads(
                prediction=guidance.reads_source(step / steps),
                maps=maps if is_reading and step < self._finish else 0,
            ),
            recording=source.recording,
        )


def _decided(value: T | None) -> T:
    """The value of an option that `defaults.decided` has filled in."""
    assert value is not None, "this option is decided by what the words change"
    return value


def _scale(source: Source, options: Options) -> float:
    return source.guidance_scale if options.guidance_scale is None else options.guidance_scale


def _report(
    planned: Plan,
    options: Options,
    given: Options,
    outcome: _Outcome,
    source: Source,
    rows: int,
    seconds: float,
    notices: Sequence[str],
) -> Report:
    return Report(
        words=planned.alignment.describe(),
        edited_share=outcome.share,
        guidance_scale=_scale(source, options),
        unet_rows=rows,
        seconds=seconds,
        notices=tuple(notices),
        details={
            "change": planned.change.kind,
            "because": planned.change.reason,
            "chosen": {} if planned.asks_for_nothing else defaults.chosen(given, options),
            "word_edit": _word_edit(planned.alignment, options),
            "local_blend": list(outcome.blended),
        },
    )


def _word_edit(alignment: Alignment, options: Options) -> Literal["replace", "refine"]:
    if options.word_edit == "auto":
        return "replace" if alignment.is_one_to_one else "refine"
    return options.word_edit


def _words_edit(alignment: Alignment, options: Options) -> AttentionEdit:
    """Replace or refine, then reweighted, in the released code's order."""
    target = alignment.target
    is_replace = _word_edit(alignment, options) == "replace"
    edit = attention_edit.replace(alignment) if is_replace else refine(alignment)
    if not options.reweight:
        return edit
    weights = torch.ones(target.length)
    for word, weight in options.reweight.items():
        if target.has(word):
            weights[target.indicator([word]) > 0] = weight
    return reweight(edit, weights)


def _gated(planned: Plan, steps: int, options: Options) -> AttentionEdit:
    """The planned edit in its windows: the prompt's, and those of single words."""
    target, fractions = planned.alignment.target, window_of(_decided(options.cross_replace_steps))
    spans = [
        (target.indicator([word]), window_of(own))
        for word, own in options.word_steps.items()
        if target.has(word)
    ]
    if planned.names_only:  # a weight works in the window only, so a word that has one is in it too
        named = (word for word in target.words if word.names_something)
        held = [*named, *found(target, tuple(options.reweight))]
        spans.insert(0, (target.column(held), fractions))
        fractions = NEVER
    return gate(planned.edit, window(target.length, steps, fractions, spans))


def _given(words: str | tuple[str, ...]) -> tuple[str, ...]:
    return words if isinstance(words, tuple) else ()


def _require_somewhere(phrases: Sequence[str], prompts: Sequence[Words]) -> None:
    """Each phrase must occur in at least one of the prompts; the first prompt explains if it does not."""
    for phrase in phrases:
        if not any(words.has(phrase) for words in prompts):
            prompts[0].find(phrase)


def _blend_words(planned: Plan, options: Options, source: Source) -> BlendWords:
    """The words that local blend reads for one target: as given, or by what changes."""
    alignment, change = planned.alignment, planned.change
    prompts, parts = (alignment.source, alignment.target), change.parts
    is_added, is_straight = "add" in change.kinds, isinstance(source.states, StraightPath)
    # Elsewhere nothing finds a place for a new thing, and it may be anywhere.
    is_auto = options.local_blend == "auto" and change.is_local and (is_straight or not is_added)
    edited = found(prompts[0], _given(options.local_blend)), found(prompts[1], _given(options.local_blend))
    if is_auto:
        edited = (
            tuple(w for part in parts for w in part.source),
            tuple(w for part in parts for w in part.target),
        )
    kept = kept_things(alignment, change)
    spared = found(prompts[0], _given(options.spare)), found(prompts[1], _given(options.spare))
    if options.spare == "things":
        spared = kept
    held: WordPair = kept if options.hold else ((), ())
    about = len(parts) if is_auto else len(_given(options.local_blend))
    if "resize" in change.kinds:  # a large thing is looked at in its middle more than at its edges
        about += 1
    return BlendWords(alignment, edited, spared, held, is_auto and is_added, max(1, about))


def _notices(planned: Plan, outcome: _Outcome, is_source: bool, is_confined: bool) -> list[str]:
    notices: list[str] = []
    if planned.asks_for_nothing:
        notices.append("both prompts say the same: without a reweight, the edit is the source")
    elif is_source:
        notices.append(UNCHANGED)
    elif outcome.share == 0:
        where = "what changes is outside of the mask" if is_confined else "the local blend's mask is empty"
        notices.append(f"{where}, so the picture is the source: lower blend_threshold, or local_blend off")
    return notices
