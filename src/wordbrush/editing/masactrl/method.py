"""MasaCtrl (Cao et al. 2023, "MasaCtrl: Tuning-Free Mutual Self-Attention Control for Consistent Image Synthesis and
Editing").

The target is drawn by its own words from the source's noise, and from a step S and a layer L on its self-attention
looks at the source instead of itself: its queries ask the source's keys and values,

    Attention(Q, K_s, V_s)   if t > S and l > L,   else   Attention(Q, K, V).                           (1)

The first steps and the coarse layers, which are its own, decide the layout; the rest says how things look, and takes
that from where the source shows them. So a thing may stand, lie or be somewhere else and still be the same thing. The
cross-attention is not touched.

Guided by masks, what the words name looks at what they name in the source, and the rest at the rest:

    f_o = Attention(Q, K_s, V_s; M_s)                                                                  (2)
    f_b = Attention(Q, K_s, V_s; 1 − M_s)                                                              (3)
    f = f_o M_t + f_b (1 − M_t)                                                                        (4)

The masks are the words' cross-attention, averaged over the sites of one size and over all steps so far (the released
code: over the step's). From its least to its most, M_s is what exceeds a threshold, and M_t is not rounded, as in the
released code.

The layer is said by its place in the decoder, so that one number means the same in every network: the released code's
layer 10 of Stable Diffusion's 16 is the fourth of the decoder's nine, and a third of them comes before it.

The source's row has the latents of the source in every step (the released code's `ref_intermediate_latents`, without
which real pictures are not even reconstructed) and the source's words. It serves all branches of the guidance. So it is
in the released code for real pictures, where the source has no words; for generated ones each half has a row of its own
there.
"""

import time
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from wordbrush.attention import Heads, Site, plain
from wordbrush.changes import read, things
from wordbrush.denoise import denoise
from wordbrush.editing import UNCHANGED, Dial
from wordbrush.editing.masactrl.options import Options
from wordbrush.errors import PromptError
from wordbrush.guidance import Guidance
from wordbrush.local_blend import WordMaps
from wordbrush.model import Conditioning, Model
from wordbrush.progress import Progress
from wordbrush.recording import Recording, rows_beside
from wordbrush.request import EditRequest, Need
from wordbrush.result import Report, Result
from wordbrush.rows import Rows
from wordbrush.sampling import watched
from wordbrush.source import Source
from wordbrush.words import Alignment, Word, Words

NEEDS: frozenset[Need] = frozenset({"source"})

STRENGTH = Dial(option="start", source=1.0, full=0.0)


@dataclass(frozen=True)
class Planned:
    """A target. foreground: the words of that part in the source and in the target; none without masks."""

    alignment: Alignment
    foreground: tuple[tuple[Word, ...], tuple[Word, ...]] = ((), ())


def plan(model: Model, request: EditRequest) -> list[Planned]:
    """The targets, and the words of the foreground. Raises `PromptError`, also for a prompt without such words."""
    return [_planned(alignment, request.options) for alignment in request.alignments(model)]


def _planned(alignment: Alignment, options: Options) -> Planned:
    pair = alignment.source, alignment.target
    if options.foreground == "off":
        return Planned(alignment)
    if options.foreground == "auto":
        parts = read(alignment).parts
        changed = [word for part in parts for word in part.source], [word for p in parts for word in p.target]
        # A thing that comes or goes is in one of the pictures only, and a place is no part of one.
        source, target = changed if all(changed) else map(things, pair)
    else:
        source, target = (_named(words, options.foreground) for words in pair)
    if not source or not target:
        raise PromptError(
            "expected words of the foreground in both prompts, so that it looks at what is there in the source, got "
            f"{_quoted(source)} in '{pair[0].prompt}' and {_quoted(target)} in '{pair[1].prompt}': "
            "name words of both, or leave foreground out"
        )
    return Planned(alignment, (tuple(source), tuple(target)))


def _named(words: Words, phrases: Sequence[str]) -> list[Word]:
    return [word for phrase in phrases if words.has(phrase) for word in words.find(phrase)]


def _quoted(words: Sequence[Word]) -> str:
    return ", ".join(f"'{word.text}'" for word in words) or "none"


def edit(model: Model, request: EditRequest) -> Generator[Progress, None, list[Result]]:
    """Edit a source into each of the target prompts; one result per target, in order.

    Raises `PromptError` like `plan`, `SourceError` if the source is another model's.
    """
    source = request.started(model)
    options: Options = request.options
    began = time.perf_counter()
    planned = plan(model, request)
    scale = source.guidance_scale if options.guidance_scale is None else options.guidance_scale
    n, free = len(planned), request.free(source).to(model.device)
    blocks = model.denoiser.decoder_blocks(options.mutual_place)
    trajectories, rows = source.trajectory.expand(n, -1, -1, -1, -1).to(model.device), 0
    notices = [UNCHANGED]
    if options.start < 1:
        source = source.late(options.start, model)
        steps, states, guidance = source.steps, source.states, source.states.guidance(scale)
        first = int(options.mutual_start * steps) if blocks else steps
        notices = _notices(options, first < steps)
        layout = _Layout(n, steps, first, guidance, options.foreground != "off", source.recording)
        sites = frozenset(name for block in blocks for name in block.self_attention)
        mutual = MutualSelfAttention(sites, first, layout.rows)
        if layout.reads_maps:
            mutual.maps, mutual.threshold = (
                _maps(model, source, planned, layout.rows),
                options.foreground_threshold,
            )
        z_T = source.z_T.to(model.device).expand(n, -1, -1, -1)  # noqa: N806
        loop = denoise(
            model,
            z_T,
            {"text": Conditioning(model.encode_text(list(request.targets))), "null": source.unconditional()},
            source.schedule,
            guidance,
            rows=layout.rows,
            source=source.row(model),
            attend=mutual,
            after_step=lambda i, z, _: torch.where(free, z, states.at(i + 1).to(z)),
        )
        after = yield from watched("editing", loop, model)
        trajectories = torch.stack([z_T, *after], dim=1)
        rows = sum(layout.rows(i).count for i in range(steps)) * states.predictions
    seconds = round(time.perf_counter() - began, 3)
    share = float(free.float().mean()) if rows else 0.0
    results: list[Result] = []
    for one, trajectory in zip(planned, trajectories, strict=True):
        details = {
            "mutual_blocks": [block.name for block in blocks],
            "foreground": list(dict.fromkeys(word.text for side in one.foreground for word in side)),
        }
        words, prompt = one.alignment.describe(), one.alignment.target.prompt
        report = Report(words, share, scale, rows, seconds, tuple(notices), details)
        results.append(Result(prompt, report, source, trajectory, model, free[0, 0]))
    return results


def _notices(options: Options, is_mutual: bool) -> list[str]:
    """What to say of options without effect."""
    found: list[str] = []
    if not is_mutual:
        found.append(
            "no self-attention looks at the source, so only its noise ties the picture to it: lower mutual_start or "
            "mutual_place"
        )
    if "foreground_threshold" in options.model_fields_set and options.foreground == "off":
        found.append("foreground_threshold does nothing: no words of a foreground are given")
    return found


@dataclass(frozen=True, eq=False)
class _Layout:
    """The batch of each step. first: the first step whose self-attention looks at the source."""

    targets: int
    steps: int
    first: int
    guidance: Guidance
    reads_maps: bool
    recording: Recording | None

    def rows(self, step: int) -> Rows:
        """The source is in it while something reads it; its values are in no recording."""
        needs_row = step >= self.first or self.reads_maps
        return rows_beside(self.guidance, step, self.steps, self.targets, self.recording, needs_row=needs_row)


def _maps(model: Model, source: Source, planned: Sequence[Planned], rows: Callable[[int], Rows]) -> WordMaps:
    """The maps of the foreground's words: each target has a column of its own, and the source one for each of them."""
    columns = torch.zeros(len(planned) + 1, model.tokens, len(planned))
    for i, one in enumerate(planned):
        of_source, of_target = one.foreground
        columns[0, :, i] = one.alignment.source.column(of_source)
        columns[i + 1, :, i] = one.alignment.target.column(of_target)
    size = source.latent_size
    return WordMaps(plain, columns.to(model.device), rows, model.map_positions(size))


@dataclass(eq=False)
class MutualSelfAttention:
    """An `Attend`: from step `first` on, every row's queries at these sites ask the source's keys and values.

    rows: the layout of a step's batch, with the source's row from that step on. maps: of the foreground's words, one
    column for each target; None without masks. threshold: what of a map is the source's foreground.
    """

    sites: frozenset[str]
    first: int
    rows: Callable[[int], Rows]
    maps: WordMaps | None = None
    threshold: float = 0.1

    def __call__(self, site: Site, step: int, heads: Heads) -> Float[Tensor, "rows heads positions d"]:
        """Attend at one site."""
        if site.is_cross:
            return plain(site, step, heads) if self.maps is None else self.maps(site, step, heads)
        if step < self.first or site.name not in self.sites:
            return plain(site, step, heads)
        rows, whole = self.rows(step), (heads.rows, -1, -1, -1)
        query = heads.query()
        key, value = heads.key(rows.source_row).expand(whole), heads.value(rows.source_row).expand(whole)
        if self.maps is None:
            return heads.attend(query, key, value)  # (1); the source's own row attends to itself
        is_source, is_target = self._masks(self.maps, site, rows)
        of_object = heads.attend(query, key, value, _some(is_source)[:, None, None])  # (2)
        of_rest = heads.attend(query, key, value, _some(~is_source)[:, None, None])  # (3)
        return torch.lerp(of_rest, of_object, is_target[:, None, :, None].to(of_rest))  # (4)

    def _masks(
        self, maps: WordMaps, site: Site, rows: Rows
    ) -> tuple[Bool[Tensor, "rows positions"], Float[Tensor, "rows positions"]]:
        """M_s and M_t for each row of the batch. The source's own row attends to all of itself: its mask is empty."""
        mean, own = maps.mean, torch.arange(rows.targets)
        of_source, of_target = (_stretched(each, site) for each in (mean[0], mean[own + 1, own]))
        of_source = of_source >= self.threshold
        # Every branch has its n targets, and the source is before the last of them.
        masks: list[Tensor] = []
        for mask in (of_source, of_target):
            repeated = mask.repeat(len(rows.branches), 1)
            at = rows.source_row.start
            masks.append(torch.cat([repeated[:at], torch.zeros_like(mask[:1]), repeated[at:]]))
        return masks[0], masks[1]


def _stretched(maps: Float[Tensor, "n h w"], site: Site) -> Float[Tensor, "n positions"]:
    """Maps from their least, 0, to their most, 1, at the size of a site."""
    least, most = maps.amin((1, 2), keepdim=True), maps.amax((1, 2), keepdim=True)
    stretched = (maps - least) / (most - least).clamp(min=torch.finfo(maps.dtype).tiny)
    return F.interpolate(stretched[:, None], (site.height, site.width), mode="nearest").flatten(1)


def _some(mask: Bool[Tensor, "rows positions"]) -> Bool[Tensor, "rows positions"]:
    """The mask, but everything where it is empty: there is nothing to look at then."""
    return mask | ~mask.any(1, keepdim=True)
