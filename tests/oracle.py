"""Prompt-to-Prompt the long way round: every attention map is built, edited in place and kept.

Written from the papers' equations (Hertz et al. 2022, sections 3.2 and 4; Song et al. 2021, eq. 12) and from what
is documented of the released code's behaviour. It shares nothing with `wordbrush.attention`, `attention_edit`,
`local_blend`, `denoise`, `schedule` or `words`: own processor, own word spans, own loop, own schedule. A test that
compares the package with it compares two derivations of the same mathematics.

Maps have the shape "rows heads positions tokens" and everything is float64. The batch of a step is the full one,
[u_source, u_target…, c_source, c_target…], and only its conditional half is edited.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from wordbrush.model import Model, TextEmbeds

# Word spans and mappers -------------------------------------------------------------------------------------


def spans(tokenizer: Any, words: Sequence[str]) -> list[list[int]]:
    """Token positions of words given one by one; the opening token is at 0."""
    found: list[list[int]] = []
    position = 1
    for word in words:
        count = len(tokenizer(word, add_special_tokens=False).input_ids)
        found.append(list(range(position, position + count)))
        position += count
    return found


Pairs = Sequence[tuple[int, int]]  # (index of a source word, index of the target word in its place)


def replace_mapper(source: list[list[int]], target: list[list[int]], pairs: Pairs, length: int) -> Tensor:
    """P, source tokens × target tokens: a word's mass goes to its counterpart, the rest of the prompt in order."""
    mapper = torch.zeros(length, length, dtype=torch.float64)
    mapper[0, 0] = 1
    for i, j in pairs:
        if len(source[i]) == len(target[j]):
            for s, t in zip(source[i], target[j], strict=True):
                mapper[s, t] = 1
        else:
            for s in source[i]:
                for t in target[j]:
                    mapper[s, t] = 1 / len(target[j])
    s, t = source[-1][-1] + 1, target[-1][-1] + 1
    while s < length:
        mapper[s, min(t, length - 1)] = 1
        s, t = s + 1, t + 1
    return mapper


def refine_mapper(
    source: list[list[int]], target: list[list[int]], pairs: Pairs, length: int
) -> tuple[Tensor, Tensor]:
    """For each target token the source token it gathers (−1: none), and 1 where there is one."""
    index = torch.full((length,), -1)
    index[0] = 0
    for i, j in pairs:
        for s, t in zip(source[i], target[j], strict=True):
            index[t] = s
    # The released code: the end token meets the end token, and every place after it the same place. Ours differs where
    # a source word or its end token is in that place.
    end, own_end = source[-1][-1] + 1, target[-1][-1] + 1
    index[own_end] = end
    unused = set(range(end + 1, length))
    for t in range(own_end + 1, length):
        if unused:
            index[t] = t if t in unused else min(unused)
    return index, (index >= 0).double()


def word_alphas(
    steps: int,
    length: int,
    default: tuple[float, float],
    words: Sequence[tuple[list[int], tuple[float, float]]],
) -> Tensor:
    """The time gates of each token, (steps + 1) × tokens, with the released code's rounding."""
    alpha = torch.zeros(steps + 1, length, dtype=torch.float64)
    for tokens, (start, stop) in [(list(range(length)), default), *words]:
        first, last = int(start * (steps + 1)), int(stop * (steps + 1))
        for i in range(steps + 1):
            alpha[i, tokens] = float(first <= i < last)
    return alpha


# Edits ------------------------------------------------------------------------------------------------------


@dataclass
class CrossEdit:
    """One target: a replace mapper, or a refine (index, mask); then weights; then gates."""

    alphas: Tensor
    mapper: Tensor | None = None
    refine: tuple[Tensor, Tensor] | None = None
    weights: Tensor | None = None

    def __call__(self, source: Tensor, own: Tensor, step: int) -> Tensor:
        """The edited map "heads positions tokens" of one layer."""
        if self.mapper is not None:
            edited = torch.einsum("hps,st->hpt", source, self.mapper)
        elif self.refine is not None:
            index, mask = self.refine
            edited = source[:, :, index] * mask + own * (1 - mask)
        else:
            edited = own
        if self.weights is not None:
            edited = edited * self.weights
        return edited * self.alphas[step] + own * (1 - self.alphas[step])


@dataclass
class Blend:
    """Local blend: per target, token indicators (source, target) of the words to edit and of those to spare."""

    words: Sequence[tuple[Tensor, Tensor] | None]
    spare: Sequence[tuple[Tensor, Tensor]]
    positions: int
    grid: tuple[int, int]
    start: int = 0
    threshold: float = 0.3
    spare_threshold: float = 0.3


@dataclass
class Control:
    """What is done to the maps, and what is kept of them; counts layers to know the step, as the released code."""

    edits: Sequence[CrossEdit]
    layers: int
    self_window: tuple[int, int] = (0, 0)
    self_limit: int = 0
    blend: Blend | None = None
    step: int = 0
    _layer: int = 0
    # The sum over the steps, of each 16×16 cross layer.
    store: dict[int, Tensor] = field(default_factory=dict)

    def __call__(self, maps: Tensor, is_cross: bool) -> Tensor:
        half = len(maps) // 2
        source, targets = maps[half], maps[half + 1 :]
        if is_cross:
            for target, edit in zip(targets, self.edits, strict=True):
                target[:] = edit(source, target.clone(), self.step)
            if self.blend is not None and maps.shape[2] == self.blend.positions:
                kept = maps[half:].clone()  # the edited maps
                self.store[self._layer] = self.store.get(self._layer, torch.zeros_like(kept)) + kept
        elif self.self_window[0] <= self.step < self.self_window[1] and maps.shape[2] <= self.self_limit:
            targets[:] = source
        self._layer += 1
        if self._layer == self.layers:
            self._layer, self.step = 0, self.step + 1
        return maps

    def masks(self, size: tuple[int, int]) -> Tensor:
        """targets × 1 × height × width; for a target without blend words, everywhere but at those to spare."""
        assert self.blend is not None
        maps = torch.cat([kept for _, kept in sorted(self.store.items())], dim=1)  # layers and heads together
        masks: list[Tensor] = []
        for i, words in enumerate(self.blend.words):
            edit = torch.ones(1, *size, dtype=torch.bool)
            if words is not None:
                edit = self._above(maps, i, words, True, self.blend.threshold, size)
            spare = self._above(maps, i, self.blend.spare[i], False, self.blend.spare_threshold, size)
            masks.append(edit & ~spare)
        return torch.stack(masks)

    def _above(
        self,
        maps: Tensor,
        i: int,
        words: tuple[Tensor, Tensor],
        pool: bool,
        threshold: float,
        size: tuple[int, int],
    ) -> Tensor:
        assert self.blend is not None
        result = torch.zeros(1, *size, dtype=torch.bool)
        for picture, indicator in ((0, words[0]), (i + 1, words[1])):
            heat = (maps[picture] * indicator).sum(-1).mean(0).view(1, 1, *self.blend.grid)
            if pool:
                heat = F.max_pool2d(heat, (3, 3), (1, 1), padding=(1, 1))
            heat = F.interpolate(heat, size=size)
            if indicator.any():
                result |= (heat / heat.max()).gt(threshold)[0]
        return result


@dataclass
class ExplicitAttention:
    """A diffusers attention processor that builds the map."""

    control: Control

    def __call__(
        self, attn: Any, hidden_states: Tensor, encoder_hidden_states: Tensor | None = None, **_: Any
    ) -> Tensor:
        context = hidden_states if encoder_hidden_states is None else encoder_hidden_states

        def heads(x: Tensor) -> Tensor:
            return x.unflatten(-1, (attn.heads, -1))

        q, k, v = heads(attn.to_q(hidden_states)), heads(attn.to_k(context)), heads(attn.to_v(context))
        scores = torch.einsum("bphd,bthd->bhpt", q, k) / q.shape[-1] ** 0.5
        maps = self.control(scores.softmax(-1), encoder_hidden_states is not None)
        out = torch.einsum("bhpt,bthd->bphd", maps, v).flatten(2)
        return attn.to_out[1](attn.to_out[0](out))


# The loop ---------------------------------------------------------------------------------------------------


def alphas_cumprod(config: dict[str, Any]) -> Tensor:
    """ᾱ of Stable Diffusion's scaled-linear schedule, by timestep."""
    low, high = config["beta_start"] ** 0.5, config["beta_end"] ** 0.5
    root = torch.linspace(low, high, config["num_train_timesteps"], dtype=torch.float64)
    return (1 - root * root).cumprod(0)


def levels(config: dict[str, Any], steps: int) -> tuple[list[int], list[float]]:
    """Timesteps with leading spacing, and their ᾱ; one more for the clean level."""
    bar = alphas_cumprod(config)
    times = [i * (len(bar) // steps) + config["steps_offset"] for i in range(steps)][::-1]
    last = 1.0 if config["set_alpha_to_one"] else float(bar[0])
    return times, [float(bar[t]) for t in times] + [last]


def predict(model: Model, z: Tensor, t: int, text: TextEmbeds) -> Tensor:
    """eps from the bare UNet, whatever processors it has."""
    extra: dict[str, Any] = {}
    if text.pooled is not None:
        height, width = z.shape[-2] * model.downscale, z.shape[-1] * model.downscale
        ids = torch.tensor([[height, width, 0, 0, height, width]], dtype=z.dtype).repeat(len(z), 1)
        extra["added_cond_kwargs"] = {"text_embeds": text.pooled, "time_ids": ids}
    out = model.denoiser.unet(z, t, encoder_hidden_states=text.hidden, **extra).sample
    if model.schedule_config["prediction_type"] == "v_prediction":
        a = float(alphas_cumprod(model.schedule_config)[t])
        out = a**0.5 * out + (1 - a) ** 0.5 * z
    return out


@torch.no_grad()
def edit(
    model: Model,
    z_T: Tensor,  # noqa: N803
    prompts: Sequence[str],
    control: Control,
    *,
    steps: int,
    guidance_scale: float,
    null: TextEmbeds | None = None,
    pinned: Tensor | None = None,
) -> tuple[Tensor, list[Tensor]]:
    """Source and targets side by side from one noise: latents "steps + 1, pictures, c, h, w", and the masks.

    null: "no text" for every row, one or one per step. pinned: the source's latents, written over its row.
    """
    n = len(prompts)
    times, bars = levels(model.schedule_config, steps)
    text = model.encode_text(list(prompts))
    null = null if null is not None else model.encode_text([""])
    before = dict(model.denoiser.unet.attn_processors)
    model.denoiser.unet.set_attn_processor(ExplicitAttention(control))
    z = z_T.double().repeat(n, 1, 1, 1)
    path, masks = [z], []
    try:
        for i, t in enumerate(times):
            row = i if len(null) > 1 else 0
            both = TextEmbeds.concat([null[row : row + 1]] * n + [text])
            eps_null, eps_text = predict(model, torch.cat([z, z]), t, both).chunk(2)
            eps = eps_null + guidance_scale * (eps_text - eps_null)
            clean = (z - (1 - bars[i]) ** 0.5 * eps) / bars[i] ** 0.5
            z = bars[i + 1] ** 0.5 * clean + (1 - bars[i + 1]) ** 0.5 * eps
            if pinned is not None:
                z[0] = pinned[i + 1]
            if control.blend is not None:
                masks.append(control.masks((z.shape[-2], z.shape[-1])))
                if i >= control.blend.start:
                    z = torch.cat([z[:1], z[:1] + masks[-1] * (z[1:] - z[:1])])
            path.append(z)
    finally:
        model.denoiser.unet.set_attn_processor(before)
    return torch.stack(path), masks


@torch.no_grad()
def straight(
    model: Model,
    z_0: Tensor,
    noise: Tensor,
    prompts: Sequence[str],
    control: Control,
    *,
    steps: int,
    scale: float,
) -> tuple[Tensor, list[Tensor]]:
    """The straight path, restated: the source's latents are its picture and one noise at every level; a target follows
    noise + scale (its prediction − the source's). Latents "steps + 1, pictures, c, h, w", the source first, and masks.
    """
    bar = alphas_cumprod(model.schedule_config)
    times = [round(len(bar) * (steps - i) / steps) - 1 for i in range(steps)]
    signal = [float(bar[t]) ** 0.5 for t in times] + [1.0]
    sigma = [(1 - float(bar[t])) ** 0.5 for t in times] + [0.0]
    text = model.encode_text(list(prompts))
    before = dict(model.denoiser.unet.attn_processors)
    model.denoiser.unet.set_attn_processor(ExplicitAttention(control))
    z = (signal[0] * z_0 + sigma[0] * noise).repeat(len(prompts), 1, 1, 1)
    path, masks = [z], []
    try:
        for i, t in enumerate(times):
            z[0] = signal[i] * z_0[0] + sigma[i] * noise[0]
            # The control takes the second half of the rows for those with text, so everything is computed twice.
            eps = predict(model, torch.cat([z, z]), t, TextEmbeds.concat([text, text]))[len(prompts) :]
            followed = noise + scale * (eps[1:] - eps[:1])
            clean = (z[1:] - sigma[i] * followed) / signal[i]
            source = signal[i + 1] * z_0 + sigma[i + 1] * noise
            targets = signal[i + 1] * clean + sigma[i + 1] * followed
            if control.blend is not None:
                masks.append(control.masks((z.shape[-2], z.shape[-1])))
                if i >= control.blend.start:
                    targets = torch.where(masks[-1], targets, source)
            z = torch.cat([source, targets])
            path.append(z)
    finally:
        model.denoiser.unet.set_attn_processor(before)
    return torch.stack(path), masks
