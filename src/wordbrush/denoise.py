"""The sampling loop, down (`denoise`) and up (`noise_up`), as generators.

One loop serves generating and editing. What it computes per step is laid out by `Rows`; an edit reaches the
attention through an open `attending` context and the latents through `after_step`, so the loop knows no method.
"""

from collections.abc import Callable, Generator
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from wordbrush.errors import NumericsError
from wordbrush.guidance import text_guidance
from wordbrush.model import Model, TextEmbeds
from wordbrush.rows import Rows
from wordbrush.schedule import Schedule, ddim_step, predict_clean


@dataclass(frozen=True, eq=False)
class Step:
    """The state after step `index` of `total`: the latents, and the clean latents that their eps implied."""

    index: int
    total: int
    latents: Float[Tensor, "n c h w"]
    clean: Float[Tensor, "n c h w"]


@dataclass(frozen=True, eq=False)
class SourceRow:
    """What the loop reads of a source: its known latents at every step, and its text."""

    trajectory: Float[Tensor, "steps_plus_1 c h w"]
    text: TextEmbeds


AfterStep = Callable[[int, Tensor], Tensor]


@torch.no_grad()
def denoise(
    model: Model,
    latents: Float[Tensor, "n c h w"],
    text: TextEmbeds,
    null: TextEmbeds,
    schedule: Schedule,
    *,
    guidance_scale: float,
    rows: Callable[[int], Rows] | None = None,
    source: SourceRow | None = None,
    after_step: AfterStep | None = None,
) -> Generator[Step, None, Float[Tensor, "n c h w"]]:
    """Sample n pictures from z_T down to z_0 with deterministic DDIM and text guidance; yields after each step.

    text: one row per picture. null: one row, or one per step (null-text inversion).
    rows: the batch of each step; by default the n pictures alone, unguided at guidance scale 1.
    source: needed where `rows` asks for the source's row.
    after_step: called with (step, latents); what it returns goes on (local blend).

    Raises `NumericsError` as soon as latents are not finite.
    """
    plain = Rows(len(text), guided=guidance_scale != 1)
    batch = _Batch(text, null, source)
    for i, t in enumerate(schedule.timesteps):
        layout = rows(i) if rows is not None else plain
        where = f"step {i + 1} of {schedule.steps}"
        eps = model.predict_eps(batch.latents(layout, i, latents), t, batch.text(layout, i), step=i)
        check_finite(
            eps, where
        )  # in every row: fused attention can make zeros of what a source's row has lost
        eps_guided = eps[layout.conditional]
        if layout.guided:
            eps_guided = text_guidance(eps[layout.unconditional], eps_guided, guidance_scale)
        alpha, alpha_next = schedule.alphas[i], schedule.alphas[i + 1]
        clean = predict_clean(latents, eps_guided, alpha)
        latents = ddim_step(latents, eps_guided, alpha, alpha_next)
        if after_step is not None:
            latents = after_step(i, latents)
        check_finite(latents, where)
        yield Step(i, schedule.steps, latents, clean)
    return latents


@torch.no_grad()
def noise_up(
    model: Model, z_0: Float[Tensor, "1 c h w"], text: TextEmbeds, schedule: Schedule
) -> Generator[Step, None, Float[Tensor, "steps_plus_1 c h w"]]:
    """DDIM inversion: walk a picture's latents up to noise, without guidance; returns the path, z_T first.

    Each step is the sampler's, with its two levels exchanged, and with the label of the noisier one (Mokady et
    al. 2023, section 3). Steps come in the order of computation: index 0 leaves the clean picture.
    """
    z = z_0
    path = [z_0]
    for k, i in enumerate(reversed(range(schedule.steps))):
        eps = model.predict_eps(z, schedule.timesteps[i], text)
        clean = predict_clean(z, eps, schedule.alphas[i + 1])
        z = ddim_step(z, eps, schedule.alphas[i + 1], schedule.alphas[i])
        check_finite(z, f"inversion step {k + 1} of {schedule.steps}")
        path.append(z)
        yield Step(k, schedule.steps, z, clean)
    return torch.cat(path[::-1])


def check_finite(latents: Tensor, where: str) -> None:
    """Raise `NumericsError` if latents hold NaN or infinity: no picture can come of them."""
    if not bool(torch.isfinite(latents).all()):
        raise NumericsError(
            f"the latents are not finite after {where}: use float32, or a smaller guidance scale or word weight"
        )


class _Batch:
    """Puts the rows of a step together, and keeps the text of one layout for as long as it stays the same.

    Handing the model the same tensor again is what lets the attention keep the text's keys and values.
    """

    def __init__(self, text: TextEmbeds, null: TextEmbeds, source: SourceRow | None) -> None:
        self._text, self._null, self._source = text, null, source
        self._kept: tuple[Rows, int, TextEmbeds] | None = None

    def latents(self, layout: Rows, step: int, targets: Tensor) -> Tensor:
        parts = [targets] if layout.guided else []
        if layout.source:
            assert self._source is not None, "the layout asks for a source row and there is no source"
            parts.append(self._source.trajectory[step : step + 1].to(targets))
        return torch.cat([*parts, targets])

    def text(self, layout: Rows, step: int) -> TextEmbeds:
        null_row = step if len(self._null) > 1 else 0
        if self._kept is not None and self._kept[:2] == (layout, null_row):
            return self._kept[2]
        parts = [self._null[null_row : null_row + 1].expand(layout.targets)] if layout.guided else []
        if layout.source:
            assert self._source is not None, "the layout asks for a source row and there is no source"
            parts.append(self._source.text)
        embeds = TextEmbeds.concat([*parts, self._text])
        self._kept = (layout, null_row, embeds)
        return embeds
