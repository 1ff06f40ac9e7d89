"""What kind of change two captions ask for."""

from pathlib import Path

import pytest

from wordbrush.changes import Change, read
from wordbrush.words import Chunk, Word, Words, align

PAIRS = [
    tuple(part.strip() for part in line.split("|"))
    for line in (Path(__file__).parent / "data" / "changes.txt").read_text().splitlines()
    if line and not line.startswith("#")
]


def words(prompt: str) -> Words:
    """A prompt whose every word is one token: the reading looks at words alone."""
    from wordbrush import words as module

    found = [match.group() for match in module._WORD.finditer(prompt)]
    spans = tuple(Word(text, 1 + i, 2 + i) for i, text in enumerate(found))
    return Words(prompt, spans, (Chunk(0, 1, 1 + len(found), 77),), tuple(range(77)))


def change(source: str, target: str) -> Change:
    return read(align(words(source), words(target)))


@pytest.mark.parametrize(("source", "target", "kind"), PAIRS)
def test_the_kind_is_read_from_the_words(source: str, target: str, kind: str) -> None:
    found = change(source, target)
    assert found.kind == kind, found.reason


def test_there_are_a_hundred_pairs_and_all_kinds() -> None:
    assert len(PAIRS) >= 100
    assert len({kind for _, _, kind in PAIRS}) == 11


def test_a_change_of_the_whole_picture_names_what_goes_and_what_comes() -> None:
    (part,) = change("a cat in the dark forest", "a cat in the snow").parts
    assert [[word.text for word in side] for side in (part.old, part.new)] == [["dark", "forest"], ["snow"]]
    (night,) = change("a cat on a beach", "a cat on a beach at night").parts
    assert not night.old and [word.text for word in night.new] == ["night"]
