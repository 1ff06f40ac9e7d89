"""Split prompts into words and tokens, align two prompts, and build the matrices of an attention edit.

A *word* is letters and digits, with inner hyphens and apostrophes, compared without regard to case and to the shape of
its apostrophes; each punctuation mark and each emoji is a word of its own. In scripts without spaces between words each
character is one, and a phrase is several in a row. A *token* is a position in the text encoder's input; a word's *span*
is its tokens. A *chunk* is one filling of the text encoder's context; a long prompt takes several in a row.

Words are aligned first, and tokens follow from words. So the alignment is right for words with different numbers of
tokens, punctuation, repeated spaces, capitals and deleted words. (The released Prompt-to-Prompt code aligns tokens: it
shifts every word after a swap of unequal token counts, finds no "cat" in "a cat.", and maps the padding after a
deleted word onto that word.)
"""

import unicodedata
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Any, Literal

import regex
import torch
from jaxtyping import Float
from torch import Tensor

from wordbrush.errors import PromptError, UnlearnedError, nearest, short

# Marks (\p{M}: accents, vowel signs, points) and joiners belong to the letters before them. \X is what looks like one
# character, such as an emoji with its skin tone.
_UNSPACED = r"[\p{Han}\p{Hiragana}\p{Katakana}\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}\p{Tibetan}]"
_MARKS = r"\p{M}\u200c\u200d"
_LETTER = rf"(?:(?!{_UNSPACED})[\w{_MARKS}])"
_LETTERS = rf"{_LETTER}+"
_WORD = regex.compile(rf"{_UNSPACED}[{_MARKS}]*|{_LETTERS}(?:['’‘\-‐‑]{_LETTERS})*|(?!\s)\X", regex.VERSION1)
_SAME_MARK = str.maketrans({"’": "'", "‘": "'", "ʼ": "'", "‐": "-", "‑": "-", "“": '"', "”": '"'})

_LONGEST = 1000  # letters of a word: the tokenizer takes their square, and none of that length fits a context

# Syntax of other tools, which would be read as words. Lengths are bounded, so that no prompt takes long.
_FOREIGN = regex.compile(
    r"""
      \([^()]{0,200}:\s?[-+]?[\d.]{1,9}\s?\)               # (red:1.2)
    | \[[^\[\]]{0,99}:[^\[\]]{0,99}:\s?[\d.]{1,9}\s?\]     # [cat:dog:0.5]
    | \(\([^()]{1,200}\)\) | \[\[[^\[\]]{1,200}\]\] | \{[^{}]{0,200}\}  # ((red)), [[red]], {red|blue}
    | <(?:(?P<file>lora|lyco|embedding)|hypernet):(?P<name>[^<>:]{0,100})(?P<strength>:[^<>]{0,100})?>
    | (?<!\w)(?:\w{2,40}|<[^<>\s]{1,100}>)(?:\+\+|--)(?!\S)  # red++
    """,
    regex.VERBOSE,
)
_COMMAND = regex.compile(r"\b(?:BREAK|AND)\b")  # unless the whole prompt is in capitals

_FUNCTION_WORDS = frozenset(
    "a an the and or of in on at by to from for with without into onto as is are its "
    "above behind below beneath beside between near next over under left right".split()
)

# What a word that was learned is called by most tools. It would be read as three words that mean nothing.
_LIKE_LEARNED = regex.compile(r"<[^<>\s]{1,100}>")

NONE: Mapping[str, Sequence[int]] = {}

MOST_CHUNKS = 16
"""Chunks that a prompt may take: an edit's matrices grow with the square of its tokens."""

MatchKind = Literal["same", "swapped", "inserted", "deleted"]


@dataclass(frozen=True, slots=True)
class Word:
    """One word of a prompt, and its tokens [start, stop). is_learned: whether a concept has taught it."""

    text: str
    start: int
    stop: int
    is_learned: bool = False

    @property
    def key(self) -> str:
        """The text by which words are compared: composed Unicode, case folded."""
        return _fold(self.text)

    @property
    def is_punctuation(self) -> bool:
        """True for a mark such as a comma: adding or removing it does not change what a prompt names.

        False for an emoji, which names something.
        """
        return not self.is_learned and not any(
            c.isalnum() or unicodedata.category(c) == "So" for c in self.text
        )

    @property
    def names_something(self) -> bool:
        """False for punctuation, articles, prepositions and sides: nothing in a picture shows them."""
        return self.is_learned or not (self.is_punctuation or self.key in _FUNCTION_WORDS)


@dataclass(frozen=True, slots=True)
class Chunk:
    """One chunk of a prompt: the token positions [first, last), of which [start, stop) are words.

    Before `start` is the start token, and from `stop` on are the end token and the padding.
    """

    first: int
    start: int
    stop: int
    last: int


@dataclass(frozen=True)
class Words:
    """A prompt as read by a tokenizer: its words, its chunks, and the token's id at each position of all of them."""

    prompt: str
    words: tuple[Word, ...]
    chunks: tuple[Chunk, ...]
    ids: tuple[int, ...]

    @property
    def length(self) -> int:
        """Number of token positions."""
        return len(self.ids)

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


def read(
    tokenizer: Any,
    prompt: str,
    context: int,
    chunks: int = 1,
    placeholders: Mapping[str, Sequence[int]] = NONE,
) -> Words:
    """Read `prompt` with a fast transformers tokenizer into this many chunks of the text encoder's context, in tokens.

    No word is in two chunks: one that does not fit any more begins the next. What is left is padding, and chunks that
    are left are those of an empty prompt.

    placeholders: words that were learned, with the ids of their vectors: each is one word of as many tokens, whatever
    the tokenizer would make of it.

    Raises `PromptError` if the prompt does not fit into the chunks (the message says which words do not), has a word
    for which the tokenizer has no tokens, or is written in another tool's syntax for weights and the like, and
    `UnlearnedError` for a word in angle brackets that is none of the placeholders.
    """
    longest = max(prompt.split(), key=len, default="")
    if len(longest) > _LONGEST:
        raise PromptError(
            f"expected words of at most {_LONGEST} letters, got {short(longest)} of {len(longest)}"
        )
    foreign = _FOREIGN.search(prompt) or (prompt.upper() != prompt and _COMMAND.search(prompt))
    if foreign:
        raise PromptError(
            f"expected plain words, got {foreign.group()!r:.60}, another tool's syntax, which would be read as words: "
            + _instead(foreign)
        )
    learned = _learned(prompt, placeholders)
    _require_learned(tokenizer, prompt, learned)
    ids, offsets, start, stop = _tokens_of(tokenizer, prompt, learned)
    spans: list[tuple[int, int, int, int]] = []  # characters [a, b), tokens [i, j)
    for a, b in _words_of(prompt, learned):
        i = bisect_right(offsets, a, start, stop, key=lambda offset: offset[1])
        j = bisect_left(offsets, b, start, stop, key=lambda offset: offset[0])
        if i >= j:
            raise PromptError(f"the model's tokenizer cannot read {prompt[a:b]!r} in the prompt {prompt!r}")
        if spans and i < spans[-1][3]:
            # One token covers several of these words, as for a learned "<my-cat>": they are one word.
            a, i = spans[-1][0], spans[-1][2]
            spans.pop()
        spans.append((a, b, i, j))
    room = context - (len(ids) - (stop - start))
    begins = _begins(prompt, [(0, start), *((a, i) for a, _, i, _ in spans[1:])], stop, room, chunks)
    filled: list[Chunk] = []
    placed: list[int] = []
    for own in (*(ids[i:j] for i, j in pairwise([*begins, stop])), *[[]] * (chunks - len(begins))):
        first = len(placed)
        filled.append(Chunk(first, first + start, first + start + len(own), first + context))
        # Padded here: a fast tokenizer that is asked to pad keeps that as its state, for every other thread as well.
        placed += [*ids[:start], *own, *ids[stop:], *[tokenizer.pad_token_id] * (room - len(own))]
    words: list[Word] = []
    for a, b, i, j in spans:
        chunk = bisect_right(begins, i) - 1
        moved = filled[chunk].start - begins[chunk]
        words.append(Word(prompt[a:b], i + moved, j + moved, (a, b) in learned))
    return Words(prompt, tuple(words), tuple(filled), tuple(placed))


def _instead(foreign: regex.Match[str]) -> str:
    """What to do instead of another tool's syntax."""
    if not foreign.groupdict().get("file"):
        return "write the words alone, and weight them with the option reweight, as in reweight red=1.2"
    strength = (foreign["strength"] or "").replace(":", "=", 1)
    return f"leave it out, and apply its file (--concept {foreign['name']}.safetensors{strength})"


_Learned = Mapping[tuple[int, int], Sequence[int]]
"""The learned words of a prompt: their characters [a, b), in order, and the ids of their vectors."""


def _learned(prompt: str, placeholders: Mapping[str, Sequence[int]]) -> _Learned:
    found: dict[tuple[int, int], Sequence[int]] = {}
    if placeholders:
        # The longest first: "<my-cat>-2" may be one as well as "<my-cat>".
        # An accent may be typed as a character of its own.
        forms = {unicodedata.normalize(form, name) for name in placeholders for form in ("NFC", "NFD")}
        names = sorted(forms, key=len, reverse=True)
        pattern = "|".join(map(_whole, names))
        ids = {_fold(name): own for name, own in placeholders.items()}
        for match in regex.finditer(pattern, prompt, regex.IGNORECASE):
            found[match.span()] = ids[_fold(match.group())]
    return found


def _require_learned(tokenizer: Any, prompt: str, learned: _Learned) -> None:
    """Raise `UnlearnedError` for what looks like a learned word and is none, here or in the tokenizer itself."""
    for match in _LIKE_LEARNED.finditer(_blanked(prompt, learned)):
        if match.group() not in tokenizer.get_added_vocab():
            token = match.group()
            raise UnlearnedError(
                f"expected words that the model knows, got {short(token)}, which a concept teaches: apply its file "
                f"(--concept {token[1:-1]:.40}.concept), or leave out the angle brackets",
                token,
            )


def _whole(name: str) -> str:
    """The pattern of a learned word, which is none inside of another word: a letter at its end has no other beside it.
    In scripts without spaces every character is a word."""
    before, after = (regex.match(_LETTER, end) is not None for end in (name[0], name[-1]))
    return f"{f'(?<!{_LETTER})' * before}{regex.escape(name)}{f'(?!{_LETTER})' * after}"


def _words_of(prompt: str, learned: _Learned) -> list[tuple[int, int]]:
    """The characters [a, b) of each word."""
    plain = (match.span() for match in _WORD.finditer(_blanked(prompt, learned)))
    return sorted([*plain, *learned])


def _tokens_of(
    tokenizer: Any, prompt: str, learned: _Learned
) -> tuple[list[int], list[tuple[int, int]], int, int]:
    """Ids and characters of the prompt's tokens, special ones included; the positions [start, stop) of the others."""
    encoded = tokenizer(
        _blanked(prompt, learned),
        return_offsets_mapping=True,
        return_special_tokens_mask=True,
        verbose=False,
    )
    ids: list[int] = encoded["input_ids"]
    offsets: list[tuple[int, int]] = encoded["offset_mapping"]
    special: list[int] = encoded["special_tokens_mask"]
    content = [i for i, is_special in enumerate(special) if not is_special]
    start = content[0] if content else 1
    stop = start + len(content)
    for (a, b), own in learned.items():
        at = bisect_left(offsets, a, start, stop, key=lambda offset: offset[0])
        ids[at:at], offsets[at:at] = own, [(a, b)] * len(own)
        stop += len(own)
    return ids, offsets, start, stop


def _blanked(prompt: str, learned: _Learned) -> str:
    """The prompt with spaces in place of its learned words: everything else stays where it was."""
    for a, b in learned:
        prompt = prompt[:a] + " " * (b - a) + prompt[b:]
    return prompt


def _begins(prompt: str, words: Sequence[tuple[int, int]], stop: int, room: int, chunks: int) -> list[int]:
    """The first token of each chunk that has words, `room` tokens at most; raises for words that do not fit.

    words: the first character and the first token of each.
    """
    begins = [words[0][1]]
    for (a, i), (b, j) in pairwise([*words, (len(prompt), stop)]):
        if j - begins[-1] > room:
            begins.append(i)
            if j - i > room:
                word = short(prompt[a:b].strip())
                raise PromptError(
                    f"expected words of at most {room} tokens, got {word} of {j - i}: shorten it"
                )
    if len(begins) > chunks:
        lost = next(a for a, i in words if i == begins[chunks])
        limit = f"{room} tokens" if chunks == 1 else f"{chunks} chunks of {room} tokens"
        longer = f", or read it in {len(begins)} chunks (--long-prompt, model.with_chunks)"
        raise PromptError(
            f"expected a prompt of at most {limit}, got {stop - begins[0]}: shorten it"
            f"{longer if len(begins) <= MOST_CHUNKS else ''}; from {prompt[lost:].strip()!r} on, nothing would be seen"
        )
    return begins


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
        for before, after in self._chunks:
            for i in range(before.first, before.start):
                matrix[i, i] = 1
            shared = before.last - max(before.stop, after.stop)
            for k in range(shared):
                matrix[before.stop + k, after.stop + k] = 1
            matrix[before.stop + shared : before.last, after.last - 1] = 1
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
        for before, after in self._chunks:
            for i in range(before.first, before.start):
                gather[i, i] = 1
            gather[before.stop, after.stop] = 1
            padding = before.stop + 1  # the source's first; a chunk that is full has none
            for j in range(after.stop + 1, after.last if padding < before.last else 0):
                gather[max(j, padding), j] = 1
        return gather, (gather.sum(0) > 0).to(gather.dtype)

    @property
    def _chunks(self) -> Iterable[tuple[Chunk, Chunk]]:
        """Each chunk of the source with the target's at the same place: what is no word corresponds within it."""
        return zip(self.source.chunks, self.target.chunks, strict=True)


def align(source: Words, target: Words) -> Alignment:
    """Align two prompts word by word: the longest common subsequence is kept, and changed words are paired between.

    Between two kept words, equal numbers of source and target words are swapped one for one; unequal numbers are
    swapped as phrases; words with no counterpart are inserted or deleted.
    """
    assert source.length == target.length, (
        "both prompts must be read by the same tokenizer, in as many chunks"
    )
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
