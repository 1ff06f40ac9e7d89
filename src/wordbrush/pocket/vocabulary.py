"""All words of the built-in world. They must not change: the shipped weights were trained on exactly these.

A *thing* has a name, a size and optionally a colour. A scene has one to three things in a *place*, with a *light*
and a *style*. These words are defined only here.
"""

from __future__ import annotations

import difflib
import hashlib
from collections.abc import Iterable

from wordbrush.errors import InputError

# Name -> code point in Noto Color Emoji. Whole bodies if they are recognisable at sixty pixels, otherwise faces.
NAMES: dict[str, int] = {
    "cat": 0x1F408,
    "dog": 0x1F415,
    "fox": 0x1F98A,
    "bear": 0x1F43B,
    "panda": 0x1F43C,
    "lion": 0x1F981,
    "tiger": 0x1F42F,
    "rabbit": 0x1F407,
    "horse": 0x1F40E,
    "cow": 0x1F404,
    "pig": 0x1F416,
    "sheep": 0x1F411,
    "frog": 0x1F438,
    "monkey": 0x1F412,
    "elephant": 0x1F418,
    "squirrel": 0x1F43F,
    "penguin": 0x1F427,
    "duck": 0x1F986,
    "owl": 0x1F989,
    "chicken": 0x1F413,
    "turtle": 0x1F422,
    "fish": 0x1F41F,
    "butterfly": 0x1F98B,
    "dinosaur": 0x1F995,
    "car": 0x1F697,
    "bus": 0x1F68C,
    "bicycle": 0x1F6B2,
    "motorcycle": 0x1F3CD,
    "train": 0x1F682,
    "boat": 0x26F5,
    "airplane": 0x2708,
    "rocket": 0x1F680,
    "house": 0x1F3E0,
    "castle": 0x1F3F0,
    "tree": 0x1F333,
    "cactus": 0x1F335,
    "sunflower": 0x1F33B,
    "apple": 0x1F34E,
    "banana": 0x1F34C,
    "strawberry": 0x1F353,
    "pumpkin": 0x1F383,
    "cake": 0x1F382,
    "cupcake": 0x1F9C1,
    "pizza": 0x1F355,
    "burger": 0x1F354,
    "guitar": 0x1F3B8,
    "backpack": 0x1F392,
    "teapot": 0x1FAD6,
    "vase": 0x1F3FA,
    "sunglasses": 0x1F576,
    "umbrella": 0x2602,
    "hat": 0x1F3A9,
    "crown": 0x1F451,
    "ball": 0x26BD,
    "balloon": 0x1F388,
    "gift": 0x1F381,
    "chair": 0x1FA91,
    "couch": 0x1F6CB,
    "clock": 0x1F570,
    "teddy bear": 0x1F9F8,
    "robot": 0x1F916,
    "snowman": 0x26C4,
    "ghost": 0x1F47B,
}

# Used without an article.
PLURALS = frozenset({"sunglasses"})

# The words people try first; training shows them three times as often as the others.
COMMON = frozenset(
    {"cat", "dog", "fox", "bear", "tiger", "lion", "rabbit", "horse", "car", "bicycle", "house", "castle"}
    | {"cake", "apple", "robot", "teapot", "backpack"}
)

# Things for personalisation: drawn, but never in training. Name -> (code point, class word in captions).
HELD_OUT: dict[str, tuple[int, str]] = {
    "poodle": (0x1F429, "dog"),
    "koala": (0x1F428, "bear"),
    "unicorn": (0x1F984, "horse"),
    "goat": (0x1F410, "sheep"),
    "parrot": (0x1F99C, "owl"),
    "snail": (0x1F40C, "turtle"),
    "goldfish": (0x1F420, "fish"),
    "ladybird": (0x1F41E, "butterfly"),
    "tyrannosaur": (0x1F996, "dinosaur"),
    "tractor": (0x1F69C, "car"),
    "scooter": (0x1F6F5, "motorcycle"),
    "helicopter": (0x1F681, "airplane"),
    "palm": (0x1F334, "tree"),
    "tulip": (0x1F337, "sunflower"),
    "violin": (0x1F3BB, "guitar"),
    "sun hat": (0x1F452, "hat"),
    "basketball": (0x1F3C0, "ball"),
    "alarm clock": (0x23F0, "clock"),
}

# Adjective -> the middle tone of its tint.
COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (222, 40, 40),
    "orange": (246, 136, 22),
    "yellow": (250, 214, 30),
    "green": (52, 168, 62),
    "blue": (40, 104, 228),
    "purple": (136, 58, 190),
    "pink": (247, 116, 180),
    "white": (238, 240, 244),
}

# Patterns for personalisation: no caption names them (a striped cat is still called a cat).
HELD_OUT_LOOKS = ("striped", "dotted", "checked", "rainbow")

# Longest side in pixels of a 128-pixel picture. Captions do not mention medium.
SIZES: dict[str, int] = {"small": 48, "medium": 62, "large": 84}

# Plain backgrounds are places too: "blue background" and so on.
BACKGROUNDS: dict[str, tuple[int, int, int]] = {
    "red": (226, 92, 84),
    "orange": (250, 178, 104),
    "yellow": (250, 232, 134),
    "green": (140, 204, 128),
    "blue": (112, 168, 236),
    "purple": (172, 132, 214),
    "pink": (250, 190, 212),
    "white": (248, 248, 248),
    "grey": (160, 162, 166),
    "black": (38, 38, 44),
}

PLACES: dict[str, str] = {
    "beach": "on a beach",
    "snow": "in the snow",
    "forest": "in a forest",
    "desert": "in the desert",
    "meadow": "in a meadow",
    "mountains": "in the mountains",
    "city": "in a city",
    "street": "on a street",
    "room": "in a room",
    "ocean": "in the ocean",
    "underwater": "underwater",
    "moon": "on the moon",
} | {
    f"{colour} background": f"on {'an' if colour[0] in 'aeiou' else 'a'} {colour} background"
    for colour in BACKGROUNDS
}

LIGHTS: dict[str, str] = {
    "day": "",
    "night": "at night",
    "sunset": "at sunset",
    "fog": "in the fog",
    "rain": "in the rain",
}

STYLES: dict[str, str] = {
    "photo": "a photo of",
    "watercolour": "a watercolor painting of",
    "sketch": "a pencil sketch of",
    "pixel art": "pixel art of",
    "drawing": "a child's drawing of",
    "mosaic": "a mosaic of",
}

# How the first thing relates to the second. No relation is "and".
RELATIONS: dict[str, str] = {
    "beside": "next to",
    "left": "to the left of",
    "right": "to the right of",
    "on": "on",
    "under": "under",
}

# Other spellings and synonyms -> the word that captions use.
SPELLINGS: dict[str, str] = {
    "watercolour": "watercolor",
    "gray": "grey",
    "bike": "bicycle",
    "plane": "airplane",
    "hamburger": "burger",
    "sofa": "couch",
    "bunny": "rabbit",
    "photograph": "photo",
    "picture": "photo",
}


def in_captions() -> set[str]:
    """Every word that captions use."""
    phrases = (
        *NAMES,
        *COLOURS,
        *SIZES,
        *PLACES.values(),
        *LIGHTS.values(),
        *STYLES.values(),
        *RELATIONS.values(),
    )
    return {"a", "an", "the", "and"} | {word for phrase in phrases for word in phrase.split()}


def instead() -> dict[str, str]:
    """Words that captions do not use, with the word to use for each."""
    return {**SPELLINGS, **{name: kind for name, (_, kind) in HELD_OUT.items()}}


def check(kind: str, word: str, known: Iterable[str]) -> str:
    """Return `word` if it is one of `known`; otherwise raise `InputError` with the nearest known word."""
    words = list(known)
    if word in words:
        return word
    raise InputError(
        f"unknown {kind} {word!r}: did you mean {nearest(word, words)!r}? The world knows {', '.join(words)}."
    )


def nearest(word: str, known: Iterable[str]) -> str:
    """The known word with the most similar spelling."""
    return difflib.get_close_matches(word, list(known), n=1, cutoff=0.0)[0]


def rare(name: str, attribute: str) -> bool:
    """Whether training never combines this thing with this colour or place: one pair in twelve, chosen by hash."""
    digest = hashlib.blake2s(f"{name}/{attribute}".encode(), digest_size=4).digest()
    return int.from_bytes(digest, "big") % 12 == 0
