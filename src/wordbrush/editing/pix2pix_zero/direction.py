"""Edit directions: what leads a text from one meaning to another, as a value (Parmar et al. 2023, section 3.2).

The direction is the mean of the embeddings of many sentences about the target, less that of many about the source.
One sentence's embedding has much that is about its other words; in a mean of many that is nearly alike on both sides
and cancels. Embeddings are of tokens, and the mean is position by position, as in the released code.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass

from jaxtyping import Float
from safetensors import SafetensorError
from safetensors.torch import load
from torch import Tensor

from wordbrush import reading, tensorfiles
from wordbrush.errors import OptionsError
from wordbrush.files import atomic_write
from wordbrush.model import Model, TextEmbeds

_FORMAT = "wordbrush.direction.1"
_AT_ONCE = 64  # sentences


@dataclass(frozen=True, eq=False)
class Direction:
    """What is added to a text's embeddings.

    hidden, pooled: as in `TextEmbeds`. base_hash: of the model whose text encoders it belongs to.

    >>> model = Model.load("pocket")
    >>> cats, dogs = (["a photo of a cat", "a cat on a beach"], ["a photo of a dog", "a dog on a beach"])
    >>> Direction.of(model, cats, dogs).save("cat-to-dog.direction")
    >>> Direction.load("cat-to-dog.direction", model).hidden.shape
    torch.Size([1, 32, 256])
    """

    hidden: Float[Tensor, "1 tokens channels"]
    pooled: Float[Tensor, "1 pooled_channels"] | None
    base_hash: str

    @classmethod
    def of(cls, model: Model, source: Sequence[str], target: Sequence[str]) -> "Direction":
        """From sentences about the source to sentences about the target; the numbers of both may differ.

        Raises `PromptError` for a sentence that the model cannot read, `OptionsError` for none.
        """
        if not source or not target:
            raise OptionsError(
                f"expected sentences about the source and about the target, got {len(source)} and {len(target)}"
            )
        before, after = _mean(model, source), _mean(model, target)
        pooled = None
        if before.pooled is not None and after.pooled is not None:
            pooled = after.pooled - before.pooled
        return cls(after.hidden - before.hidden, pooled, model.base_hash)

    def applied(self, text: TextEmbeds, scale: float = 1.0) -> TextEmbeds:
        """Texts led along the direction; learned words stand where they stood."""
        pooled = text.pooled
        if pooled is not None and self.pooled is not None:
            pooled = pooled + scale * self.pooled.to(pooled)
        return TextEmbeds(text.hidden + scale * self.hidden.to(text.hidden), pooled, text.spots)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write it to one file. Raises `OutputError`."""
        tensors = TextEmbeds(self.hidden, self.pooled).tensors("direction")
        with atomic_write(path) as file:
            file.write(tensorfiles.content(tensors, {"format": _FORMAT, "base_hash": self.base_hash}))

    @classmethod
    def load(cls, path: str | os.PathLike[str], model: Model) -> "Direction":
        """Read a saved direction. Raises `OptionsError` for a file that is none, or is another model's."""
        content = reading.content(path, OptionsError)
        try:
            tensors, header = load(content), _header(content, path)
        except SafetensorError as error:
            raise _no_direction(path) from error
        base_hash = header.get("base_hash", "")
        if header.get("format") != _FORMAT or "direction.hidden" not in tensors:
            raise _no_direction(path)
        if base_hash != model.base_hash:
            raise OptionsError(
                f"expected a direction of {model.name} (base {model.base_hash[:12]}…), got {path} of another model "
                f"(base {base_hash[:12]}…): make it again with this one"
            )
        found = cls(tensors["direction.hidden"], tensors.get("direction.pooled"), base_hash)
        if found.hidden.shape[1] != model.tokens:
            raise OptionsError(
                f"expected a direction over {model.tokens} tokens, got {path} over {found.hidden.shape[1]}: make it "
                "again for prompts of this length"
            )
        return found


def read_sentences(given: Sequence[str]) -> list[str]:
    """Sentences as given, and those in .txt files, one a line. Raises `OptionsError` for a file without any."""
    found: list[str] = []
    for each in given:
        if not each.endswith(".txt"):
            found.append(each)
            continue
        lines = [line.strip() for line in reading.text(each, OptionsError).splitlines()]
        if not any(lines):
            raise OptionsError(f"{each}: expected sentences, one a line, got none")
        found += filter(None, lines)
    return found


def _mean(model: Model, sentences: Sequence[str]) -> TextEmbeds:
    """The mean embedding, summed in double precision."""
    hidden: Tensor | None = None
    pooled: Tensor | None = None
    for i in range(0, len(sentences), _AT_ONCE):
        part = model.encode_text(sentences[i : i + _AT_ONCE])
        own = part.hidden.cpu().double().sum(0, keepdim=True)
        hidden = own if hidden is None else hidden + own
        if part.pooled is not None:
            own = part.pooled.cpu().double().sum(0, keepdim=True)
            pooled = own if pooled is None else pooled + own
    assert hidden is not None, "there are sentences"
    return TextEmbeds(hidden / len(sentences), None if pooled is None else pooled / len(sentences))


def _header(content: bytes, path: str | os.PathLike[str]) -> dict[str, str]:
    """The metadata of a safetensors file, of which the library gives none for bytes."""
    size = int.from_bytes(content[:8], "little")
    header = reading.json_text(content[8 : 8 + size].decode(), str(path), OptionsError)
    return header.get("__metadata__", {})


def _no_direction(path: str | os.PathLike[str]) -> OptionsError:
    return OptionsError(f"{path}: expected a direction, as Direction.save writes it, got another file")
