"""New words that a training gives a meaning: their names, the vectors that they start from, and a model that has them.

The vectors are a parameter of their own, behind the table of each text encoder, so no other row can move: neither the
table's, nor those of words that a model has learned before.
"""

from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from wordbrush.errors import OptionsError, PromptError, short
from wordbrush.model import Model
from wordbrush.model.sharing import shared, with_vectors
from wordbrush.training.task import learned_in


def require_new(model: Model, token: str) -> None:
    """Raise `OptionsError` for a word that is several, or that a prompt may already have."""
    if not any(map(str.isprintable, token)) or any(map(str.isspace, token)):
        raise OptionsError(
            f"option 'token': expected one word without spaces, such as '<my-cat>', got {short(token)}"
        )
    if token.casefold() in {known.casefold() for known in model.text.placeholders}:
        raise OptionsError(
            f"option 'token': expected a word that the model does not have, got {short(token)}, which it has learned: "
            "choose another one"
        )
    if token[0] + token[-1] != "<>" and len(_ids(model, 0, token)) == 1:
        raise OptionsError(
            f"option 'token': expected a word that the model does not have, got {short(token)}, which would mean "
            f"something else in every prompt: choose '<{token:.40}>'"
        )


def starts(model: Model, words: str, vectors: int | None = None) -> tuple[Float[Tensor, "n _"], ...]:
    """For each text encoder, where a word of so many vectors starts (default: as many as the tokens of `words`): at the
    tokens of these words in turn, or at means of neighbours if there are more of those. Raises `PromptError`."""
    tokens = len(_ids(model, 0, words))
    if not tokens:
        raise PromptError(f"option 'init': expected words that the model can read, got {short(words)}")
    count = tokens if vectors is None else vectors
    return tuple(_start(model, i, words, count) for i in range(len(model.text.encoders)))


def with_words(
    model: Model, words: Mapping[str, tuple[Float[Tensor, "n _"], ...]]
) -> tuple[dict[str, Any], dict[str, nn.Parameter]]:
    """The model's networks, with a UNet of their own and with vectors for these words, and the parameter of each text
    encoder: the vectors of all words in turn."""
    networks = dict(model.networks)
    networks["unet"] = shared(networks["unet"])
    parts = [part for part in networks if part != "unet"]
    for i, (part, tokenizer) in enumerate(zip(parts, model.text.tokenizers, strict=True)):
        vectors = torch.cat([own[i] for own in words.values()])
        networks[part] = with_vectors(networks[part], vectors, tokenizer.eos_token_id).eval()
    return networks, {part: networks[part].get_input_embeddings().vectors for part in parts}


def _start(model: Model, encoder: int, words: str, count: int) -> Float[Tensor, "n d"]:
    table = model.text.encoders[encoder].get_input_embeddings().weight.detach()
    rows = table[_ids(model, encoder, words)].to(learned_in(table))
    if len(rows) > count:
        return torch.stack([part.mean(0) for part in torch.tensor_split(rows, count)])
    return rows[torch.arange(count) % len(rows)]


def _ids(model: Model, encoder: int, words: str) -> list[int]:
    tokenizer = model.text.tokenizers[encoder]
    return tokenizer(words, add_special_tokens=False, verbose=False)["input_ids"]
