"""LEDITS++ (Brack et al. 2024, "LEDITS++: Limitless Image Editing using Text-to-Image Models").

Its three components. **Perfect inversion**: the picture is taken apart into the noise of its steps, as in edit-friendly
DDPM inversion, but with the second-order steps of SDE-DPM-Solver++, of which fewer do (`states.SolverMaps`). No text is
read for that. Without a concept the same steps lead back to the picture itself. **Textual editing**: each concept e
adds a term of its own to the noise,

    ε̂ = ε_∅ + Σ_e s_e · M_e · ψ_e,    ψ_e = ε_e − ε_∅ to add the concept, −(ε_e − ε_∅) to remove it.

**Semantic grounding**: where a concept acts is an implicit mask M_e = M¹ · M². M¹ is 1 where the concept's words look,
by their cross-attention in this very step, smoothed; M² where |ψ_e|, summed over the channels, is largest. Both are cut
at the concept's quantile λ_e: 0.9 leaves a tenth of the positions.

Where the user names no concepts, they are what changes between the captions (`concepts`). Each is read alone, as
published, or in the source's caption, for a model that knows whole captions only: then that caption takes the place of
∅, and e is the same caption with this change alone, so that ψ_e = ε(caption with the change) − ε(caption), and M¹ is
where the words look that go and those that come.

Deviations from the released code: early in the run that leaves M² out (above timestep 800), here it is always there;
what is left out of the run (`start`) is made up for by as many steps as the whole had; outside of a user's mask the
picture is put back.
"""

import time
from collections.abc import Generator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from wordbrush.attention import Heads, Site, plain
from wordbrush.denoise import SourceRow, Step, denoise
from wordbrush.editing import UNCHANGED, Dial
from wordbrush.editing.ledits_pp.concepts import Concept, concepts
from wordbrush.editing.ledits_pp.options import Options
from wordbrush.guidance import TextGuidance
from wordbrush.local_blend import WordMaps
from wordbrush.model import Conditioning, Model
from wordbrush.options import filled
from wordbrush.progress import Progress
from wordbrush.request import EditRequest, Need
from wordbrush.result import Report, Result
from wordbrush.rows import Rows
from wordbrush.sampling import noised, taken_apart, watched
from wordbrush.schedule import training_alphas_cumprod
from wordbrush.source import Source
from wordbrush.states import NoiseMaps, SolverMaps
from wordbrush.words import Alignment

NEEDS: frozenset[Need] = frozenset({"source"})

STRENGTH = Dial(option="start", source=1.0, full=0.15)

_PUBLISHED: Mapping[str, Any] = {"edit_guidance_scale": 5.0, "concept_text": "alone"}
_CHOSEN: Mapping[str, Mapping[str, Any]] = {"pocket": {"edit_guidance_scale": 2.0, "concept_text": "caption"}}
"""Defaults by model, where others than the published ones were chosen (`docs/methods/ledits-pp.md`)."""

_NO_CONCEPT = (
    "the picture is the source: the captions ask for no concept, and none is named (--add, --remove)"
)

Planned = tuple[Alignment, list[Concept]]
"""A target, and its concepts."""


def plan(model: Model, request: EditRequest) -> list[Planned]:
    """The targets with their concepts. Raises `PromptError` for what the model cannot read, and for a number that is
    given to a word of no concept."""
    targets = request.alignments(model)
    return list(zip(targets, concepts(model, targets, _chosen(model, request.options)), strict=True))


def _chosen(model: Model, given: Options) -> Options:
    """The options with this model's defaults; the published ones for concepts that are read alone."""
    is_alone = given.concept_text == "alone" or given.add != "auto" or given.remove != "auto"
    return filled(given, {**_PUBLISHED, **({} if is_alone else _CHOSEN.get(model.name, {}))})


def edit(model: Model, request: EditRequest) -> Generator[Progress, None, list[Result]]:
    """Edit a source into each of the target prompts, one after the other; one result per target, in order.

    Raises `PromptError` like `plan`, `SourceError` if the source is another model's.
    """
    source = request.started(model)
    options = _chosen(model, request.options)
    assert options.edit_guidance_scale is not None, "this has a default"
    began = time.perf_counter()
    planned = plan(model, request)
    free = request.free(source).to(model.device)
    reference = source.prompt if options.concept_text == "caption" else ""
    edited = [own for _, own in planned if own] if options.start < 1 else []
    apart, rows = source, 0
    if edited:
        apart = yield from _taken_apart(model, source, reference, options)
        rows = apart.steps
    outcomes: list[tuple[Tensor, Mapping[str, Tensor]]] = []
    for _, own in planned:
        if not own or not edited:
            outcomes.append((source.trajectory.to(model.device), {}))
            continue
        run = _Run(model, apart, reference, own, options.implicit_masks, free)
        outcomes.append((yield from run.edited(sum(bool(maps) for _, maps in outcomes), len(edited))))
        rows += run.rows
    seconds = round(time.perf_counter() - began, 3)
    results: list[Result] = []
    for (alignment, own), (trajectory, maps) in zip(planned, outcomes, strict=True):
        notices = () if maps else (UNCHANGED if options.start == 1 else _NO_CONCEPT,)
        report = Report(
            alignment.describe(),
            float(free.float().mean()) if maps else 0.0,
            options.edit_guidance_scale,
            rows,
            seconds,
            notices,
            {"concepts": [concept.describe() for concept in own], "concept_text": options.concept_text},
        )
        results.append(
            Result(alignment.target.prompt, report, source, trajectory, model, free[0, 0], maps=maps)
        )
    return results


def _taken_apart(
    model: Model, source: Source, reference: str, options: Options
) -> Generator[Progress, None, Source]:
    """The source's picture as the noise of the steps that lead to it with the reference's text."""
    schedule = source.schedule.late(options.start, training_alphas_cumprod(model.schedule_config))
    path = noised(source.z_0.to(model.device, model.latent_dtype), schedule, options.redraw_seed)
    kind = NoiseMaps if options.solver_order == 1 else SolverMaps
    text = {"text": Conditioning(model.encode_text([reference]))}
    states = yield from taken_apart(model, path, schedule, text, TextGuidance(1.0), eta=1.0, kind=kind)
    return replace(source, schedule=schedule, states=states, recording=None)


class _Run:
    """The edit of one target: the guidance by its concepts, and the attention that their masks read.

    rows: what the UNet has computed so far.
    """

    def __init__(
        self,
        model: Model,
        source: Source,
        reference: str,
        own: Sequence[Concept],
        masks: str,
        free: Bool[Tensor, "1 1 h w"],
    ) -> None:
        self.rows = 0
        self._model, self._source, self._free = model, source, free
        self._reference = Conditioning(model.encode_text([reference]))
        self._own = {f"concept {i}": concept for i, concept in enumerate(own)}
        self._by_words, self._by_noise = masks in ("both", "attention"), masks in ("both", "difference")
        self._positions = model.map_positions(source.latent_size)
        self._maps: tuple[int, WordMaps] | None = None
        self._acted = {name: torch.zeros(source.latent_size, device=model.device) for name in self._own}

    def edited(self, done: int, of: int) -> Generator[Progress, None, tuple[Tensor, Mapping[str, Tensor]]]:
        """The target's latents, and by each concept's name the share of the steps in which it acted, where."""
        model, source, states = self._model, self._source, self._source.states
        texts = {
            name: Conditioning(model.encode_text([concept.prompt.prompt]))
            for name, concept in self._own.items()
        }
        z = source.z_T
        loop = denoise(
            model,
            z,
            {"reference": self._reference, **texts},
            source.schedule,
            self,
            source=SourceRow(states, self._reference),
            attend=self.attend if self._by_words else None,
            after_step=lambda i, z, _: torch.where(self._free, z, states.at(i + 1)),
        )
        after = yield from watched("editing", loop, model, done=done, of=of, see=self._count)
        maps = {concept.name: self._acted[name] / source.steps for name, concept in self._own.items()}
        return torch.cat([z, *after]), maps

    def _count(self, step: Step) -> None:
        self.rows += step.rows

    def branches(self, progress: float) -> tuple[str, ...]:
        """The reference, and each concept whose warm-up is over."""
        return "reference", *(name for name, concept in self._own.items() if progress >= concept.warmup)

    def reads_source(self, progress: float) -> bool:
        """Never."""
        return False

    def combine(self, noise: Mapping[str, Float[Tensor, "*s"]], progress: float) -> Float[Tensor, "*s"]:
        """ε̂: what is said of the reference, and what each concept adds where it acts."""
        reference = guided = noise["reference"]
        active = [name for name in self._own if name in noise]
        looks = self._looks() if self._by_words and active else None
        for i, name in enumerate(active):
            concept = self._own[name]
            change = concept.direction * (noise[name] - reference)
            mask = self._free
            if looks is not None:
                mask = mask & above(smoothed(looks[i : i + 1]), concept.threshold, mask.shape[-2:])
            if self._by_noise:
                mask = mask & above(change.abs().sum(1, keepdim=True), concept.threshold, mask.shape[-2:])
            self._acted[name] += mask[0, 0]
            guided = guided + concept.scale * mask * change
        return guided

    def attend(self, site: Site, step: int, heads: Heads) -> Float[Tensor, "rows heads positions d"]:
        """Attend as ever, and keep where the words of this step's concepts look."""
        names = self.branches(step / self._source.steps)
        if len(names) == 1:
            return plain(site, step, heads)
        if self._maps is None or self._maps[0] != step:
            columns = self._columns(names[1:]).to(self._model.device)
            self._maps = step, WordMaps(plain, columns, lambda _: Rows(1, names), self._positions)
        return self._maps[1](site, step, heads)

    def _columns(self, names: Sequence[str]) -> Float[Tensor, "rows tokens concepts"]:
        """The words that say where each concept is: its own in its row, and those of the reference in the first."""
        own = [self._own[name] for name in names]
        columns = torch.zeros(1 + len(own), own[0].prompt.length, len(own))
        for i, concept in enumerate(own):
            columns[0, :, i] = concept.prompt.column(concept.before)
            columns[1 + i, :, i] = concept.prompt.column(concept.about)
        return columns

    def _looks(self) -> Float[Tensor, "concepts 1 h w"]:
        assert self._maps is not None, "no step has been computed"
        maps = self._maps[1].mean
        return (maps[0] + maps[1:].diagonal().movedim(-1, 0))[:, None]


def smoothed(maps: Float[Tensor, "n 1 h w"]) -> Float[Tensor, "n 1 h w"]:
    """Each map under a Gaussian of 3 × 3 positions, half a position wide, and reflected at its edges, as released."""
    across = torch.exp(-0.5 * (torch.arange(-1, 2, device=maps.device) / 0.5) ** 2).to(maps)
    kernel = torch.outer(across, across)
    mode = "reflect" if min(maps.shape[-2:]) > 1 else "replicate"
    return F.conv2d(F.pad(maps, (1, 1, 1, 1), mode=mode), (kernel / kernel.sum())[None, None])


def above(
    maps: Float[Tensor, "n 1 h w"], quantile: float, size: Sequence[int]
) -> Bool[Tensor, "n 1 height width"]:
    """Where a map is at its quantile or above it, at another size."""
    wide = maps if maps.dtype == torch.float64 else maps.float()
    least = torch.quantile(wide.flatten(1), quantile, dim=1)[:, None, None, None]
    return F.interpolate((wide >= least).to(wide), size=tuple(size), mode="nearest") > 0
