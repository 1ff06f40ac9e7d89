"""The one place where the UNet's attention is opened. It keeps no state between calls.

`install` puts one processor on every attention layer when a model is built. What attends is an argument of each call
to the model: `attend(site, step, heads)` computes a layer's output, and without one the layer computes what it always
did, bit for bit. `heads` projects queries, keys and values only when asked, and only the rows asked for, so an edit
that does not read a projection does not pay for it.

A map M = softmax(QKᵀ/√d) is never built. Its product with any value matrix is one fused call, and so is any of
its columns: a word's map is the same call with the word's indicator column for V (`Heads.with_values`).
"""

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any
from weakref import WeakKeyDictionary

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence


@dataclass(frozen=True, slots=True)
class Site:
    """One attention layer: its name in the UNet, its kind, and the grid of its rows (image positions)."""

    name: str
    is_cross: bool
    height: int
    width: int

    @property
    def positions(self) -> int:
        """Number of image positions, height × width."""
        return self.height * self.width


@dataclass(frozen=True, slots=True)
class Spot:
    """Where a learned word stands in a prompt: its tokens [start, stop)."""

    token: str
    start: int
    stop: int


class Likeness(torch.nn.Module):
    """What a learned word brings to one cross-attention layer, beside its vectors; it acts where the word stands alone.

    token: the word; None for all that were learned. key_change, value_change: what is added to the layer's projections
    of the word's own tokens. keys, values: features of the thing itself, which the positions that attend to the word
    attend to as well; `gate` says how much. Rows without the word are never touched. The tensors are buffers: they
    belong to the network.
    """

    key_change: Float[Tensor, "channels context_channels"] | None
    value_change: Float[Tensor, "channels context_channels"] | None
    keys: Float[Tensor, "cells channels"] | None
    values: Float[Tensor, "cells channels"] | None
    gate: Float[Tensor, ""] | None

    def __init__(
        self,
        token: str | None,
        key_change: Tensor | None = None,
        value_change: Tensor | None = None,
        keys: Tensor | None = None,
        values: Tensor | None = None,
        gate: float = 0.0,
    ) -> None:
        super().__init__()
        self.token = token
        self.register_buffer("key_change", key_change)
        self.register_buffer("value_change", value_change)
        self.register_buffer("keys", keys)
        self.register_buffer("values", values)
        # A tensor, so that a model's hash knows it.
        self.register_buffer("gate", None if values is None else torch.tensor(gate, device=values.device))

    @property
    def changes(self) -> tuple[Tensor, ...]:
        """Both changes; nothing where there are none."""
        return tuple(each for each in (self.key_change, self.value_change) if each is not None)

    def tokens(self, spots: Sequence[Sequence[Spot]]) -> list[tuple[int, int]]:
        """The row and the position of each of the word's tokens."""
        return [
            (row, position)
            for row, own in enumerate(spots)
            for spot in own
            if self.token in (None, spot.token)
            for position in range(spot.start, spot.stop)
        ]


@dataclass(frozen=True, eq=False, slots=True)
class TextProjections:
    """The keys and values of the text at one layer, and the state of what they were computed from."""

    key: Tensor
    value: Tensor
    context: Tensor
    versions: tuple[int, ...]


TextCache = WeakKeyDictionary[torch.nn.Module, TextProjections]
"""The projections of one text by layer. It belongs to the text (`Conditioning`) and not to a model, so that models
which share layers share no stale values."""


@dataclass
class Heads:
    """The queries, keys and values of one layer at one step, projected on demand.

    All of them have the shape "rows heads positions-or-tokens channels"; `rows` selects a slice of the batch.
    `context` is the text embedding at a cross site and the layer's own input at a self site.
    """

    layer: Any
    hidden: Float[Tensor, "rows positions channels"]
    context: Float[Tensor, "rows tokens context_channels"]
    cache: TextCache
    spots: Sequence[Sequence[Spot]] = ()
    _queries: dict[tuple[int, int], Tensor] = field(default_factory=dict[tuple[int, int], Tensor])
    _keys: dict[tuple[int, int], Tensor] = field(default_factory=dict[tuple[int, int], Tensor])
    _values: Tensor | None = None
    _projections: TextProjections | None = None

    @property
    def rows(self) -> int:
        """The number of rows in the batch."""
        return self.hidden.shape[0]

    @property
    def channels(self) -> int:
        """Channels per head, d."""
        return self.layer.to_q.out_features // self.layer.heads

    @property
    def text(self) -> TextProjections | None:
        """At a cross site, the projected text: the same object in every step for as long as neither the text nor the
        projections change, so that what is computed from it may be kept. None at a self site, or with other values."""
        if self.context is self.hidden or self._values is not None:
            return None
        return self._text()

    def query(self, rows: slice = slice(None)) -> Float[Tensor, "b heads positions d"]:
        """Q of the given rows."""
        span = rows.indices(self.rows)[:2]
        if span not in self._queries:
            self._queries[span] = self.split(self.layer.to_q(self.hidden[rows]))
        return self._queries[span]

    def key(self, rows: slice = slice(None)) -> Float[Tensor, "b heads tokens d"]:
        """K of the given rows."""
        if self.context is not self.hidden:
            return self._text().key[rows]
        span = rows.indices(self.rows)[:2]
        if span not in self._keys:
            self._keys[span] = self.split(self.layer.to_k(self.context[rows]))
        return self._keys[span]

    def value(self, rows: slice = slice(None)) -> Float[Tensor, "b heads tokens d"]:
        """V of the given rows."""
        if self._values is not None:
            return self._values[rows]
        if self.context is not self.hidden:
            return self._text().value[rows]
        return self.split(self.layer.to_v(self.context[rows]))

    def with_values(self, columns: Float[Tensor, "rows tokens k"]) -> "Heads":
        """The same queries and keys over other values: columns of the maps instead of features.

        The columns are padded with zeros to d channels, because the fused kernels want V as wide as Q; of the
        attended result only the first k channels mean anything.
        """
        return replace(self, _values=self.padded(columns))

    def padded(self, columns: Float[Tensor, "rows tokens k"]) -> Float[Tensor, "rows heads tokens d"]:
        """Columns as values: see `with_values`."""
        assert columns.shape[-1] <= self.channels, "more columns than a head has channels: read them in turns"
        padded = F.pad(columns.to(self.hidden), (0, self.channels - columns.shape[-1]))
        return padded[:, None].expand(-1, self.layer.heads, -1, -1)

    def attend(
        self, query: Tensor, key: Tensor, value: Tensor, among: Bool[Tensor, "#b 1 1 tokens"] | None = None
    ) -> Float[Tensor, "b heads positions d"]:
        """softmax(QKᵀ/√d) V by the fused kernel. among: the keys to attend to, at least one in each row; by default
        all."""
        return F.scaled_dot_product_attention(query, key, value, among)

    def _text(self) -> TextProjections:
        if self._projections is None:
            self._projections = self._projected()
        return self._projections

    def _projected(self) -> TextProjections:
        layer, context = self.layer, self.context
        likenesses = _likenesses(layer) if self.spots else ()
        weights = [*layer.to_k.parameters(), *layer.to_v.parameters()]
        weights += [each for own in likenesses for each in own.changes]
        is_trained = context.requires_grad or any(weight.requires_grad for weight in weights)
        versions = () if is_trained else tuple(map(_version, (context, *weights)))
        kept = self.cache.get(layer)
        if kept is not None and kept.context is context and kept.versions == versions and not is_trained:
            return kept
        key, value = layer.to_k(context), layer.to_v(context)
        for own in likenesses:
            if own.changes and (found := own.tokens(self.spots)):
                at = tuple(torch.tensor(found).T)
                of_key, of_value = (F.linear(context[at], each) for each in own.changes)
                key = key.index_put(at, key[at] + of_key.to(key))
                value = value.index_put(at, value[at] + of_value.to(value))
        fresh = TextProjections(self.split(key), self.split(value), context, versions)
        if not is_trained:
            self.cache[layer] = fresh
        return fresh

    def split(self, projected: Float[Tensor, "b tokens channels"]) -> Float[Tensor, "b heads tokens d"]:
        """Projected features by heads."""
        return projected.view(*projected.shape[:2], self.layer.heads, -1).transpose(1, 2)


def _version(tensor: Tensor) -> int:
    """Changes whenever the tensor is written to in place; tensors of inference mode cannot be."""
    return 0 if tensor.is_inference() else tensor._version


Attend = Callable[[Site, int, Heads], Tensor]
"""What computes an attention layer in its place: from the site, the sampler's step i and the heads, the layer's
attended values "rows heads positions d", before its output projection."""


def plain(site: Site, step: int, heads: Heads) -> Float[Tensor, "rows heads positions d"]:
    """The layer's own attention."""
    return heads.attend(heads.query(), heads.key(), heads.value())


def liken(unet: Any, likenesses: Mapping[str, Sequence[Likeness]]) -> None:
    """Give a UNet's cross-attention layers, by name, what learned words bring to them."""
    for name, own in likenesses.items():
        unet.get_submodule(name).likenesses = torch.nn.ModuleList(own)


def _likenesses(layer: Any) -> Sequence[Likeness]:
    return list(getattr(layer, "likenesses", ()))


def _likened(heads: Heads, attended: Float[Tensor, "rows heads positions d"]) -> Tensor:
    """What a layer attended, and what its rows that have a learned word with a likeness see of the thing.

    λ · A / max A · softmax(Q K_lᵀ/√d) V_l (ELITE, eq. 7), where A is the map of the word's tokens, and its maximum is
    over the positions of one head of one row: no row depends on what else is in the batch.
    """
    found: list[tuple[int, list[int], Tensor, Tensor, Tensor]] = []
    for own in _likenesses(heads.layer):
        if own.keys is not None and own.values is not None and own.gate is not None:
            places: dict[int, list[int]] = defaultdict(list)
            for row, position in own.tokens(heads.spots):
                places[row].append(position)
            found += [(row, at, own.gate, own.keys, own.values) for row, at in places.items()]
    if not found:
        return attended
    rows = [row for row, *_ in found]
    query, key = heads.query()[rows], heads.key()[rows]
    columns = query.new_zeros(len(rows), 1, key.shape[2], heads.channels)
    for number, (_, at, *_) in enumerate(found):
        columns[number, 0, at, 0] = 1
    columns = columns.expand(-1, heads.layer.heads, -1, -1)
    word = heads.attend(query, key.to(query), columns)[..., :1].to(query)
    gates = torch.stack([gate for _, _, gate, *_ in found]).to(query)[:, None, None, None]
    share = gates * word / word.amax(2, keepdim=True).clamp(min=torch.finfo(word.dtype).tiny)
    keys, values = (
        heads.split(pad_sequence(cells, batch_first=True).to(query))
        for cells in ([key for *_, key, _ in found], [value for *_, value in found])
    )
    counts = torch.tensor([len(key) for *_, key, _ in found])
    mask = None  # where things have as many cells as one another
    if counts.min() < keys.shape[2]:
        mask = (torch.arange(keys.shape[2]) < counts[:, None])[:, None, None].to(query.device)
    seen = share * F.scaled_dot_product_attention(query, keys, values, mask)
    return attended.index_put((torch.tensor(rows),), seen.to(attended), accumulate=True)


def install(unet: Any) -> str:
    """Put this module's processor on every attention layer of a UNet; twice is as good as once.

    Returns "" or, where a layer is of a kind that `Attend` does not cover, why; such a UNet keeps its processors.
    """
    processors = dict(unet.attn_processors)
    for name, layer in unet.named_modules():
        if f"{name}.processor" in processors and (unlike := _unlike(layer)):
            return f"its attention layer {name} has {unlike}, which Stable Diffusion's layers do not have"
    unet.set_attn_processor({name: _Processor(name.removesuffix(".processor")) for name in processors})
    return ""


@dataclass(frozen=True)
class _Processor:
    """diffusers' processor interface around `attend`, for the layers of Stable Diffusion's transformer blocks."""

    name: str

    def __call__(
        self,
        attn: Any,
        hidden_states: Float[Tensor, "rows positions channels"],
        encoder_hidden_states: Float[Tensor, "rows tokens context_channels"] | None = None,
        attention_mask: Tensor | None = None,
        attend: Attend = plain,
        step: int = 0,
        latent_size: tuple[int, int] | None = None,
        cache: TextCache | None = None,
        spots: Sequence[Sequence[Spot]] = (),
    ) -> Float[Tensor, "rows positions channels"]:
        assert attention_mask is None, "Stable Diffusion's UNet attends without masks"
        is_cross = encoder_hidden_states is not None
        context = hidden_states if encoder_hidden_states is None else encoder_hidden_states
        positions = hidden_states.shape[1]
        height, width = (positions, 1) if latent_size is None else _grid(latent_size, positions)
        site = Site(self.name, is_cross, height, width)
        heads = Heads(
            attn, hidden_states, context, TextCache() if cache is None else cache, spots if is_cross else ()
        )
        attended = attend(site, step, heads)
        if heads.spots:
            attended = _likened(heads, attended)
        merged = attended.transpose(1, 2).flatten(2)  # rows positions (heads d)
        return attn.to_out[1](attn.to_out[0](merged))


def _unlike(layer: Any) -> str:
    """What sets a layer apart from Stable Diffusion's."""
    special = ("group_norm", "spatial_norm", "norm_cross", "norm_q", "norm_k", "added_kv_proj_dim")
    found = [part for part in special if getattr(layer, part, None)]
    if layer.residual_connection or layer.rescale_output_factor != 1:
        found.append("a residual")
    return ", ".join(found)


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
