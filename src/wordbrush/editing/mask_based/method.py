"""Mask-based editing of a real picture (Hertz et al. 2022, figure 12).

The picture is noised and denoised with the target's words under ordinary guidance. The run's own attention says where
the new words are, and outside of there the picture is put back after every step. No attention is edited, and the
source's prompt is not drawn beside the target's: this is not Prompt-to-Prompt's local blend.

The picture's noised states are its source's: on the straight path those of one noise, so that what is outside of the
mask ends as the autoencoder's own picture. Deviation from the paper, which describes the idea in a caption: the run
begins where the option `start` says and not from pure noise, where nothing says where the thing was.
"""

import time
from collections.abc import Generator, Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from wordbrush.attention import plain
from wordbrush.changes import read
from wordbrush.denoise import denoise
from wordbrush.editing import UNCHANGED, Dial
from wordbrush.editing.mask_based.options import Options
from wordbrush.errors import PromptError
from wordbrush.guidance import TextGuidance
from wordbrush.local_blend import LocalBlend, WordMaps
from wordbrush.model import Conditioning, Model
from wordbrush.progress import Progress
from wordbrush.request import EditRequest, Need
from wordbrush.result import Report, Result
from wordbrush.rows import Rows
from wordbrush.sampling import watched
from wordbrush.source import Source
from wordbrush.words import Alignment, Word

NEEDS: frozenset[Need] = frozenset({"source"})

STRENGTH = Dial(option="start", source=1.0, full=0.4)

Placed = tuple[Alignment, tuple[Word, ...]]
"""A target, and the words of it that say where to edit."""


def plan(model: Model, request: EditRequest) -> list[Placed]:
    """The words that say where each target is edited. Raises `PromptError` for a target without any."""
    return [_placed(alignment, request.options) for alignment in request.alignments(model)]


def _placed(alignment: Alignment, options: Options) -> Placed:
    target = alignment.target
    if options.blend_words != "auto":
        return alignment, tuple(word for phrase in options.blend_words for word in target.find(phrase))
    found = tuple(word for part in read(alignment).parts for word in part.target)
    if not found:  # a place or a light is no thing's: the new words themselves
        new = (word for match in alignment.matches if match.kind != "same" for word in match.target)
        found = tuple(word for word in new if word.names_something)
    if not found:
        raise PromptError(
            f"expected a target with a new word, which says where to edit, got '{target.prompt}' for "
            f"'{alignment.source.prompt}': name one of its words with blend_words"
        )
    return alignment, found


def edit(model: Model, request: EditRequest) -> Generator[Progress, None, list[Result]]:
    """Edit a source into each of the target prompts; one result per target, in order.

    Raises `PromptError` like `plan`, `SourceError` if the source is another model's.
    """
    source, options = request.started(model), request.options
    began = time.perf_counter()
    placed = plan(model, request)
    scale = source.text_scale(model) if options.guidance_scale is None else options.guidance_scale
    guidance, size = TextGuidance(scale), (source.z_T.shape[-2], source.z_T.shape[-1])
    rows = Rows(len(placed), guidance.branches(0.0))
    masks = torch.zeros(len(placed), 1, *size, dtype=torch.bool)
    trajectories = source.trajectory.expand(len(placed), -1, -1, -1, -1).to(model.device)
    notices, count = [UNCHANGED], 0
    if options.start < 1:
        source = source.late(options.start, model)
        mask = _Mask(model, source, placed, rows, options.mask_threshold, request.free(source))
        z = source.z_T.to(model.device).expand(len(placed), -1, -1, -1)
        text = Conditioning(model.encode_text(list(request.targets)))
        loop = denoise(
            model,
            z,
            {"text": text, "null": source.unconditional()},
            source.schedule,
            guidance,
            rows=lambda _: rows,
            source=source.row(model),
            attend=mask.maps,
            after_step=mask.after_step,
        )
        states = yield from watched("editing", loop, model)
        trajectories = torch.stack([z, *states], dim=1)
        masks, notices, count = mask.mask, [], rows.count * source.steps * source.states.predictions
    seconds = round(time.perf_counter() - began, 3)
    results: list[Result] = []
    for (alignment, words), trajectory, where in zip(placed, trajectories, masks[:, 0], strict=True):
        details = {"local_blend": [word.text for word in words]}
        share = float(where.float().mean())
        report = Report(alignment.describe(), share, scale, count, seconds, tuple(notices), details)
        results.append(Result(alignment.target.prompt, report, source, trajectory, model, where))
    return results


class _Mask:
    """Where the targets' words look, by all steps so far; elsewhere the picture is put back after each."""

    def __init__(
        self,
        model: Model,
        source: Source,
        placed: Sequence[Placed],
        rows: Rows,
        threshold: float,
        free: Bool[Tensor, "1 1 h w"],
    ) -> None:
        height, width = source.z_T.shape[-2:]
        self._states, self._size, self._blend = source.states, (height, width), LocalBlend(0, threshold)
        column = torch.stack([alignment.target.column(words) for alignment, words in placed])
        nothing = torch.zeros_like(column)  # no words to leave alone
        columns = torch.stack([column, nothing], -1).to(model.device)
        self.maps = WordMaps(plain, columns, lambda _: rows, model.map_positions(self._size))
        self._free = free.to(model.device).expand(len(placed), -1, -1, -1)
        self.mask: Bool[Tensor, "targets 1 height width"] = self._free

    def after_step(
        self, step: int, z: Float[Tensor, "targets c h w"], clean: Float[Tensor, "targets c h w"]
    ) -> Float[Tensor, "targets c h w"]:
        """The targets' latents where their words are, the picture's elsewhere."""
        maps = self.maps.mean
        found, _ = self._blend.masks(maps, maps, self._size)
        self.mask = found & self._free
        return torch.where(self.mask, z, self._states.at(step + 1).to(z))
