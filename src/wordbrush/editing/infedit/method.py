"""InfEdit (Xu et al. 2024, "Inversion-Free Image Editing with Natural Language").

**Virtual inversion** (algorithm 2). DDIM's step with the largest variance, σ_t = √(1 − ᾱ_t), keeps nothing of the noise
that was predicted: it is consistency sampling. Where the clean picture z_0 is known, every noisy state of it is

    z_src = signal · z_0 + sigma · ε,    ε_cons = (z_src − signal · z_0) / sigma = ε          (1)

with an ε that may be drawn anew at each level, so nothing has to be inverted. The target is seen through the same
noise, and what the network gets wrong about the source is taken off its prediction:

    ẑ_tgt = (z_tgt − sigma (ε_θ(z_tgt, target) − ε_θ(z_src, source) + ε_cons)) / signal       (2)
    z_tgt ← signal' · ẑ_tgt + sigma' · ε',    z_src ← signal' · z_0 + sigma' · ε'             (3)

The target's ε_θ is guided by text and the source's is not, as released.

**Unified attention control** (algorithm 3) is in `attention`: a third row, the layout, takes steps (2) and (3) with the
source's words. **Local blend** puts z_src back outside of the words that change.

Deviations. `fresh_noise` (η of the released code, there fixed to 1) below 1 goes on with a share of the noise, the
source's with its ε and the target's with what stands in the bracket of (2). The layout's row is left out after the
last step that reads it. The mask is of the changed words in both prompts, as Prompt-to-Prompt's, since a removed thing
has no word in the target; outside of it is the source, where the released code puts the layout. Released, too, but not
here: thresholds that grow with the noise, and the layout again in the last step.
"""

import math
import time
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from wordbrush.attention_edit import refine
from wordbrush.changes import Change, read, things
from wordbrush.denoise import Predictor, SourceRow, Step, check_finite, combined
from wordbrush.editing import UNCHANGED, Dial
from wordbrush.editing.infedit.attention import LAYOUT, UnifiedAttention
from wordbrush.editing.infedit.options import Options
from wordbrush.guidance import DifferenceGuidance, TextGuidance
from wordbrush.local_blend import LocalBlend, WordMaps
from wordbrush.model import Conditioning, Model
from wordbrush.progress import Progress
from wordbrush.request import EditRequest, Need
from wordbrush.result import Report, Result
from wordbrush.sampling import watched
from wordbrush.schedule import Prediction, training_alphas_cumprod
from wordbrush.source import Source
from wordbrush.words import Alignment, Word, Words

NEEDS: frozenset[Need] = frozenset({"source"})

STRENGTH = Dial(option="start", source=1.0, full=0.0)


@dataclass(frozen=True)
class Plan:
    """What the words of one target ask for: words of the source and of the target that say where it may differ, and
    words of the source that are left alone. Without any of the former it may differ everywhere."""

    alignment: Alignment
    change: Change
    edited: tuple[tuple[Word, ...], tuple[Word, ...]]
    spared: tuple[Word, ...]

    def columns(self, length: int) -> Float[Tensor, "2 tokens 2"]:
        """Indicator columns for the source's maps and for the target's: the words to edit, and those to spare."""
        columns = torch.zeros(2, length, 2)
        source, target = self.alignment.source, self.alignment.target
        columns[0, :, 0], columns[1, :, 0] = source.column(self.edited[0]), target.column(self.edited[1])
        columns[0, :, 1] = source.column(self.spared)
        return columns


def plan(model: Model, request: EditRequest) -> list[Plan]:
    """The words that say where each target may differ.

    Raises `PromptError` for what the model cannot read, and for words that no prompt has.
    """
    options: Options = request.options
    alignments = request.alignments(model)
    source = alignments[0].source
    prompts = [alignment.target for alignment in alignments]
    for phrase in options.local_blend if isinstance(options.local_blend, tuple) else ():
        if not any(words.has(phrase) for words in (source, *prompts)):
            prompts[0].find(phrase)  # says which words there are
    for phrase in options.spare if isinstance(options.spare, tuple) else ():
        source.find(phrase)
    return [_planned(alignment, options) for alignment in alignments]


def _planned(alignment: Alignment, options: Options) -> Plan:
    change = read(alignment)
    edited: tuple[tuple[Word, ...], tuple[Word, ...]] = (), ()
    if isinstance(options.local_blend, tuple):
        edited = _found(alignment.source, options.local_blend), _found(alignment.target, options.local_blend)
    elif options.local_blend == "auto" and change.is_local:
        edited = (
            tuple(word for part in change.parts for word in part.source),
            tuple(word for part in change.parts for word in part.target),
        )
    spared: tuple[Word, ...] = ()
    if isinstance(options.spare, tuple):
        spared = _found(alignment.source, options.spare)
    elif options.spare == "things":
        about = {word for part in change.parts for word in part.source}
        kept = {match.source[0] for match in alignment.matches if match.kind == "same"}
        spared = tuple(word for word in things(alignment.source) if word in kept and word not in about)
    return Plan(alignment, change, edited, spared)


def _found(words: Words, phrases: Sequence[str]) -> tuple[Word, ...]:
    return tuple(word for phrase in phrases if words.has(phrase) for word in words.find(phrase))


def edit(model: Model, request: EditRequest) -> Generator[Progress, None, list[Result]]:
    """Edit a source into each of the target prompts; one result per target, in order.

    Raises `PromptError` like `plan`, `SourceError` if the source is another model's.
    """
    source = request.started(model)
    options: Options = request.options
    began = time.perf_counter()
    plans = plan(model, request)
    trajectories = source.trajectory.expand(len(plans), -1, -1, -1, -1).to(model.device, model.latent_dtype)
    free, rows = torch.zeros(len(plans), 1, *source.latent_size, dtype=torch.bool), 0
    notices = [UNCHANGED]
    if options.start < 1:
        run = _Run(model, source, plans, options, request.free(source))
        states = yield from watched("editing", run.sampled(), model)
        trajectories = torch.stack([run.first.expand_as(states[0]), *states], dim=1)
        free, rows, notices = run.mask, run.rows, []
    seconds = round(time.perf_counter() - began, 3)
    results: list[Result] = []
    for planned, trajectory, where in zip(plans, trajectories, free[:, 0], strict=True):
        share = float(where.float().mean())
        said = [*notices]
        if rows and share == 0:
            said.append(
                "the local blend's mask is empty, so the picture is the source: lower blend_threshold, or "
                "local_blend off"
            )
        words = dict.fromkeys(word.text for side in planned.edited for word in side)
        details: dict[str, Any] = {
            "change": planned.change.kind,
            "because": planned.change.reason,
            "local_blend": list(words),
            "spared": [word.text for word in planned.spared],
            "chosen": {},
        }
        alignment = planned.alignment
        report = Report(
            alignment.describe(), share, options.guidance_scale, rows, seconds, tuple(said), details
        )
        results.append(Result(alignment.target.prompt, report, source, trajectory, model, where))
    return results


class _Run:
    """All targets of one edit. mask: where each was free to differ in the last step; rows: what the UNet computed."""

    def __init__(
        self,
        model: Model,
        source: Source,
        plans: Sequence[Plan],
        options: Options,
        free: Bool[Tensor, "1 1 h w"],
    ) -> None:
        self._model, self._source, self._plans, self._options = model, source, plans, options
        self._schedule = source.schedule.late(options.start, training_alphas_cumprod(model.schedule_config))
        steps = self._schedule.steps
        self._guidance = _VirtualInversion(options.guidance_scale, int(options.cross_control * steps) / steps)
        attention = UnifiedAttention(
            [refine(planned.alignment) for planned in plans],
            lambda i: self._guidance.branches(i / steps),
            int(options.self_control * steps),
        )
        self._layout = attention.rows
        self._free = free.to(model.device).expand(len(plans), -1, -1, -1)
        self._blend = LocalBlend(1, options.blend_threshold, options.spare_threshold)
        self._masked = [i for i, planned in enumerate(plans) if any(planned.edited) or planned.spared]
        self._maps: WordMaps | None = None
        if self._masked:  # each target has columns of its own, also in the source's row
            columns = torch.zeros(len(plans) + 1, model.tokens, len(plans), 2)
            for i, planned in enumerate(plans):
                columns[0, :, i], columns[i + 1, :, i] = planned.columns(model.tokens)
            positions = model.map_positions(source.latent_size)
            self._maps = WordMaps(attention, columns.flatten(2).to(model.device), self._layout, positions)
        self._attend = self._maps or attention
        self._noise = torch.Generator().manual_seed(options.redraw_seed)
        self._z_0 = source.z_0.to(model.device, model.latent_dtype)
        self._first_noise = self._drawn()
        self.first = self._schedule.levels[0].mix(self._z_0, self._first_noise)
        self.mask, self.rows = self._free, 0

    def _drawn(self) -> Float[Tensor, "1 c h w"]:
        """Noise, drawn on the CPU: a seed means the same everywhere."""
        return torch.randn(self._z_0.shape, generator=self._noise).to(self._z_0)

    @torch.no_grad()
    def sampled(self) -> Generator[Step, None, Tensor]:
        """Algorithm 2 with three rows: virtual inversion from the noisiest level to the picture."""
        model, source, schedule, eta = self._model, self._source, self._schedule, self._options.fresh_noise
        n = len(self._plans)
        null = source.null_off_path(model)
        own = Conditioning(model.encode_text([source.prompt]))
        conditions = {
            "null": Conditioning(null),
            LAYOUT: own,
            "text": Conditioning(
                model.encode_text([planned.alignment.target.prompt for planned in self._plans])
            ),
        }
        row = SourceRow(source.states, own)
        ask = Predictor(
            model, conditions, schedule, self._guidance, layout=self._layout, source=row, attend=self._attend
        )
        picture, noise, z_src = self._z_0, self._first_noise, self.first
        z_tgt = z_lay = z_src.expand(n, -1, -1, -1)
        for i in range(schedule.steps):
            here, to, progress = schedule.levels[i], schedule.levels[i + 1], i / schedule.steps
            ask.rows = 0
            found = ask.branches(i, z_tgt, z_src, {LAYOUT: z_lay})
            found["known"] = Prediction(picture, noise)  # (1): z_0 and ε_cons
            target = combined(self._guidance, z_tgt, here, found, progress)
            is_last, fresh = i + 1 == schedule.steps, self._drawn()
            keep = math.sqrt(1 - eta), math.sqrt(eta)
            # After the last step the picture is what was predicted, whatever noise the schedule leaves there.
            z_tgt = (
                target.clean if is_last else to.mix(target.clean, keep[0] * target.noise + keep[1] * fresh)
            )
            if LAYOUT in found:
                told = {**found, "text": found[LAYOUT]}
                layout = combined(DifferenceGuidance(1.0), z_lay, here, told, progress)
                z_lay = to.mix(layout.clean, keep[0] * layout.noise + keep[1] * fresh)
            noise = keep[0] * noise + keep[1] * fresh
            z_src = picture if is_last else to.mix(picture, noise)
            z_tgt = torch.where(self._mask(i), z_tgt, z_src)
            check_finite(z_tgt, f"step {i + 1} of {schedule.steps}")
            self.rows += ask.rows
            yield Step(i, schedule.steps, z_tgt, target.clean, ask.rows)
        return z_tgt

    def _mask(self, i: int) -> Bool[Tensor, "n 1 h w"]:
        """Where each target may differ after step i: at the words that change, but not at those to spare."""
        if self._maps is None or i < self._blend.start_step:
            return self._free
        n, mask = len(self._plans), self._free.clone()
        maps = self._maps.mean
        maps = maps.reshape(n + 1, n, 2, *maps.shape[-2:])
        targets = torch.stack([maps[j + 1, j] for j in range(n)])
        edited, spared = self._blend.masks(maps[0], targets, self._source.latent_size)
        for j in self._masked:
            mask[j] &= (edited[j] | (not any(self._plans[j].edited))) & ~spared[j]
        self.mask = mask
        return mask


@dataclass(frozen=True)
class _VirtualInversion:
    """The bracket of (2): ε_θ(z_tgt, target) − ε_θ(z_src, source) + ε_cons, the target's ε_θ guided by text.

    scale: of the text guidance. layout_until: the fraction of the run in which the layout has rows.
    """

    scale: float
    layout_until: float

    def branches(self, progress: float) -> tuple[str, ...]:
        """No text where that guides, the layout while it is read, and text."""
        null = () if self.scale == 1 else ("null",)
        return (*null, *((LAYOUT,) if progress < self.layout_until else ()), "text")

    def reads_source(self, progress: float) -> bool:
        """In every step."""
        return True

    def combine(self, noise: Mapping[str, Float[Tensor, "*s"]], progress: float) -> Float[Tensor, "*s"]:
        """The guided noise."""
        return TextGuidance(self.scale).combine(noise, progress) - noise["source"] + noise["known"]
