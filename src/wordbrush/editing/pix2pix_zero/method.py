"""pix2pix-zero (Parmar et al. 2023, "Zero-shot Image-to-Image Translation", algorithm 1).

The source's text embedding c is led along an edit direction, c + Δc (`direction`, section 3.2). In each step the
latents first go down the distance between their cross-attention maps and the source's,

    z_t ← z_t − λ ∇‖M(z_t, c + Δc) − M(z_source, c)‖²                         (section 3.3, eq. 4)

and then take the sampler's step from there. So the layout is held by moving the latents, and no map is replaced.

As published, and not as released: each target has one z_t. The released code has one for each half of the guidance's
batch, and goes on with that of the half without the edited text, so the edited text's maps move nothing that stays.
`held_maps="source"` holds the maps of the source's text instead, which is what remains of it for real pictures, where
the caption is in that half. All steps are taken (released: all but the first and the last). The average over heads is
one row's (released: both rows', so its λ is twice ours for the same step). A caption as the negative prompt, as
released for real pictures, is what the inversion `negative_prompt` has; the straight path has its own form of it.

The source's maps are those of its known states: nothing is drawn again to find them, and no step keeps them
(`held_maps`). Noise regularisation is an inversion of its own, `regularised`.

Where the target's own caption is the text, words may be added or taken out. Then the words that both captions have
are held to each other (`attention_edit`), and new ones to nothing.
"""

import time
from collections.abc import Generator, Sequence
from dataclasses import dataclass, field, replace

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from wordbrush import attention_edit
from wordbrush.attention_edit import AttentionEdit
from wordbrush.changes import read
from wordbrush.denoise import SourceRow, check_finite, denoise
from wordbrush.editing import UNCHANGED, Dial
from wordbrush.editing.pix2pix_zero.direction import Direction, read_sentences
from wordbrush.editing.pix2pix_zero.held_maps import HeldMaps
from wordbrush.editing.pix2pix_zero.options import Options
from wordbrush.errors import OptionsError, PromptError
from wordbrush.guidance import Guidance
from wordbrush.model import Conditioning, Model, TextEmbeds
from wordbrush.options import RecordOptions
from wordbrush.progress import Progress
from wordbrush.recording import Reads, Recorder, Recording
from wordbrush.request import EditRequest, Need
from wordbrush.result import Report, Result
from wordbrush.rows import Rows
from wordbrush.sampling import watched
from wordbrush.source import Source
from wordbrush.words import Alignment

NEEDS: frozenset[Need] = frozenset({"source"})

STRENGTH = Dial(option="start", source=1.0, full=0.0)

ENDINGS = (
    "",
    "on a beach",
    "in a forest",
    "in the snow",
    "in a meadow",
    "in the mountains",
    "in a city",
    "on a street",
    "in a room",
    "at night",
    "at sunset",
    "in the rain",
    "in a forest at night",
    "on a street in the rain",
    "in a room at sunset",
)
"""What may follow a thing in a sentence."""

RATE = 0.05  # the released 0.1 for real pictures, of an average over twice as many maps
POCKET_RATE = 1.0  # chosen on rendered scenes (`docs/methods/pix2pix-zero.md`)
_HALF = 2.0**12
"""What a distance is multiplied by in half precision, so that its gradient is not too small."""


@dataclass(frozen=True)
class Plan:
    """One target: what its text becomes, and of which of its tokens the maps are held to the source's.

    sentences: what a direction is made of; None for the target's own text. file: a saved direction instead.
    """

    alignment: Alignment
    sentences: tuple[Sequence[str], Sequence[str]] | None = None
    file: str | None = None

    def text(self, model: Model, source: TextEmbeds, scale: float) -> TextEmbeds:
        """c + Δc."""
        if self.file is not None:
            return Direction.load(self.file, model).applied(source, scale)
        if self.sentences is not None:
            return Direction.of(model, *self.sentences).applied(source, scale)
        target = model.encode_text([self.alignment.target.prompt])
        if scale == 1:
            return target
        both = [self.alignment.source.prompt], [self.alignment.target.prompt]
        return replace(Direction.of(model, *both).applied(source, scale), spots=target.spots)

    def held(self, maps_of: str) -> AttentionEdit:
        """M diag(1 − B) is held to M_source A."""
        if maps_of == "source" or self.sentences is not None or self.file is not None:
            # The text stands where the source's stood: token by token.
            tokens = self.alignment.source.length
            return AttentionEdit(torch.eye(tokens)[None], torch.zeros(1, tokens))
        # The target's own text may be longer or shorter: its words are held to the source's that they stand for.
        if self.alignment.is_one_to_one:
            return attention_edit.replace(self.alignment)
        return attention_edit.refine(self.alignment)


def plan(model: Model, request: EditRequest) -> list[Plan]:
    """The targets, each with where its direction comes from.

    Raises `PromptError` for what the model cannot read, `OptionsError` for directions that cannot be made.
    """
    options: Options = request.options
    alignments = request.alignments(model)
    told = bool(options.source_sentences), bool(options.target_sentences)
    if any(told) and options.direction is not None:
        raise OptionsError("expected sentences or a direction made of them, got both: leave one of them out")
    if any(told) and not all(told):
        missing = "target_sentences" if told[0] else "source_sentences"
        raise OptionsError(f"expected sentences about the source and about the target, got none in {missing}")
    if (any(told) or options.direction is not None) and len(alignments) > 1:
        raise OptionsError(
            f"expected one target with a direction of its own, got {len(alignments)}, which would all be the "
            "same: edit them one by one"
        )
    if any(told):
        sentences = read_sentences(options.source_sentences), read_sentences(options.target_sentences)
        for sentence in (*sentences[0], *sentences[1]):
            model.read(sentence)
        return [Plan(alignments[0], sentences)]
    if options.direction is not None:
        Direction.load(options.direction, model)
        return [Plan(alignments[0], file=options.direction)]
    if options.sentences == "captions":
        return [Plan(alignment) for alignment in alignments]
    return [Plan(alignment, _sentences(model, alignment)) for alignment in alignments]


def _sentences(model: Model, alignment: Alignment) -> tuple[list[str], list[str]]:
    """Both captions up to the last thing that changes, with many endings. What changes stands where it does in the
    caption, since embeddings are added position by position."""
    matches = alignment.matches
    about = {word for part in read(alignment).parts for word in (*part.source, *part.target)}
    changed = [
        i for i, each in enumerate(matches) if each.kind != "same" or about & {*each.source, *each.target}
    ]
    begun = matches[: changed[-1] + 1] if changed else matches
    before = " ".join(word.text for match in begun for word in match.source)
    after = " ".join(word.text for match in begun for word in match.target)
    pairs = [(f"{before} {ending}".strip(), f"{after} {ending}".strip()) for ending in ENDINGS]
    pairs = [pair for pair in pairs if all(_fits(model, sentence) for sentence in pair)]
    return [source for source, _ in pairs], [target for _, target in pairs]


def _fits(model: Model, sentence: str) -> bool:
    try:
        model.read(sentence)
    except PromptError:
        return False
    return True


def edit(model: Model, request: EditRequest) -> Generator[Progress, None, list[Result]]:
    """Edit a source into each of the targets; one result per target, in order.

    Raises `PromptError` and `OptionsError` like `plan`, `SourceError` if the source is another model's.
    """
    source = request.started(model)
    options: Options = request.options
    began = time.perf_counter()
    plans = plan(model, request)
    scale = source.guidance_scale if options.guidance_scale is None else options.guidance_scale
    free = request.free(source).to(model.device)
    trajectories = source.trajectory.expand(len(plans), -1, -1, -1, -1).to(model.device)
    notices = (UNCHANGED,)
    rows, share = 0, 0.0
    if options.start < 1:
        notices, share = (), float(free.float().mean())
        source = source.late(options.start, model)
        run = _Run(model, source, plans, options, source.states.guidance(scale), free)
        trajectories, rows = yield from run.edited()
    seconds = round(time.perf_counter() - began, 3)
    results: list[Result] = []
    for planned, trajectory in zip(plans, trajectories, strict=True):
        count = 1 if planned.sentences is None else len(planned.sentences[1])
        said = planned.file or f"{count} {'sentence' if count == 1 else 'sentences'}"
        details = {"direction": said, "attention_guidance": _rate(model, options)}
        report = Report(planned.alignment.describe(), share, scale, rows, seconds, notices, details)
        target = planned.alignment.target.prompt
        results.append(Result(target, report, source, trajectory, model, free[0, 0]))
    return results


def _rate(model: Model, options: Options) -> float:
    """λ."""
    usual = POCKET_RATE if model.name == "pocket" else RATE
    return usual if options.attention_guidance is None else options.attention_guidance


@dataclass(eq=False)
class _Run:
    """The targets of one batch. rows, gradient_rows: what the UNet computed for the maps since they were told."""

    model: Model
    source: Source
    plans: Sequence[Plan]
    options: Options
    guidance: Guidance
    free: Bool[Tensor, "1 1 h w"]
    rows: int = 0
    gradient_rows: int = 0
    _tensors: dict[str, Tensor] = field(init=False, default_factory=dict[str, Tensor])

    def __post_init__(self) -> None:
        model, steps, source = self.model, self.source.steps, self.source.row(self.model)
        texts = [
            each.text(model, source.conditioning.text, self.options.direction_scale) for each in self.plans
        ]
        self._text = Conditioning(TextEmbeds.concat(texts))
        self._looking = self._text  # what the maps are of that are held
        if self.options.held_maps == "source":
            self._looking = source.conditioning.expand(len(texts))
        self._held = [each.held(self.options.held_maps) for each in self.plans]
        self._rate = _rate(model, self.options)
        until = round(self.options.attention_until * steps) if self._rate else 0
        self._reads = tuple(Reads(self._reads_source(i) and i < until, i < until) for i in range(steps))
        kept = self.source.recording
        self._is_kept = [kept is not None and kept.reads[i].covers(own) for i, own in enumerate(self._reads)]
        # What the source's row says is computed for its maps, and read again in the step.
        self._recording = Recording(
            RecordOptions.model_validate({"precision": "full"}), self._reads, self._tensors
        )
        self._row = SourceRow(source.states, source.conditioning, self._recording)

    def edited(self) -> Generator[Progress, None, tuple[Float[Tensor, "n steps_plus_1 c h w"], int]]:
        """The targets' trajectories, and the rows that the UNet computed."""
        source, schedule = self.source, self.source.schedule
        z = source.z_T.to(self.model.device, self.model.latent_dtype).expand(len(self.plans), -1, -1, -1)
        z = self._drawn_back(0, z)
        loop = denoise(
            self.model,
            z,
            {"text": self._text, "null": source.unconditional()},
            schedule,
            self.guidance,
            rows=self._rows,
            source=self._row,
            after_step=self._after_step,
        )
        states, rows = yield from self._counted(watched("editing", loop, self.model))
        return torch.stack([z, *states], dim=1), rows

    def _reads_source(self, step: int) -> bool:
        return self.guidance.reads_source(step / self.source.steps)

    def _rows(self, step: int) -> Rows:
        reads, is_recorded = self._reads_source(step), self._reads[step].prediction
        branches = self.guidance.branches(step / self.source.steps)
        return Rows(len(self.plans), branches, reads and not is_recorded, reads and is_recorded)

    def _after_step(self, step: int, z: Tensor, clean: Tensor) -> Tensor:
        """The latents with the picture put back outside of the mask, and drawn towards the maps of the next step."""
        z = torch.where(self.free, z, self.source.states.at(step + 1).to(z))
        return z if step + 1 == self.source.steps else self._drawn_back(step + 1, z)

    def _drawn_back(self, step: int, z: Float[Tensor, "n c h w"]) -> Float[Tensor, "n c h w"]:
        """z − λ ∇ distance, where the picture may change."""
        if not self._reads[step]:
            return z
        self._record(step)
        gain = _HALF if self.model.dtype == torch.float16 else 1.0
        with torch.enable_grad():
            own = z.detach().clone().requires_grad_()
            held = HeldMaps(self._held, self._recording)
            self.model.predict(own, self.source.schedule.levels[step], self._looking, attend=held, step=step)
            assert held.distance is not None, "the model attends to text"
            (gradient,) = torch.autograd.grad(gain * held.distance.sum(), own)
        self.rows += len(z)
        self.gradient_rows += len(z)
        check_finite(gradient, f"the attention guidance of step {step + 1}")
        return z - self._rate / gain * gradient * self.free

    @torch.no_grad()
    def _record(self, step: int) -> None:
        """What this step reads of the source's row; that of the steps before is let go."""
        self._tensors.clear()
        if self._is_kept[step]:
            assert self.source.recording is not None
            self._tensors.update(self.source.recording.tensors)
            return
        recorder = Recorder(self._reads, self._tensors, self.model.dtype)
        latents = self._row.states.at(step).to(self.model.device, self.model.latent_dtype)
        level, text = self.source.schedule.levels[step], self._row.conditioning
        said = self.model.predict(latents, level, text, attend=recorder, step=step)
        check_finite(said.noise, f"step {step + 1} of {self.source.steps}")
        self._tensors.update({f"{step}.clean": said.clean, f"{step}.noise": said.noise})
        self.rows += 1

    def _counted(
        self, loop: Generator[Progress, None, list[Tensor]]
    ) -> Generator[Progress, None, tuple[list[Tensor], int]]:
        """A loop with the rows of the maps beside its own; returns what it returns, and all rows."""
        total = 0
        while True:
            try:
                progress = next(loop)
            except StopIteration as end:
                return end.value, total
            total += progress.rows + self.rows
            yield replace(progress, rows=progress.rows + self.rows, gradient_rows=self.gradient_rows)
            self.rows = self.gradient_rows = 0
