"""Build the pocket model's tokenizer: CLIP's byte-pair format with a vocabulary of about a thousand.

    python recipes/pocket/data/tokenizer.py

Every word of the world is one token, except `TWO_TOKENS`: methods that follow words must also handle words of
several tokens. `RARE` are single tokens that no caption contains, free for use in personalisation. Any other text is
split into smaller parts, down to bytes, so nothing is unknown.
"""

from __future__ import annotations

import argparse
import json
import re
from collections import Counter
from pathlib import Path

from transformers import CLIPTokenizer

from wordbrush.pocket import vocabulary

CONTEXT = 32
START, END = "<|startoftext|>", "<|endoftext|>"
WORD_END = "</w>"

TWO_TOKENS = {
    "sunglasses": ("sun", "glasses"),
    "butterfly": ("butter", "fly"),
    "backpack": ("back", "pack"),
    "watercolor": ("water", "color"),
    "watercolour": ("water", "colour"),
    "cupcake": ("cup", "cake"),
    "teapot": ("tea", "pot"),
    "sunflower": ("sun", "flower"),
}
RARE = (
    "sks zwx olis ohwx xqv vbn qyz jkl wuz plyx gafk dobz nuqe kevu tazi ryx "
    "ugo fip hux bliq cewo snyk yoj mivo"
).split()
# Common words that users may type and no caption contains: one token each, so that prompts fit into the context.
COMMON = (
    "a an and as at beside behind big by for from front has her his in is it its large little near new no "
    "not of off old on one or our out over picture image drawing painting photo small tall that the their "
    "this three to two under very wearing with without your my"
).split()


def world_words() -> list[str]:
    """Every word that a caption can contain, split as CLIP does ("child's" is "child" and "'s")."""
    phrases = [
        *vocabulary.NAMES,
        *vocabulary.COLOURS,
        *vocabulary.SIZES,
        *vocabulary.PLACES.values(),
        *vocabulary.LIGHTS.values(),
        *vocabulary.STYLES.values(),
        *vocabulary.RELATIONS.values(),
        *vocabulary.SPELLINGS,
    ]
    return sorted({word for phrase in phrases for word in re.findall(r"'s|[a-z]+", phrase)})


def byte_symbols() -> list[str]:
    """The 256 printable characters by which byte-level BPE represents bytes (Radford et al. 2019), in byte order."""
    ranges = ("!", "~"), ("¡", "¬"), ("®", "ÿ")
    printable = {code for first, last in ranges for code in range(ord(first), ord(last) + 1)}
    spare = iter(range(256, 512))
    return [chr(b) if b in printable else chr(next(spare)) for b in range(256)]


def learn_merges(words: list[str], two_tokens: dict[str, tuple[str, str]]) -> list[tuple[str, str]]:
    """Byte-pair merges, most frequent pair first, until every word is one token and every split word is two.

    The merges are learned on all words together, not built by chaining the letters of each word, so that the merges
    of one word do not break another. The pair at the boundary of a split word is not merged.
    """
    pieces = [(*word[:-1], word[-1] + WORD_END) for word in words]
    for left, right in two_tokens.values():
        pieces += [tuple(left), (*right[:-1], right[-1] + WORD_END)]
    pieces = [list(piece) for piece in pieces]
    seams = [(len(words) + 2 * i, len(words) + 2 * i + 1) for i in range(len(two_tokens))]

    merges: list[tuple[str, str]] = []
    while pairs := Counter(pair for piece in pieces for pair in zip(piece, piece[1:], strict=False)):
        for left, right in seams:
            pairs.pop((pieces[left][-1], pieces[right][0]), None)
        # Ties are resolved alphabetically, so that the same words always give the same tokenizer.
        best = min(pairs, key=lambda pair: (-pairs[pair], pair))
        merges.append(best)
        for piece in pieces:
            at = 0
            while at < len(piece) - 1:
                if (piece[at], piece[at + 1]) == best:
                    piece[at : at + 2] = ["".join(best)]
                at += 1
    return merges


def build(words: list[str]) -> CLIPTokenizer:
    """A `CLIPTokenizer` in which each of `words` is one token (two for those in `TWO_TOKENS`).

    Raises `ValueError` if the learned merges split a word differently.
    """
    split = {word: parts for word, parts in TWO_TOKENS.items() if word in words}
    whole = sorted({*words, *COMMON, *RARE} - split.keys())
    merges = learn_merges(whole, split)
    symbols = byte_symbols()
    tokens = [*symbols, *(s + WORD_END for s in symbols), *(a + b for a, b in merges), START, END]
    vocab = {token: i for i, token in enumerate(dict.fromkeys(tokens))}
    tokenizer = CLIPTokenizer(vocab=vocab, merges=merges, model_max_length=CONTEXT)
    for word in [*whole, *split]:
        expected = [*split[word][:1], split[word][1] + WORD_END] if word in split else [word + WORD_END]
        if (got := tokenizer.tokenize(word)) != expected:
            raise ValueError(f"{word!r} should tokenise as {expected}, got {got}; choose another split")
    return tokenizer


def save(tokenizer: CLIPTokenizer, folder: Path) -> None:
    """Write the folder: the fast format, and CLIP's two original files for programs that read only those."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save_pretrained(folder)
    state = json.loads(tokenizer.backend_tokenizer.to_str())["model"]
    (folder / "vocab.json").write_text(json.dumps(state["vocab"], ensure_ascii=False), encoding="utf-8")
    lines = ["#version: 0.2", *(" ".join(pair) for pair in state["merges"])]
    (folder / "merges.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description="Build the pocket model's tokenizer.")
    parser.add_argument("--out", type=Path, default=Path("runs/pocket/tokenizer"))
    out = parser.parse_args().out
    tokenizer = build(world_words())
    save(tokenizer, out)
    print(f"{out}: {len(tokenizer)} tokens")


if __name__ == "__main__":
    main()
