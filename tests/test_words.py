"""Reading prompts and aligning them, above all where token-wise alignment goes wrong."""

import re
from collections.abc import Callable
from copy import deepcopy
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import CLIPTokenizer

from wordbrush.errors import PromptError
from wordbrush.words import Alignment, Chunk, Words, align, read

LENGTH = 32
Read = Callable[[str], Words]


@pytest.fixture(scope="session")
def words(tokenizer: CLIPTokenizer) -> Read:
    return lambda prompt: read(tokenizer, prompt, LENGTH)


def end(words: Words) -> int:
    """The end token of a prompt in one chunk."""
    (chunk,) = words.chunks
    return chunk.stop


def spans(read_words: Words) -> dict[str, tuple[int, int]]:
    return {word.text: (word.start, word.stop) for word in read_words.words}


# Reading ----------------------------------------------------------------------------------------------------


def test_words_know_their_tokens(words: Read) -> None:
    found = words("a teapot near a cat")
    assert [(w.text, w.start, w.stop) for w in found.words] == [
        ("a", 1, 2),
        ("teapot", 2, 4),  # tea + pot
        ("near", 4, 5),
        ("a", 5, 6),
        ("cat", 6, 7),
    ]
    assert found.chunks == (Chunk(0, 1, 7, LENGTH),) and found.length == LENGTH


@pytest.mark.parametrize(
    "prompt", ["a cat.", "A CAT", "a  cat", " a\tcat ", "a cat, a dog", "(a cat)", '"a cat"!']
)
def test_punctuation_case_and_spaces_do_not_hide_a_word(prompt: str, words: Read) -> None:
    (cat,) = words(prompt).find("cat")
    plain = words("a cat").find("cat")[0]
    assert cat.key == "cat"
    assert cat.stop - cat.start == plain.stop - plain.start


def test_double_spaces_do_not_move_later_words(words: Read) -> None:
    assert spans(words("a  cat   on  a beach")) == spans(words("a cat on a beach"))


def test_a_punctuation_mark_is_a_word_of_its_own(words: Read) -> None:
    found = words("a cat, a dog.")
    assert [w.text for w in found.words] == ["a", "cat", ",", "a", "dog", "."]
    assert [w.is_punctuation for w in found.words] == [False, False, True, False, False, True]


@pytest.mark.parametrize(
    "word", ["teddy-bear", "cat's", "don't", "café", "e\u0301te\u0301", "बिल्ली", "قِطٌّ", "חָתוּל", "3"]
)
def test_a_word_covers_all_of_its_tokens(word: str, words: Read, tokenizer: CLIPTokenizer) -> None:
    count = len(tokenizer(word, add_special_tokens=False).input_ids)
    found = words(f"a {word} on a beach")
    ((text, (start, stop)),) = [item for item in spans(found).items() if item[0] not in ("a", "on", "beach")]
    assert (text, start, stop) == (word, 2, 2 + count)
    assert found.find(word)[0].start == 2
    assert found.find("beach")[0].start == 2 + count + 2


@pytest.mark.parametrize(
    ("prompt", "phrase"),
    [
        ("一只猫在沙滩上", "猫"),
        ("一只猫在沙滩上", "沙滩"),
        ("ビーチの猫", "ビーチ"),
        ("แมวบนหาด", "แมว"),
        ("해변의 고양이", "고양이"),
        ("an 👩‍🚀 in red", "👩‍🚀"),
    ],
)
def test_a_phrase_in_any_script_has_its_tokens(
    prompt: str, phrase: str, words: Read, tokenizer: CLIPTokenizer
) -> None:
    found = words(prompt).find(phrase)
    tokens = tokenizer(prompt).input_ids[found[0].start : found[-1].stop]
    assert tokenizer.decode(tokens).replace(" ", "") == phrase


def test_one_character_is_swapped_where_words_have_no_spaces(words: Read) -> None:
    alignment = align(words("一只猫在沙滩上"), words("一只狗在沙滩上"))
    assert [str(match) for match in alignment.changed()] == ["猫 → 狗"]


def test_apostrophes_and_hyphens_of_any_shape_are_the_same(words: Read) -> None:
    assert not align(words("the cat’s well‑known “hat”"), words('the cat\'s well-known "hat"')).changed()


def test_another_tools_way_to_name_a_file_points_to_ours(words: Read) -> None:
    for prompt, typed in {
        "a <lora:cats:0.8> cat": "cats.safetensors=0.8",
        "<lyco:my cats> a cat": "my cats.safetensors",
        "a cat <lora:cats:-1>": "cats.safetensors=-1",
    }.items():
        with pytest.raises(PromptError, match=re.escape(f"apply its file (--concept {typed})")):
            words(prompt)


@pytest.mark.parametrize(
    "prompt",
    [
        "a (red:1.2) cat",
        "a (red cat: 0.8) on a beach",
        "a <hypernet:cats:0.8> cat",
        "a <my-cat>++ on a beach",
        "a cat BREAK a beach",
        "a cat AND a dog",
        "a ((red)) cat",
        "a [[red]] cat",
        "a [cat:dog:0.5]",
        "a {red|blue} cat",
        "a red++ cat",
    ],
)
def test_another_tools_syntax_is_not_read_as_words(prompt: str, words: Read) -> None:
    with pytest.raises(
        PromptError, match=r"another tool's syntax.*: write the words alone.*reweight red=1\.2"
    ):
        words(prompt)


@pytest.mark.parametrize(
    "prompt", ["a (red) cat", "a [red] cat", "at 10:30 (today)", "A CAT AND A DOG", "C++ book", "a cat -- on"]
)
def test_what_only_looks_like_it_is(prompt: str, words: Read) -> None:
    assert words(prompt).words


def test_an_accent_may_be_a_character_of_its_own(words: Read) -> None:
    composed, decomposed = words("un été à la mer"), words("un e\u0301te\u0301 a\u0300 la mer")
    assert [w.key for w in composed.words] == [w.key for w in decomposed.words]
    assert [(w.start, w.stop) for w in composed.words] == [(w.start, w.stop) for w in decomposed.words]
    assert composed.has("e\u0301te\u0301") and decomposed.has("été")
    assert not align(composed, decomposed).changed()


@pytest.mark.parametrize(
    ("token", "prompt", "is_there"),
    [
        ("猫咪", "一只猫咪在海滩", True),  # no spaces between words
        ("мойкот", "一只мойкот在海滩", True),
        ("мойкот", "моймойкот", False),  # inside of another word
        ("café", "cafés", False),
        ("cafe\u0301", "cafe\u0301s", False),
        ("<猫>", "x<猫>y", True),
    ],
)
def test_a_learned_word_is_whole_in_every_script(
    token: str, prompt: str, is_there: bool, tokenizer: CLIPTokenizer
) -> None:
    found = read(tokenizer, prompt, 32, placeholders={token: range(1000, 1002)})
    assert [word.text for word in found.words if word.is_learned] == [token] * is_there
    assert (1000 in found.ids) == is_there


def test_a_learned_token_is_one_word(tokenizer: CLIPTokenizer) -> None:
    own = deepcopy(tokenizer)
    own.add_tokens("<my-cat>")
    found = read(own, "a <my-cat> on a beach", LENGTH)
    assert [w.text for w in found.words] == ["a", "<my-cat>", "on", "a", "beach"]
    (cat,) = found.find("<my-cat>")
    assert (cat.start, cat.stop) == (2, 3)
    assert not cat.is_punctuation


def test_the_empty_prompt_has_no_words(words: Read) -> None:
    found = words("")
    assert found.words == () and found.chunks == (Chunk(0, 1, 1, LENGTH),)


def test_a_prompt_that_does_not_fit_says_what_would_be_lost(words: Read) -> None:
    fits = " ".join(["cat"] * (LENGTH - 2))
    assert len(words(fits).words) == LENGTH - 2
    with pytest.raises(PromptError, match=r"at most 30 tokens, got 33.*from 'dog teapot' on"):
        words(fits + " dog teapot")
    for begun in range(1, 5):  # wherever in a word of several tokens the room ends, the word is named whole
        with pytest.raises(PromptError, match="from 'unbelievableness' on"):
            words(" ".join(["cat"] * (LENGTH - 2 - begun)) + " unbelievableness")


# In chunks --------------------------------------------------------------------------------------------------

CONTEXT, CHUNKS = 12, 5  # room for any of the prompts below: "lasagne" takes 5 of the 10 tokens of a chunk
VOCABULARY = ["a", "cat", "dog", "teapot", "lasagne", "on", "beach", "night", "Red", ",", "."]
LAWS = settings(max_examples=60, deadline=None)
long_prompts = st.lists(st.sampled_from(VOCABULARY), min_size=1, max_size=8).map(" ".join)


@pytest.fixture(scope="session")
def long(tokenizer: CLIPTokenizer) -> Read:
    return lambda prompt: read(tokenizer, prompt, CONTEXT, CHUNKS)


def test_a_word_that_does_not_fit_any_more_begins_the_next_chunk(long: Read) -> None:
    found = long("a lasagne near a lasagne and a lasagne")
    assert [(w.text, w.start, w.stop) for w in found.words] == [
        *[("a", 1, 2), ("lasagne", 2, 7), ("near", 7, 8), ("a", 8, 9)],
        *[("lasagne", 13, 18), ("and", 18, 19), ("a", 19, 20)],
        ("lasagne", 25, 30),
    ]
    assert found.chunks == (
        *(Chunk(0, 1, 9, 12), Chunk(12, 13, 20, 24), Chunk(24, 25, 30, 36)),
        *(Chunk(36, 37, 37, 48), Chunk(48, 49, 49, 60)),
    )
    assert found.find("lasagne and")[0].start == 13 and found.length == 60
    assert found.indicator(["near a lasagne"]).nonzero().flatten().tolist() == [7, 8, *range(13, 18)]


@LAWS
@given(prompt=long_prompts)
def test_laws_of_chunks(prompt: str, long: Read, tokenizer: CLIPTokenizer) -> None:
    found = long(prompt)
    opening, *content, closing = tokenizer(prompt).input_ids
    for word in found.words:
        (chunk,) = (chunk for chunk in found.chunks if chunk.start <= word.start and word.stop <= chunk.stop)
        own = tokenizer(word.text, add_special_tokens=False).input_ids
        assert list(found.ids[word.start : word.stop]) == own
    assert [i for chunk in found.chunks for i in found.ids[chunk.start : chunk.stop]] == content
    for chunk in found.chunks:
        assert (chunk.first % CONTEXT, chunk.last - chunk.first) == (0, CONTEXT)
        assert found.ids[chunk.first : chunk.start] == (opening,) and found.ids[chunk.stop] == closing
        assert set(found.ids[chunk.stop + 1 : chunk.last]) <= {tokenizer.pad_token_id}
    for before, after in pairwise(chunk for chunk in found.chunks if chunk.start < chunk.stop):
        first = next(word for word in found.words if word.start == after.start)
        assert before.stop + (first.stop - first.start) > before.last - 1, "it would have fitted"


@pytest.mark.parametrize(
    ("prompt", "chunks", "said"),
    [
        (
            "cat " * 10 + "lasagne dog",
            1,
            r"at most 10 tokens, got 16.*read it in 2 chunks.*from 'lasagne dog' on",
        ),
        (
            "cat " * 20 + "a dog",
            2,
            r"at most 2 chunks of 10 tokens, got 22.*read it in 3 chunks.*from 'a dog' on",
        ),
        ("cat " * 160 + "dog", 16, r"at most 16 chunks of 10 tokens, got 161: shorten it; from 'dog' on"),
        (
            "a " + "lasagne" * 5 + " dog",
            5,
            r"words of at most 10 tokens, got 'lasagnela.*' of \d\d: shorten it",
        ),
    ],
)
def test_what_fits_no_chunk_is_named(prompt: str, chunks: int, said: str, tokenizer: CLIPTokenizer) -> None:
    with pytest.raises(PromptError, match=said):
        read(tokenizer, prompt, CONTEXT, chunks)


def test_a_word_without_end_is_refused_before_it_is_split(words: Read) -> None:
    """The tokenizer takes the square of a word's length: minutes for 100,000 letters."""
    with pytest.raises(PromptError, match="words of at most 1000 letters, got 'aaaa.* of 1000000"):
        words("a cat " + "a" * 1_000_000)


@pytest.mark.parametrize(
    "piece", ["AND ", "(a: ", "[a: ", "((", "[[", "{a ", "<lora:a ", "aa", "a+ ", "1: ", "[: : "]
)
def test_prompts_of_any_length_are_searched(piece: str, words: Read) -> None:
    """In less than a second each; a pattern that took the square of the length would take hours."""
    with pytest.raises(PromptError):
        words(piece * 20_000)


# Finding ----------------------------------------------------------------------------------------------------


def test_every_occurrence_and_phrases_are_found(words: Read) -> None:
    found = words("a red cat and a red dog")
    assert [w.start for w in found.find("red")] == [2, 6]
    assert [w.text for w in found.find("Red DOG")] == ["red", "dog"]
    assert found.indicator(["red dog", "and"]).nonzero().flatten().tolist() == [4, 6, 7]
    assert found.indicator([]).sum() == 0
    assert found.has("red cat") and not found.has("cat red") and not found.has("ca")


def test_a_mark_at_the_end_of_a_phrase_is_only_needed_where_it_is_there(words: Read) -> None:
    assert [w.text for w in words("a cat, a dog").find("cat,")] == ["cat", ","]
    assert [w.text for w in words("a cat and a dog").find("a cat,")] == ["a", "cat"]


@pytest.mark.parametrize(
    ("phrase", "said"),
    [
        ("kat", "'a cat on a beach' has no 'kat'; did you mean 'cat'"),
        ("cat on the", "has no 'cat on the'"),
        ("zzzz", "there is a, cat, on, beach"),
        ("", "expected a word"),
        ("  ", "expected a word"),
    ],
)
def test_a_word_not_found_names_the_nearest(phrase: str, said: str, words: Read) -> None:
    with pytest.raises(PromptError, match=said):
        words("a cat on a beach").find(phrase)
    assert not words("a cat on a beach").has(phrase)


# Aligning ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def aligned(words: Read) -> Callable[[str, str], Alignment]:
    return lambda source, target: align(words(source), words(target))


Aligned = Callable[[str, str], Alignment]


def moved(alignment: Alignment, word: str) -> torch.Tensor:
    """The rows of P of a source word."""
    (found,) = alignment.source.find(word)
    return alignment.replace_matrix[found.start : found.stop]


@pytest.mark.parametrize(
    ("source", "target", "told", "one_to_one"),
    [
        ("a cat on a beach", "a dog on a beach", "a [cat → dog] on a beach", True),
        ("a cat", "A cat.", "a cat [+ .]", True),
        ("a cat on a beach", "a teapot on a moon", "a [cat → teapot] on a [beach → moon]", True),
        ("a cat on a beach", "a cat on a beach at night", "a cat on a beach [+ at] [+ night]", False),
        ("a cat with a red hat", "a cat", "a cat [− with] [− a] [− red] [− hat]", False),
        ("a cat on a beach", "a big red dog on a beach", "a [cat → big red dog] on a beach", False),
        ("a red cat", "a blue dog", "a [red → blue] [cat → dog]", True),
        ("a cat and a dog", "a dog and a cat", "a [cat → dog] and a [dog → cat]", True),
        ("photo of a cat", "cat", "[− photo] [− of] [− a] cat", False),
        ("cat", "dog", "[cat → dog]", True),
    ],
)
def test_alignments_read_like_a_reader_would(
    source: str, target: str, told: str, one_to_one: bool, aligned: Aligned
) -> None:
    alignment = aligned(source, target)
    assert alignment.describe() == told
    assert alignment.is_one_to_one is one_to_one
    assert all(match.kind != "same" for match in alignment.changed())


def test_an_emoji_is_a_word_and_a_comma_is_not(aligned: Aligned) -> None:
    words = aligned("a 🐱, on a beach", "a 🐶, on a beach").source.words
    assert [word.text for word in words if word.is_punctuation] == [","]


def test_words_after_a_swap_of_unequal_token_counts_keep_their_own_maps(aligned: Aligned) -> None:
    """The released code hands every later word its neighbour's map here."""
    alignment = aligned("a cat eating food near a tree", "a lasagne eating food near a tree")
    shift = end(alignment.target) - end(alignment.source)
    assert shift == 4  # lasagne takes 5 tokens
    matrix = alignment.replace_matrix
    assert torch.equal(matrix[2, 2:7], torch.full((5,), 1 / 5))  # the cat's map is spread evenly
    for word in ("eating", "food", "near", "tree"):
        (before,), (after,) = alignment.source.find(word), alignment.target.find(word)
        assert after.start == before.start + shift
        expected = torch.zeros(before.stop - before.start, LENGTH)
        expected[:, after.start : after.stop] = torch.eye(before.stop - before.start)
        assert torch.equal(moved(alignment, word), expected)
    assert matrix[end(alignment.source), end(alignment.target)] == 1  # the end token's too
    assert torch.equal(matrix.sum(1), torch.ones(LENGTH))


def test_a_shorter_counterpart_gathers_all_the_tokens(aligned: Aligned) -> None:
    alignment = aligned("a lasagne near a tree", "a cat near a tree")
    assert torch.equal(moved(alignment, "lasagne")[:, 2], torch.ones(5))
    assert moved(alignment, "lasagne").sum() == 5
    # The padding that the target has more of takes no one's map.
    assert torch.equal(alignment.replace_matrix.sum(0)[-4:], torch.zeros(4))


def test_a_phrase_swapped_for_a_phrase_is_spread_over_it(aligned: Aligned) -> None:
    alignment = aligned("a cat on a beach", "a big red dog on a beach")
    assert torch.equal(moved(alignment, "cat")[0, 2:5], torch.full((3,), 1 / 3))
    assert torch.equal(alignment.replace_matrix.sum(1), torch.ones(LENGTH))


def test_replace_wants_a_counterpart_for_every_word(aligned: Aligned) -> None:
    with pytest.raises(
        PromptError, match=r"5 words.*7.*\[\+ at\], \[\+ night\] stands alone; use a refine edit"
    ):
        _ = aligned("a cat on a beach", "a cat on a beach at night").replace_matrix
    with pytest.raises(PromptError, match=r"\[− red\]"):
        _ = aligned("a red cat", "a cat").replace_matrix


def test_replace_is_not_put_off_by_punctuation(aligned: Aligned) -> None:
    """A dropped comma's attention goes to the word before it, a new one's column stays empty."""
    dropped = aligned("a cat, on a beach", "a dog on a beach").replace_matrix
    assert dropped[3].nonzero().flatten().tolist() == [2]
    added = aligned("a cat on a beach", "a dog on a beach.").replace_matrix
    assert added[:, 6].sum() == 0
    assert torch.equal(dropped.sum(1), torch.ones(LENGTH)) and torch.equal(added.sum(1), torch.ones(LENGTH))


@pytest.mark.parametrize(
    ("before", "after"),
    [("a cat with a red hat", "a cat"), ("a cat", "a cat with a red hat"), ("a cat", "a dog")],
)
def test_padding_keeps_its_place_and_stays_padding(before: str, after: str, aligned: Aligned) -> None:
    """The released code maps the target's padding onto the words that the source still has there."""
    alignment = aligned(before, after)
    gather, matched = alignment.refine_matrices
    ended, own_end = end(alignment.source), end(alignment.target)
    assert gather[:, own_end].nonzero().flatten().tolist() == [ended]
    for t in range(own_end + 1, LENGTH):
        assert gather[:, t].nonzero().flatten().tolist() == [t if t > ended else ended + 1]
    assert matched[own_end:].all()


def test_without_padding_in_the_source_the_target_keeps_its_own(aligned: Aligned) -> None:
    full = " ".join(["cat"] * (LENGTH - 2))
    alignment = aligned(full, "cat")
    assert end(alignment.source) == LENGTH - 1
    assert alignment.refine_matrices[1].tolist() == [1, 1, 1, *[0] * (LENGTH - 3)]


def test_refine_leaves_new_and_swapped_words_their_own_maps(aligned: Aligned) -> None:
    alignment = aligned("a cat on a beach", "a teapot on a beach at night")
    gather, matched = alignment.refine_matrices
    for word in ("teapot", "at", "night"):
        (found,) = alignment.target.find(word)
        assert matched[found.start : found.stop].sum() == 0
        assert gather[:, found.start : found.stop].sum() == 0
    for word in ("on", "beach"):
        (before,), (after,) = alignment.source.find(word), alignment.target.find(word)
        assert matched[after.start : after.stop].all()
        assert gather[before.start, after.start] == 1


prompts = st.lists(st.sampled_from(VOCABULARY), min_size=1, max_size=6).map(" ".join)


@LAWS
@given(prompt=prompts)
def test_a_prompt_aligned_with_itself_is_the_identity(prompt: str, aligned: Aligned) -> None:
    alignment = aligned(prompt, prompt.swapcase())
    assert alignment.is_one_to_one and not alignment.changed()
    gather, matched = alignment.refine_matrices
    assert torch.equal(alignment.replace_matrix, torch.eye(LENGTH))
    assert torch.equal(gather, torch.eye(LENGTH)) and torch.equal(matched, torch.ones(LENGTH))


@LAWS
@given(source=prompts, target=prompts)
def test_laws_of_alignment(source: str, target: str, aligned: Aligned) -> None:
    alignment, back = aligned(source, target), aligned(target, source)
    # Nothing is lost and nothing is made up.
    for words, side in ((alignment.source, "source"), (alignment.target, "target")):
        taken = [word for match in alignment.matches for word in getattr(match, side)]
        assert sorted(taken, key=lambda w: w.start) == list(words.words)
    # What is the same is the same from either side, and keeps its order.
    same = [(m.source[0].start, m.target[0].start) for m in alignment.matches if m.kind == "same"]
    assert same == sorted(same) and len({i for i, _ in same}) == len({j for _, j in same}) == len(same)
    assert len(same) == sum(m.kind == "same" for m in back.matches)
    # Refine: a matched column gathers exactly one source token's map, an unmatched one nothing.
    gather, matched = alignment.refine_matrices
    assert torch.equal(gather.sum(0), matched)
    assert set(matched.tolist()) <= {0.0, 1.0} and set(gather.flatten().tolist()) <= {0.0, 1.0}
    # Replace: an edited map's row keeps its sum; it is refused exactly when a word stands alone.
    try:
        matrix = alignment.replace_matrix
    except PromptError:
        assert not alignment.is_one_to_one
    else:
        torch.testing.assert_close(matrix.sum(1), torch.ones(LENGTH))
        assert (matrix >= 0).all()


# Aligning prompts in chunks ---------------------------------------------------------------------------------


@LAWS
@given(source=prompts, target=prompts)
def test_what_fits_one_chunk_is_edited_there(source: str, target: str, tokenizer: CLIPTokenizer) -> None:
    """The matrices of more chunks are those of one, and beside them the identity: the other chunks are the same."""
    short, long = (
        align(read(tokenizer, source, LENGTH, chunks), read(tokenizer, target, LENGTH, chunks))
        for chunks in (1, 3)
    )
    rest = torch.eye(2 * LENGTH)
    gather, matched = short.refine_matrices
    assert torch.equal(long.refine_matrices[0], torch.block_diag(gather, rest))
    assert torch.equal(long.refine_matrices[1], torch.cat([matched, torch.ones(2 * LENGTH)]))
    if long.is_one_to_one:
        assert torch.equal(long.replace_matrix, torch.block_diag(short.replace_matrix, rest))


@LAWS
@given(prompt=long_prompts)
def test_a_long_prompt_aligned_with_itself_is_the_identity(prompt: str, long: Read) -> None:
    alignment = align(long(prompt), long(prompt))
    everywhere = torch.eye(CHUNKS * CONTEXT)
    assert torch.equal(alignment.replace_matrix, everywhere)
    assert torch.equal(alignment.refine_matrices[0], everywhere) and alignment.refine_matrices[1].all()


def special(words: Words) -> torch.Tensor:
    """1 at the positions that belong to no word."""
    return 1 - words.column(words.words)


@LAWS
@given(source=long_prompts, target=long_prompts)
def test_laws_of_alignment_in_chunks(source: str, target: str, long: Read) -> None:
    alignment = align(long(source), long(target))
    rows, columns = special(alignment.source), special(alignment.target)
    in_chunk = torch.block_diag(*[torch.ones(CONTEXT, CONTEXT)] * CHUNKS)
    gather, matched = alignment.refine_matrices
    assert torch.equal(gather.sum(0), matched)
    # What is no word takes what is no word, in its own chunk; a word takes a word, wherever it is.
    assert torch.equal(gather * columns, gather * columns * rows[:, None] * in_chunk)
    assert torch.equal(gather * (1 - columns), gather * (1 - columns) * (1 - rows)[:, None])
    for before, after in zip(alignment.source.chunks, alignment.target.chunks, strict=True):
        assert gather[before.first, after.first] == 1 and gather[before.stop, after.stop] == 1
    if alignment.is_one_to_one:
        matrix = alignment.replace_matrix
        torch.testing.assert_close(matrix.sum(1), torch.ones(CHUNKS * CONTEXT))
        assert torch.equal(matrix * rows[:, None], matrix * rows[:, None] * columns * in_chunk)


def test_a_word_that_moves_to_the_next_chunk_takes_its_map_along(long: Read) -> None:
    """A longer word pushes the last one out of the first chunk; all keep their maps."""
    before, after = (
        long("a cat on a red beach near a blue dog and"),
        long("a lasagne on a red beach near a blue dog and"),
    )
    assert [w.start for w in before.words] == [*range(1, 11), 13]
    assert [w.start for w in after.words] == [1, 2, 7, 8, 9, 10, 13, 14, 15, 16, 17]
    alignment = align(before, after)
    matrix, (gather, matched) = alignment.replace_matrix, alignment.refine_matrices
    assert torch.equal(matrix[2, 2:7], torch.full((5,), 1 / 5)) and not matched[2:7].any()
    for old, new in zip(
        (*before.words[:1], *before.words[2:]), (*after.words[:1], *after.words[2:]), strict=True
    ):
        assert matrix[old.start].nonzero().flatten().tolist() == [new.start]
        assert gather[:, new.start].nonzero().flatten().tolist() == [old.start]
    # The second chunk has four words more than the source's: its end token takes the end's map, and the padding that
    # is left the place of its own, so that the last place has the sum of the rest.
    assert (before.chunks[1].stop, after.chunks[1].stop) == (14, 18)
    assert matrix[14, 18] == 1 and matrix[19, 23] == 1 and torch.equal(matrix[20:24, 23], torch.ones(4))
    assert gather[14, 18] == 1 and gather[:, 19:24].argmax(0).tolist() == [19, 20, 21, 22, 23]
