"""CLIP's vocabulary, against what CLIP's own tokenizer is known to give."""

import pytest

from wordbrush.loading import clip
from wordbrush.words import read

START, END = 49406, 49407


@pytest.mark.parametrize(
    ("prompt", "ids"),
    [
        ("", []),
        ("a photo of a cat", [320, 1125, 539, 320, 2368]),
        (
            "A photo of an astronaut riding a horse on mars",
            [320, 1125, 539, 550, 18376, 6765, 320, 4558, 525, 7496],
        ),
        (
            "Ünïcode, naïve café 42nd's it's 日本 🙂 x",
            [
                6522,
                77,
                35689,
                3217,
                267,
                1097,
                35689,
                563,
                15304,
                275,
                273,
                1764,
                568,
                585,
                568,
                39121,
                19277,
                361,
            ]
            + [14860, 343],
        ),
        (" double  spaces!!", [3200, 9006, 748]),
    ],
)
def test_prompts_have_the_tokens_of_clip(prompt: str, ids: list[int]) -> None:
    assert clip.tokenizer()(prompt).input_ids == [START, *ids, END]


def test_the_vocabulary() -> None:
    tokenizer = clip.tokenizer()
    vocabulary = tokenizer.get_vocab()
    assert sorted(vocabulary.values()) == list(range(49408))
    assert [vocabulary[token] for token in ("!", "a", "!</w>", "in", "jekyll</w>")] == [
        0,
        64,
        256,
        512,
        49405,
    ]
    assert (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id) == (START, END, END)
    assert clip.tokenizer("!").pad_token_id == 0


def test_words_are_read_from_it() -> None:
    words = read(clip.tokenizer(), "a surrealist's cat", 77)
    assert [(word.text, word.start, word.stop) for word in words.words] == [
        ("a", 1, 2),
        ("surrealist's", 2, 5),
        ("cat", 5, 6),
    ]
