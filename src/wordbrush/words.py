"""Split prompts into words and tokens, align two prompts, and build the matrices of an attention edit.

A *word* is letters and digits, with inner hyphens and apostrophes, compared without regard to case and to the shape of
its apostrophes; each punctuation mark and each emoji is a word of its own. In scripts without spaces between words each
character is one, and a phrase is several in a row. A *token* is a position in the text encoder's input; a word's *span*
is its tokens.

Words are aligned first, and tokens follow from words. So the alignment is right for words with different numbers of
tokens, punctuation, repeated spaces, capitals and deleted words. (The released Prompt-to-Prompt code aligns tokens: it
shifts every word after a swap of unequal token counts, finds no "cat" in "a cat.", and maps the padding after a
deleted word onto that word.)
"""

import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import regex
import torch
from jaxtyping import Float
from torch import Tensor

from wordbrush.errors import PromptError, nearest

# Marks (\p{M}: accents, vowel signs, points) and joiners belong to the letters before them. \X is what looks like one
# character, such as an emoji with its skin tone.
_UNSPACED = r"[\p{Han}\p{Hiragana}\p{Katakana}\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}\p{Tibetan}]"
_MARKS = r"\p{M}\u200c\u200d"
_LETTERS = rf"(?:(?!{_UNSPACED})[\w{_MARKS}])+"
_WORD = regex.compile(rf"{_UNSPACED}[{_MARKS}]*|{_LETTERS}(?:['’‘\-‐‑]{_LETTERS})*|(?!\s)\X", regex.VERSION1)
_SAME_MARK = str.maketrans({"’": "'", "‘": "'", "ʼ": "'", "‐": "-", "‑": "-", "“": '"', "”": '"'})

# Syntax of other tools, which would be read as words.
_FOREIGN = regex.compile(
    r"""
      \([^()]*:\s*[-+]?[\d.]+\s*\)            # (red:1.2)
    | \[[^\[\]]*:[^\[\]]*:\s*[\d.]+\s*\]      # [cat:dog:0.5]
    | \({2,} [^()]+ \){2,} | \[{2,} [^\[\]]+ \]{2,} | \{[^{}]*\}  # ((red)), [[red]], {red|blue}
    | <(?:lora|lyco|hypernet|embedding)\b[^<>]*>
    | (?<=\p{Ll}.*)\b(?:BREAK|AND)\b | \b(?:BREAK|AND)\b(?=.*\p{Ll})
    | \w{2,}(?:\+\+|--)(?!\S)               # red++
    """,
    regex.VERBOSE | regex.DOTALL,
)

_FUNCTION_WORDS = frozenset(
    "a an the and or of in on at by to from for with without into onto as is are its "
    "above behind below beneath beside between near next over under left right".split()
)

MatchKind = Literal["same", "swapped", "inserted", "deleted"]


@dataclass(frozen=True, slots=True)
class Word:
    """One word of a prompt, and its tokens [start, stop)."""

    text: str
    start: int
    stop: int

    @property
    def key(self) -> str:
        """The text by which words are compared: composed Unicode, case folded."""
        return _fold(self.text)

    @property
    def is_punctuation(self) -> bool:
        """True for a mark such as a comma: adding or removing it does not change what a prompt names.

        False for an emoji, which names something.
        """
        return not any(c.isalnum() or unicodedata.category(c) == "So" for c in self.text)

    @property
    def names_something(self) -> bool:
        """False for punctuation, articles, prepositions and sides: nothing in a picture shows them."""
        return not self.is_punctuation and self.key not in _FUNCTION_WORDS


@dataclass(frozen=True)
class Words:
    """A prompt as read by a tokenizer: its words, and `length` token positions.

    Positions before `start` are the start token, [start, stop) are the words' tokens, and from `stop` on are the end
    token and the padding.
    """

    prompt: str
    words: tuple[Word, ...]
    start: int
    stop: int
    length: int

    def find(self, phrase: str) -> tuple[Word, ...]:
        """Every word of each occurrence of `phrase` (one word or several in a row).

        Raises `PromptError`, with the nearest word or the list of words, if the phrase does not occur: otherwise
        the word would silently not be edited.
        """
        keys = _keys(phrase)
        if not keys:
            raise PromptError(f"expected a word in the prompt {self.prompt!r}, got {phrase!r}")
        found = self._occurrences(keys) or self._occurrences(_trimmed(keys))
        if not found:
            hint = nearest(_fold(phrase), [word.key for word in self.words])
            raise PromptError(f"the prompt '{self.prompt}' has no '{phrase}'{hint}")
        return tuple(found)

    def _occurrences(self, keys: list[str]) -> list[Word]:
        keys_of_words = [_keys(word.text) for word in self.words]  # several for a learned "<my-cat>"
        found: list[Word] = []
        for i in range(len(keys_of_words)):
            run: list[str] = []
            stop = i
            while stop < len(keys_of_words) and len(run) < len(keys):
                run += keys_of_words[stop]
                stop += 1
            if run == keys:
                found += self.words[i:stop]
        return found

    def has(self, phrase: str) -> bool:
        """Whether `find` would find `phrase`."""
        try:
            return bool(self.find(phrase))
        except PromptError:
            return False

    def indicator(self, phrases: Iterable[str]) -> Float[Tensor, " length"]:
        """1 at every token of the given phrases, 0 elsewhere; raises like `find`."""
        return self.column(word for phrase in phrases for word in self.find(phrase))

    def column(self, words: Iterable[Word]) -> Float[Tensor, " length"]:
        """1 at every token of these words, 0 elsewhere."""
        column = torch.zeros(self.length)
        for word in words:
            column[word.start : word.stop] = 1
        return column


def _keys(phrase: str) -> list[str]:
    return [_fold(match) for match in _WORD.findall(phrase)]


def _trimmed(keys: list[str]) -> list[str]:
    """The keys without a final punctuation mark, as in "cat,"."""
    return keys[:-1] if keys[-1:] and not keys[-1][0].isalnum() else keys


def _fold(text: str) -> str:
    return unicodedata.normalize("NFC", text).casefold().translate(_SAME_MARK)


def read(tokenizer: Any, prompt: str, length: int) -> Words:
    """Read `prompt` with a fast transformers tokenizer; `length` is the text encoder's context, in tokens.

    Raises `PromptError` if the prompt does not fit into `length` tokens (the message says which words do not), has a
    word for which the tokenizer has no tokens, or is written in another tool's syntax for weights and the like.
    """
    if foreign := _FOREIGN.search(prompt):
        raise PromptError(
            f"expected plain words, got {foreign.group()!r:.60}, another tool's syntax, which would be read as words: "
            "write the words alone, and weight them with the option reweight, as in reweight red=1.2"
        )
    encoded = tokenizer(prompt, return_offsets_mapping=True, return_special_tokens_mask=True)
    offsets: list[tuple[int, int]] = encoded["offset_mapping"]
    special: list[int] = encoded["special_tokens_mask"]
    content = [i for i, is_special in enumerate(special) if not is_special]
    start = content[0] if content else 1
    stop = start + len(content)
    if len(offsets) > length:
        limit = length - (len(offsets) - len(content))
        end = len(prompt[: offsets[content[limit]][0]].rpartition(" ")[0])
        raise PromptError(
            f"expected a prompt of at most {limit} tokens, got {len(content)}: shorten it; "
            f"from {prompt[end:].strip()!r} on, nothing would be seen"
        )
    spans: list[tuple[int, int, int, int]] = []  # characters [a, b), tokens [i, j)
    for match in _WORD.finditer(prompt):
        a, b = match.span()
        tokens = [i for i in content if offsets[i][0] < b and offsets[i][1] > a]
        if not tokens:
            raise PromptError(f"the model's tokenizer cannot read {match.group()!r} in the prompt {prompt!r}")
        i, j = tokens[0], tokens[-1] + 1
        if spans and i < spans[-1][3]:
            # One token covers several of these words, as for a learned "<my-cat>": they are one word.
            a, i = spans[-1][0], spans[-1][2]
            spans.pop()
        spans.append((a, b, i, j))
    words = tuple(Word(prompt[a:b], i, j) for a, b, i, j in spans)
    return Words(prompt, words, start, stop, length)


@dataclass(frozen=True, slots=True)
class Match:
    """Words of the source, and the words of the target that take their place."""

    kind: MatchKind
    source: tuple[Word, ...]
    target: tuple[Word, ...]

    def __str__(self) -> str:
        before = " ".join(word.text for word in self.source)
        after = " ".join(word.text for word in self.target)
        match self.kind:
            case "same":
                return before
            case "swapped":
                return f"{before} → {after}"
            case "inserted":
                return f"+ {after}"
            case "deleted":
                return f"− {before}"


@dataclass(frozen=True)
class Alignment:
    """How a target prompt's words correspond to the source's, and the token matrices of this alignment."""

    source: Words
    target: Words
    matches: tuple[Match, ...]

    @property
    def is_one_to_one(self) -> bool:
        """Whether every word that changed was swapped for exactly one other (punctuation aside)."""
        return all(
            match.kind == "same"
            or (match.kind == "swapped" and len(match.source) == len(match.target) == 1)
            or all(word.is_punctuation for word in match.source + match.target)
            for match in self.matches
        )

    def changed(self) -> tuple[Match, ...]:
        """The matches that are not `same`."""
        return tuple(match for match in self.matches if match.kind != "same")

    def describe(self) -> str:
        """The alignment as one readable line: `a [cat → dog] on a beach [+ at night]`."""
        return " ".join(str(match) if match.kind == "same" else f"[{match}]" for match in self.matches)

    @cached_property
    def replace_matrix(self) -> Float[Tensor, "length length"]:
        """P of Prompt-to-Prompt's word swap: M_edit = M_src P, source tokens in rows, target tokens in columns.

        A swapped word's whole map goes to its counterpart; if their token counts differ, it is spread evenly over the
        counterpart's tokens. Every row of P sums to 1, so every row of an edited map does too.

        Raises `PromptError` if a word has no counterpart; use `refine` then.
        """
        unmatched = [
            m for m in self.matches if m.kind in ("inserted", "deleted") and not _only_punctuation(m)
        ]
        if unmatched:
            raise PromptError(
                "expected a counterpart for every word of both prompts in a replace edit: "
                f"{self.source.prompt!r} has {_count(self.source)} words, {self.target.prompt!r} has "
                f"{_count(self.target)}, and {', '.join(f'[{m}]' for m in unmatched)} stands alone; "
                "use a refine edit"
            )
        matrix = torch.zeros(self.source.length, self.target.length)
        last = 0  # the last target token written: a deleted comma's attention goes to the word before it
        for match in self.matches:
            match match.kind:
                case "same" | "swapped":
                    _spread(matrix, match)
                    last = match.target[-1].stop - 1
                case "deleted":
                    matrix[match.source[0].start : match.source[-1].stop, last] = 1
                case "inserted":
                    pass  # a new comma takes no map of the source: its column stays 0
        # The start token, the end token and the padding: by order, so that no row of the source is lost.
        for i in range(self.source.start):
            matrix[i, i] = 1
        shared = min(self.source.length - self.source.stop, self.target.length - self.target.stop)
        for k in range(shared):
            matrix[self.source.stop + k, self.target.stop + k] = 1
        surplus = self.target.stop - self.source.stop
        if surplus > 0:
            matrix[self.source.length - surplus :, -1] = 1
        return matrix

    @cached_property
    def refine_matrices(self) -> tuple[Float[Tensor, "length length"], Float[Tensor, " length"]]:
        """G and the match mask a of Prompt-to-Prompt's refinement.

        Where a[j] = 1, column j of G gathers the source's map for target token j; where a[j] = 0 (inserted and swapped
        words, padding where the source has none), the target keeps its own map.

        Padding corresponds by position, as in the released code, but a target's padding never takes a source word's
        map (after a removal the released code's does): those tokens take the first padding's. Padding by order was
        measured as well and is 0.1 dB farther from the truth (`docs/benchmarks/defaults.md`).
        """
        gather = torch.zeros(self.source.length, self.target.length)
        for match in self.matches:
            if match.kind == "same":
                _spread(gather, match)
        for i in range(self.source.start):
            gather[i, i] = 1
        gather[self.source.stop, self.target.stop] = 1
        padding = self.source.stop + 1  # the source's first; a prompt that fills the context has none
        for j in range(self.target.stop + 1, self.target.length if padding < self.source.length else 0):
            gather[max(j, padding), j] = 1
        return gather, (gather.sum(0) > 0).to(gather.dtype)


def align(source: Words, target: Words) -> Alignment:
    """Align two prompts word by word: the longest common subsequence is kept, and changed words are paired between.

    Between two kept words, equal numbers of source and target words are swapped one for one; unequal numbers are
    swapped as phrases; words with no counterpart are inserted or deleted.
    """
    assert source.length == target.length, "both prompts must be read by the same tokenizer"
    matches: list[Match] = []
    i = j = 0
    pairs = _common_subsequence([w.key for w in source.words], [w.key for w in target.words])
    for next_i, next_j in [*pairs, (len(source.words), len(target.words))]:
        matches += _pair_changed(source.words[i:next_i], target.words[j:next_j])
        if next_i < len(source.words):
            matches.append(Match("same", (source.words[next_i],), (target.words[next_j],)))
        i, j = next_i + 1, next_j + 1
    return Alignment(source, target, tuple(matches))


def _pair_changed(before: Sequence[Word], after: Sequence[Word]) -> list[Match]:
    """Match the words between two kept words: swapped, inserted or deleted; punctuation is never swapped."""
    marks = [Match("deleted", (w,), ()) for w in before if w.is_punctuation]
    marks += [Match("inserted", (), (w,)) for w in after if w.is_punctuation]
    before = [w for w in before if not w.is_punctuation]
    after = [w for w in after if not w.is_punctuation]
    if len(before) == len(after):
        return [Match("swapped", (b,), (a,)) for b, a in zip(before, after, strict=True)] + marks
    if not before:
        return [Match("inserted", (), (word,)) for word in after] + marks
    if not after:
        return [Match("deleted", (word,), ()) for word in before] + marks
    return [Match("swapped", tuple(before), tuple(after)), *marks]


def _common_subsequence(a: Sequence[str], b: Sequence[str]) -> list[tuple[int, int]]:
    """Index pairs of a longest common subsequence, leftmost among equals (Needleman & Wunsch 1970: match 1, gap 0)."""
    best = [[0] * (len(b) + 1) for _ in range(len(a) + 1)]
    for i in reversed(range(len(a))):
        for j in reversed(range(len(b))):
            if a[i] == b[j]:
                best[i][j] = best[i + 1][j + 1] + 1
            else:
                best[i][j] = max(best[i + 1][j], best[i][j + 1])
    pairs: list[tuple[int, int]] = []
    i = j = 0
    while i < len(a) and j < len(b):
        if a[i] == b[j] and best[i][j] == best[i + 1][j + 1] + 1:
            pairs.append((i, j))
            i, j = i + 1, j + 1
        elif best[i + 1][j] >= best[i][j + 1]:
            i += 1
        else:
            j += 1
    return pairs


def _spread(matrix: Tensor, match: Match) -> None:
    """Map the match's source tokens to its target tokens, one to one or evenly."""
    rows, columns = _tokens(match.source), _tokens(match.target)
    equal = len(rows) == len(columns)
    matrix[rows[:, None], columns] = torch.eye(len(rows)) if equal else torch.tensor(1 / len(columns))


def _tokens(words: Sequence[Word]) -> Tensor:
    """The words' tokens, without those of a comma between two words."""
    return torch.tensor([token for word in words for token in range(word.start, word.stop)])


def _only_punctuation(match: Match) -> bool:
    return all(word.is_punctuation for word in match.source + match.target)


def _count(words: Words) -> int:
    return sum(not word.is_punctuation for word in words.words)
