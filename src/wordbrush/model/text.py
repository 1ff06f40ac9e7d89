"""Prompts to embeddings: one CLIP text encoder, or SDXL's two."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from wordbrush.attention import Spot
from wordbrush.errors import ModelError, OptionsError, short
from wordbrush.words import MOST_CHUNKS, Words, read


@dataclass(frozen=True, eq=False)
class TextEmbeds:
    """Encoded prompts: what the UNet attends to, and for SDXL the pooled embedding that conditions its time steps.

    spots: for each row where learned words stand in it; none where no word of any row was learned.
    """

    hidden: Float[Tensor, "rows tokens channels"]
    pooled: Float[Tensor, "rows pooled_channels"] | None = None
    spots: tuple[tuple[Spot, ...], ...] = ()

    def __len__(self) -> int:
        return self.hidden.shape[0]

    def __getitem__(self, rows: slice | list[int]) -> "TextEmbeds":
        chosen = range(len(self))[rows] if isinstance(rows, slice) else rows
        spots = tuple(self.spots[row] for row in chosen) if self.spots else ()
        return TextEmbeds(self.hidden[rows], None if self.pooled is None else self.pooled[rows], spots)

    def tensors(self, name: str) -> dict[str, Tensor]:
        """The tensors to store, by `name` and their own."""
        pooled = {} if self.pooled is None else {f"{name}.pooled": self.pooled}
        return {f"{name}.hidden": self.hidden, **pooled}

    def expand(self, rows: int) -> "TextEmbeds":
        """One prompt's embeds, for each of `rows` rows."""
        pooled = None if self.pooled is None else self.pooled.expand(rows, -1)
        return TextEmbeds(self.hidden.expand(rows, -1, -1), pooled, self.spots * rows)

    @staticmethod
    def concat(parts: Sequence["TextEmbeds"]) -> "TextEmbeds":
        """The rows of all parts, in order."""
        pooled = [part.pooled for part in parts if part.pooled is not None]
        spots: tuple[tuple[Spot, ...], ...] = ()
        if any(part.spots for part in parts):
            spots = tuple(row for part in parts for row in part.spots or ((),) * len(part))
        return TextEmbeds(
            torch.cat([part.hidden for part in parts]), torch.cat(pooled) if pooled else None, spots
        )


@dataclass(frozen=True, eq=False)
class TextEncoder:
    """The text encoders with their tokenizers.

    zero_empty_prompt: the empty prompt is encoded as zeros, as SDXL's base model was trained. chunks: how many contexts
    each prompt is encoded in (see `Model.with_chunks`). placeholders: learned words, and how many vectors each has in
    every encoder; the vectors are in the encoders' `PlaceholderEmbedding`, in this order. Raises `ModelError` for a
    text encoder without its tokenizer, `OptionsError` for a number of chunks out of range.
    """

    encoders: Sequence[Any]
    tokenizers: Sequence[Any]
    zero_empty_prompt: bool = False
    chunks: int = 1
    placeholders: Mapping[str, int] = field(default_factory=dict[str, int])

    def __post_init__(self) -> None:
        if not self.encoders or len(self.encoders) != len(self.tokenizers):
            raise ModelError(
                f"each text encoder needs its tokenizer: got {len(self.encoders)} text encoders "
                f"and {len(self.tokenizers)} tokenizers"
            )
        if type(self.chunks) is not int or not 1 <= self.chunks <= MOST_CHUNKS:
            raise OptionsError(f"expected 1 to {MOST_CHUNKS} chunks of the context, got {short(self.chunks)}")
        for tokenizer in self.tokenizers:
            tokenizer("")  # clears what its file says of padding and truncation, before any thread uses it

    @property
    def context(self) -> int:
        """Length of the text encoder's context: the tokens of one chunk."""
        return int(self.encoders[0].config.max_position_embeddings)

    @property
    def tokens(self) -> int:
        """Tokens of an encoded prompt: those of all chunks."""
        return self.chunks * self.context

    def read(self, prompt: str) -> Words:
        """The prompt's words and their token spans. Raises `PromptError` if it does not fit the chunks."""
        return self._read(0, prompt)

    def encode(self, prompts: Sequence[str]) -> TextEmbeds:
        """Encode prompts, one row each; gradients are as the caller's context has them.

        Chunks are encoded one by one and joined along the tokens; SDXL's pooled embedding is the first's. Raises
        `PromptError` for a prompt that does not fit: nothing is cut off.
        """
        hidden: list[Tensor] = []
        pooled: Tensor | None = None
        for number, encoder in enumerate(self.encoders):
            ids = torch.tensor([self._read(number, prompt).ids for prompt in prompts])
            ids = ids.view(-1, self.context).to(encoder.device)  # a chunk in each row
            if len(self.encoders) == 1:
                hidden.append(encoder(ids).last_hidden_state)
            else:
                # SDXL reads the penultimate layer of both encoders, and pools the second.
                output = encoder(ids, output_hidden_states=True)
                hidden.append(output.hidden_states[-2])
                pooled = getattr(output, "text_embeds", pooled)
        embeds = torch.cat(hidden, dim=-1)
        embeds = embeds.view(len(prompts), self.tokens, embeds.shape[-1])
        pooled = None if pooled is None else pooled[:: self.chunks]
        if self.zero_empty_prompt:
            empty = torch.tensor([prompt == "" for prompt in prompts], device=embeds.device)
            embeds = embeds.masked_fill(empty[:, None, None], 0)
            pooled = None if pooled is None else pooled.masked_fill(empty[:, None], 0)
        return TextEmbeds(embeds, pooled, self._spots(prompts) if self.placeholders else ())

    def _spots(self, prompts: Sequence[str]) -> tuple[tuple[Spot, ...], ...]:
        """For each prompt, where learned words stand in it."""
        names = {token.casefold(): token for token in self.placeholders}
        return tuple(
            tuple(
                Spot(names[word.text.casefold()], word.start, word.stop)
                for word in self.read(prompt).words
                if word.is_learned
            )
            for prompt in prompts
        )

    def _read(self, number: int, prompt: str) -> Words:
        """The prompt as the encoder of this number reads it."""
        return read(self.tokenizers[number], prompt, self.context, self.chunks, self._ids[number])

    @cached_property
    def _ids(self) -> list[dict[str, range]]:
        """For each encoder, the ids of each placeholder's vectors: they follow those of its own table."""
        found: list[dict[str, range]] = []
        for encoder in self.encoders:
            first = int(encoder.get_input_embeddings().weight.shape[0])
            own: dict[str, range] = {}
            for token, vectors in self.placeholders.items():
                own[token] = range(first, first + vectors)
                first += vectors
            found.append(own)
        return found
