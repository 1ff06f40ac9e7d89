"""CLIP's tokenizer, from the list of merges that ships with the package: single files bring no vocabulary.

The vocabulary follows from the merges (Radford et al. 2021, as released): the 256 bytes as printable characters, the
same at the end of a word, one token per merge, and the two special tokens.
"""

import gzip
from functools import cache
from pathlib import Path
from typing import Any

_MERGES = Path(__file__).with_name("clip_merges.txt.gz")
_START, _END = "<|startoftext|>", "<|endoftext|>"


def tokenizer(pad: str = _END) -> Any:
    """The tokenizer of CLIP and OpenCLIP; pad: the token that a prompt is filled up with."""
    from transformers.models.clip.tokenization_clip import CLIPTokenizer

    merges, vocabulary = _merges()
    return CLIPTokenizer(vocab=dict(vocabulary), merges=list(merges), pad_token=pad)  # pyright: ignore[reportArgumentType]


@cache
def _merges() -> tuple[list[tuple[str, str]], dict[str, int]]:
    """The merges in order, and each token's id."""
    lines = gzip.decompress(_MERGES.read_bytes()).decode("utf-8").splitlines()
    merges = [(first, second) for first, second in (line.split() for line in lines)]
    # Bytes that print stand for themselves and come first; the others follow, as characters from 256 on.
    printable = [byte for byte in range(256) if chr(byte).isprintable() and chr(byte) not in " \xa0\xad"]
    characters = [chr(code) for code in (*printable, *range(256, 512 - len(printable)))]
    tokens = [*characters, *(each + "</w>" for each in characters), *(a + b for a, b in merges), _START, _END]
    return merges, {token: number for number, token in enumerate(tokens)}
