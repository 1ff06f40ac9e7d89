"""The one place where the UNet's attention is opened: a reversible patch around a single function.

Inside `attending(model, attend)` every attention layer of the UNet calls `attend(site, step, heads)` for its
output. `heads` projects queries, keys and values only when asked, and only the rows asked for, so an edit
that does not read a projection does not pay for it. Leaving the context restores the layers' own processors.

A map M = softmax(QKᵀ/√d) is never built. Its product with any value matrix is one fused call, and so is any of
its columns: a word's map is the same call with the word's indicator column for V (`Heads.with_values`).
"""

from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from wordbrush.errors import ModelError
from wordbrush.model import Model


@dataclass(frozen=True, slots=True)
class Site:
    """One attention layer: its name in the UNet, its kind, and the grid its rows (image positions) lie on."""

    name: str
    is_cross: bool
    height: int
    width: int

    @property
    def positions(self) -> int:
        """Number of image positions, height × width."""
        return self.height * self.width


@dataclass
class _TextProjections:
    """Keys and values of the text, which stay the same from step to step while the text does."""

    context: Tensor
    key: Tensor
    value: Tensor


@dataclass
class Heads:
    """The queries, keys and values of one layer at one step, projected on demand.

    All of them have the shape "rows heads positions-or-tokens channels"; `rows` selects a slice of the batch.
    `context` is the text embedding at a cross site and the layer's own input at a self site: while it is the
    same tensor, everything computed from it alone may be kept.
    """

    layer: Any
    hidden: Float[Tensor, "rows positions channels"]
    context: Float[Tensor, "rows tokens context_channels"]
    _text: dict[int, _TextProjections]
    _queries: dict[tuple[int, int], Tensor] = field(default_factory=dict[tuple[int, int], Tensor])
    _keys: dict[tuple[int, int], Tensor] = field(default_factory=dict[tuple[int, int], Tensor])
    _values: Tensor | None = None

    @property
    def rows(self) -> int:
        """The number of rows in the batch."""
        return self.hidden.shape[0]

    @property
    def has_own_values(self) -> bool:
        """Whether `with_values` put other values in the place of the layer's."""
        return self._values is not None

    @property
    def channels(self) -> int:
        """Channels per head, d."""
        return self.layer.to_q.out_features // self.layer.heads

    def query(self, rows: slice = slice(None)) -> Float[Tensor, "b heads positions d"]:
        """Q of the given rows."""
        span = rows.indices(self.rows)[:2]
        if span not in self._queries:
            self._queries[span] = self._split(self.layer.to_q(self.hidden[rows]))
        return self._queries[span]

    def key(self, rows: slice = slice(None)) -> Float[Tensor, "b heads tokens d"]:
        """K of the given rows."""
        if self._is_cross:
            return self._text_projections().key[rows]
        span = rows.indices(self.rows)[:2]
        if span not in self._keys:
            self._keys[span] = self._split(self.layer.to_k(self.context[rows]))
        return self._keys[span]

    def value(self, rows: slice = slice(None)) -> Float[Tensor, "b heads tokens d"]:
        """V of the given rows."""
        if self._values is not None:
            return self._values[rows]
        if self._is_cross:
            return self._text_projections().value[rows]
        return self._split(self.layer.to_v(self.context[rows]))

    def with_values(self, columns: Float[Tensor, "rows tokens k"]) -> "Heads":
        """The same queries and keys over other values: columns of the maps instead of features.

        The columns are padded with zeros to d channels, because the fused kernels want V as wide as Q; of the
        attended result only the first k channels mean anything.
        """
        assert columns.shape[-1] <= self.channels, "more columns than a head has channels: read them in turns"
        padded = F.pad(columns.to(self.hidden), (0, self.channels - columns.shape[-1]))
        values = padded[:, None].expand(-1, self.layer.heads, -1, -1)
        return Heads(self.layer, self.hidden, self.context, self._text, self._queries, self._keys, values)

    def attend(self, query: Tensor, key: Tensor, value: Tensor) -> Float[Tensor, "b heads positions d"]:
        """softmax(QKᵀ/√d) V by the fused kernel."""
        return F.scaled_dot_product_attention(query, key, value)

    @property
    def _is_cross(self) -> bool:
        return self.context is not self.hidden

    def _text_projections(self) -> _TextProjections:
        kept = self._text.get(id(self.layer))
        if kept is not None and kept.context is self.context:
            return kept
        key, value = self._split(self.layer.to_k(self.context)), self._split(self.layer.to_v(self.context))
        fresh = _TextProjections(self.context, key, value)
        if not self.context.requires_grad:
            self._text[id(self.layer)] = fresh
        return fresh

    def _split(self, projected: Tensor) -> Tensor:
        return projected.view(*projected.shape[:2], self.layer.heads, -1).transpose(1, 2)


Attend = Callable[[Site, int, Heads], Tensor]
"""What stands in for an attention layer: site, the sampler's step i and heads, to the layer's attended values
"rows heads positions d", before its output projection."""


def plain(site: Site, step: int, heads: Heads) -> Float[Tensor, "rows heads positions d"]:
    """The model's own attention: bitwise what it computes unpatched."""
    return heads.attend(heads.query(), heads.key(), heads.value())


@contextmanager
def attending(model: Model, attend: Attend) -> Generator[None, None, None]:
    """While open, every attention layer of the model's UNet computes `attend`.

    Contexts do not nest, because an edit is one value: compose edits instead. Raises `ModelError` when one is
    already open, or when the UNet has attention layers of a kind this does not cover.
    """
    if model.is_attended:
        raise ModelError("this model's attention is already being edited: close that context first")
    before = dict(model.unet.attn_processors)
    for name, layer in model.unet.named_modules():
        if f"{name}.processor" in before:
            _check_layer(name, layer)
    text: dict[int, _TextProjections] = {}
    model.unet.set_attn_processor(
        {name: _Processor(name.removesuffix(".processor"), attend, text) for name in before}
    )
    model.is_attended = True
    try:
        yield
    finally:
        model.is_attended = False
        model.unet.set_attn_processor(before)


@dataclass
class _Processor:
    """diffusers' processor interface around `attend`, for the layers of Stable Diffusion's transformer blocks."""

    name: str
    attend: Attend
    text: dict[int, _TextProjections]

    def __call__(
        self,
        attn: Any,
        hidden_states: Float[Tensor, "rows positions channels"],
        encoder_hidden_states: Float[Tensor, "rows tokens context_channels"] | None = None,
        attention_mask: Tensor | None = None,
        step: int = -1,
        latent_size: tuple[int, int] = (0, 0),
    ) -> Float[Tensor, "rows positions channels"]:
        assert attention_mask is None, "Stable Diffusion's UNet attends without masks"
        assert step >= 0, "inside attending(), predict_eps needs the step index"
        is_cross = encoder_hidden_states is not None
        context = hidden_states if encoder_hidden_states is None else encoder_hidden_states
        height, width = _grid(latent_size, hidden_states.shape[1])
        site = Site(self.name, is_cross, height, width)
        attended = self.attend(site, step, Heads(attn, hidden_states, context, self.text))
        merged = attended.transpose(1, 2).flatten(2)  # rows positions (heads d)
        return attn.to_out[1](attn.to_out[0](merged))


def _check_layer(name: str, layer: Any) -> None:
    special = ("group_norm", "spatial_norm", "norm_cross", "norm_q", "norm_k", "added_kv_proj_dim")
    found = [part for part in special if getattr(layer, part, None)]
    if found or layer.residual_connection or layer.rescale_output_factor != 1:
        raise ModelError(
            f"attention layer {name} is not of Stable Diffusion's kind (it has {', '.join(found) or 'a residual'}): "
            "its attention cannot be edited"
        )


def _grid(latent_size: tuple[int, int], positions: int) -> tuple[int, int]:
    """Height and width of a layer with that many positions: the UNet halves its grid, rounding up."""
    height, width = latent_size
    while height * width > positions:
        height, width = (height + 1) // 2, (width + 1) // 2
    assert height * width == positions, f"no grid of {positions} positions under latents of {latent_size}"
    return height, width


def column_maps(
    attended: Float[Tensor, "rows heads positions d"], site: Site, count: int
) -> Float[Tensor, "rows count height width"]:
    """The first `count` columns that `Heads.with_values` put into an attended result, averaged over the heads."""
    maps = attended[..., :count].float() if attended.dtype != torch.float64 else attended[..., :count]
    return maps.mean(1).transpose(1, 2).reshape(-1, count, site.height, site.width)
