"""Plug-and-Play (Tumanyan et al. 2023, "Plug-and-Play Diffusion Features for Text-Driven Image-to-Image Translation").

The source is denoised beside the target, and what the decoder knows of its layout is put into the target (algorithm 1):

    f_t    the features of one coarse residual block, in the steps t > τ_f
    A_t    the self-attention maps softmax(Q_s K_sᵀ/√d) from a layer on, in the steps t > τ_A

while the values, and the cross-attention, are the target's own. The features say what is where, the maps what belongs
together; textures and colours are in neither, so the target's words are free to choose them.

As in the released code, f_t is what the block's last convolution adds to the block's input, and not the sum; both go
into all branches of the guidance; the source's row has the latents of the source in every step. Blocks are said by
their place in the decoder, so that one number means the same in every network: the released code's block 4 of Stable
Diffusion's output blocks is the second of the decoder's nine that have attention, whose maps are the source's from
there on.

The guidance may lead away from a negative prompt (the paper's negative-prompting),

    ε = w ε(P) + (1 − w) (α ε(∅) + (1 − α) ε(P_negative)),

with α falling from 1 to 0 over the run, as in the released code's schedule "linear", or 0 throughout. Deviations: the
source's row reads the source's words, which the released code does not know of a real picture; windows end before their
last step, as in the authors' version for diffusers (their first one has one more step).
"""

import time
from collections.abc import Callable, Generator
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from wordbrush.attention import Heads, Site, plain
from wordbrush.denoise import denoise
from wordbrush.editing import UNCHANGED, Dial
from wordbrush.editing.plug_and_play.options import Options
from wordbrush.features import Block
from wordbrush.guidance import FadingGuidance, Guidance, TextGuidance
from wordbrush.model import Conditioning, Model
from wordbrush.progress import Progress
from wordbrush.recording import Recording, rows_beside
from wordbrush.request import EditRequest, Need
from wordbrush.result import Report, Result
from wordbrush.rows import Rows
from wordbrush.sampling import watched
from wordbrush.words import Alignment

NEEDS: frozenset[Need] = frozenset({"source"})

STRENGTH = Dial(option="start", source=1.0, full=0.0)


def plan(model: Model, request: EditRequest) -> list[Alignment]:
    """The targets, read beside the source. Raises `PromptError` for what the model cannot read."""
    options: Options = request.options
    model.read(options.negative_prompt or "")
    return request.alignments(model)


def edit(model: Model, request: EditRequest) -> Generator[Progress, None, list[Result]]:
    """Edit a source into each of the target prompts; one result per target, in order.

    Raises `PromptError` like `plan`, `SourceError` if the source is another model's.
    """
    source = request.started(model)
    options: Options = request.options
    began = time.perf_counter()
    targets = plan(model, request)
    scale = source.guidance_scale if options.guidance_scale is None else options.guidance_scale
    n, free = len(targets), request.free(source).to(model.device)
    block, layers = _block(model, options), _layers(model, options)
    trajectories, rows = source.trajectory.expand(n, -1, -1, -1, -1).to(model.device), 0
    notices = [UNCHANGED]
    if options.start < 1:
        source = source.late(options.start, model)
        steps, states = source.steps, source.states
        guidance = _guidance(states.guidance(scale), options)
        features = int(options.feature_steps * steps)
        maps = int(options.attention_steps * steps) if layers else 0
        notices = _notices(options, guidance, max(features, maps) > 0)
        layout = _Layout(n, steps, max(features, maps), guidance, source.recording)
        injected = Injected(layout.rows, block.name, features, layers, maps)
        z_T = source.z_T.to(model.device).expand(n, -1, -1, -1)  # noqa: N806
        loop = denoise(
            model,
            z_T,
            {
                "text": Conditioning(model.encode_text(list(request.targets))),
                "null": source.unconditional(),
                "negative": Conditioning(model.encode_text([options.negative_prompt or ""])),
            },
            source.schedule,
            guidance,
            rows=layout.rows,
            source=source.row(model),
            attend=injected.attend,
            features=injected.features,
            after_step=lambda i, z, _: torch.where(free, z, states.at(i + 1).to(z)),
        )
        after = yield from watched("editing", loop, model)
        trajectories = torch.stack([z_T, *after], dim=1)
        rows = sum(layout.rows(i).count for i in range(steps)) * states.predictions
    seconds = round(time.perf_counter() - began, 3)
    share = float(free.float().mean()) if rows else 0.0
    details = {"feature_block": block.name, "attention_layers": len(layers)}
    return [
        Result(
            alignment.target.prompt,
            Report(alignment.describe(), share, scale, rows, seconds, tuple(notices), details),
            source,
            trajectory,
            model,
            free[0, 0],
        )
        for alignment, trajectory in zip(targets, trajectories, strict=True)
    ]


def _block(model: Model, options: Options) -> Block:
    # A place within the last block is behind its beginning.
    found = model.denoiser.decoder_blocks(options.feature_place)
    return found[0] if found else model.denoiser.decoder_blocks(0.0)[-1]


def _layers(model: Model, options: Options) -> frozenset[str]:
    blocks = model.denoiser.decoder_blocks(options.attention_place)
    return frozenset(name for block in blocks for name in block.self_attention)


def _guidance(by: Guidance, options: Options) -> Guidance:
    """The source's guidance, which leads away from the negative prompt where it leads away from anything."""
    if options.negative_prompt is None or not isinstance(by, TextGuidance):
        return by
    if options.negative_schedule == "constant":
        return replace(by, reference="negative")
    return FadingGuidance(by.scale, "null", "negative")


def _notices(options: Options, guidance: Guidance, is_injected: bool) -> list[str]:
    """What to say of options without effect."""
    found: list[str] = []
    if not is_injected:
        found.append(
            "nothing of the source is put into the target, so only its noise ties the picture to it: raise "
            "feature_steps or attention_steps"
        )
    if options.negative_prompt is not None and "negative" not in guidance.branches(0.99):
        found.append(
            "negative_prompt does nothing: guidance leads away from nothing, at scale 1 or on the straight path"
        )
    if "negative_schedule" in options.model_fields_set and options.negative_prompt is None:
        found.append("negative_schedule does nothing: no negative_prompt is given")
    return found


@dataclass(frozen=True, eq=False)
class _Layout:
    """The batch of each step. stop: the first step that puts nothing of the source into the targets any more."""

    targets: int
    steps: int
    stop: int
    guidance: Guidance
    recording: Recording | None

    def rows(self, step: int) -> Rows:
        """The source is in it while something reads it; its features are in no recording."""
        needs_row = step < self.stop
        return rows_beside(self.guidance, step, self.steps, self.targets, self.recording, needs_row=needs_row)


@dataclass(frozen=True, eq=False)
class Injected:
    """What every row gets of the source's, whose own row it leaves as it is.

    block: whose features, in the first `feature_steps`. layers: whose self-attention maps, in the first
    `attention_steps`. rows: the layout of a step's batch, with the source's row in those steps.
    """

    rows: Callable[[int], Rows]
    block: str
    feature_steps: int
    layers: frozenset[str]
    attention_steps: int

    def attend(self, site: Site, step: int, heads: Heads) -> Float[Tensor, "rows heads positions d"]:
        """A_t V, with the source's queries and keys and everyone's own values."""
        if site.name not in self.layers or step >= self.attention_steps:
            return plain(site, step, heads)
        source, all_rows = self.rows(step).source_row, (heads.rows, -1, -1, -1)
        query, key = heads.query(source).expand(all_rows), heads.key(source).expand(all_rows)
        return heads.attend(query, key, heads.value())

    def features(self, block: str, step: int, residual: Float[Tensor, "rows c h w"]) -> Tensor:
        """f_t of the source."""
        if block != self.block or step >= self.feature_steps:
            return residual
        return residual[self.rows(step).source_row].expand_as(residual)
