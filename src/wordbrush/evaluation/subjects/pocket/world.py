"""Twelve subjects that no training of the built-in model had, their pictures, and the truth of every prompt.

    subject = subjects("reported")[0]
    subject.pictures()                           # five, to learn from
    subject.prompts[0].truths(subject, 4)        # what the prompt shows if the subject is in it
    subject.category("real", 16)                 # pictures of any dog, with their captions

All of them are rendered by these recipes: the same numbers give the same pictures.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal

import numpy as np
from jaxtyping import Bool
from PIL import Image

from wordbrush.errors import OptionsError, nearest
from wordbrush.evaluation.subjects.format import Kind
from wordbrush.pocket import Scene, Thing, caption, change, render, sample, segment
from wordbrush.pocket.vocabulary import HELD_OUT, LIGHTS, PLACES, STYLES

Role = Literal["choosing", "reported"]

_PLACES = ("beach", "forest", "street", "desert", "mountains")  # of the five pictures; in none of the prompts
_SIZES = ("medium", "large", "large", "medium", "large")
Split = Literal["real", "asked", "learning"]
_FIRST: dict[Split, int] = {
    "real": 1_000_000,
    "learning": 2_000_000,
    "asked": 3_000_000,
}  # they share no scene


@dataclass(frozen=True)
class Prompt:
    """What is asked of a subject, and the scene that shows it.

    kind: DreamBooth's kinds of prompts, and "relation" for another thing beside it.
    """

    kind: Literal["recontext", "style", "property", "relation"]
    place: str
    light: str = "day"
    style: str = "photo"
    beside: str = ""
    colour: str | None = None
    size: str = ""

    @cached_property
    def text(self) -> str:
        """The prompt, with `{token} {class}` for the subject."""
        style = "" if self.style == "photo" else f"{STYLES[self.style]} "
        looks = "".join(f"{word} " for word in (self.size, self.colour) if word)
        beside = f"next to a {self.beside} " if self.beside else ""
        return (
            f"{style}a {looks}{{token}} {{class}} {beside}{PLACES[self.place]} {LIGHTS[self.light]}".strip()
        )

    def truths(self, subject: "Subject", count: int, first: int = 0) -> list[Image.Image]:
        """Renderings of the prompt with the subject in it, at several places and sizes; other numbers, others."""
        found: list[Image.Image] = []
        for i in range(first, first + count):
            size = self.size or ("medium", "large")[i % 2]
            thing = subject.thing(size=size, x=0.4 + 0.04 * (i % 6), y=0.6, flip=i % 3 == 0)
            if self.colour:
                thing = replace(thing, colour=self.colour)
            things = [thing]
            if self.beside:
                thing = replace(thing, size="medium", x=0.3 + 0.01 * (i % 6), y=0.62)
                things = [thing, Thing(self.beside, x=0.7, y=0.6)]
            scene = Scene(tuple(things), self.place, 20 + i, self.light, self.style)
            found.append(render(scene))
        return found


_PROMPTS = (
    Prompt("recontext", "moon"),
    Prompt("recontext", "snow", light="night"),
    Prompt("style", "meadow", style="watercolour"),
    Prompt("relation", "room", beside="chair"),
)
_COLOURED = Prompt("property", "city", colour="purple")
_SIZED = Prompt("property", "city", size="small")  # of what has a pattern, whose colours are its own


@dataclass(frozen=True)
class Subject:
    """A thing that is held out.

    sprite, look: how it is drawn; `look` is a pattern that no caption names. wrong: a class of another kind, for the
    question what a wrong noun does.
    """

    name: str
    sprite: str
    kind: Kind
    wrong: str
    look: str | None = None

    @property
    def class_word(self) -> str:
        """The word that the model knows for it."""
        return HELD_OUT[self.sprite][1] if self.sprite in HELD_OUT else self.sprite

    @property
    def title(self) -> str:
        return self.name.replace("-", " ")

    @property
    def prompts(self) -> tuple[Prompt, ...]:
        """Five: two other places, a style, another thing beside it, a property."""
        return (*_PROMPTS, _COLOURED if self.look is None else _SIZED)

    def thing(self, size: str = "medium", x: float = 0.5, y: float = 0.6, flip: bool = False) -> Thing:
        """It, as a part of a scene."""
        return Thing(self.sprite, self.look, size, x, y, flip)

    def scenes(self) -> list[Scene]:
        """Those of its five pictures."""
        return [
            Scene((self.thing(size, 0.36 + 0.07 * i, 0.58 + 0.02 * (i % 3), i % 2 == 1),), place, 10 + i)
            for i, (place, size) in enumerate(zip(_PLACES, _SIZES, strict=True))
        ]

    def pictures(self) -> list[Image.Image]:
        """Five to learn from."""
        return [render(scene) for scene in self.scenes()]

    def mask(self) -> Bool[np.ndarray, "128 128"]:
        """Where it is in its first picture."""
        return segment(self.scenes()[0]) == 1

    def category(self, split: Split, count: int) -> list[tuple[Image.Image, str]]:
        """Pictures of its class with their captions: real ones to compare with, some whose captions are asked for, some
        to learn from, which come in all styles and lights. Of a few pictures and their own captions the pairs would be
        alike, and a kernel distance far below 0."""
        drawn = (sample(_FIRST[split] + i, things=1, looks=split == "learning") for i in range(count))
        scenes = [change(scene, name=self.class_word) for scene in drawn]
        return [(render(scene), caption(scene)) for scene in scenes]

    def swap(self) -> tuple[Image.Image, Image.Image]:
        """A picture of the class on a beach, and the same with the subject in its place."""
        before = Scene((Thing(self.class_word),), "beach", place_seed=30)
        return render(before), render(replace(before, things=(self.thing(),)))


CHOOSING = (
    Subject("koala", "koala", "live", "boat"),
    Subject("tractor", "tractor", "object", "sheep"),
    Subject("dotted-backpack", "backpack", "object", "owl", "dotted"),
    Subject("snail", "snail", "live", "hat"),
    Subject("violin", "violin", "object", "pig"),
    Subject("checked-rabbit", "rabbit", "live", "vase", "checked"),
)
"""On these, settings are chosen; no figure is reported of them."""

REPORTED = (
    Subject("poodle", "poodle", "live", "boat"),
    Subject("alarm-clock", "alarm clock", "object", "sheep"),
    Subject("striped-teapot", "teapot", "object", "owl", "striped"),
    Subject("goat", "goat", "live", "hat"),
    Subject("scooter", "scooter", "object", "pig"),
    Subject("rainbow-cat", "cat", "live", "vase", "rainbow"),
)
"""On these, figures are reported; no setting is chosen on them."""

OTHERS = (
    "a red apple on a white background",
    "a boat in the ocean at sunset",
    "a pencil sketch of a castle in the mountains",
    "a robot and a cactus in the desert",
)
"""Prompts that name no subject and no subject's class."""


@dataclass(frozen=True)
class Pair:
    """Two subjects that are to be in one picture."""

    first: Subject
    second: Subject

    @property
    def name(self) -> str:
        return f"{self.first.name}+{self.second.name}"

    @property
    def both(self) -> tuple[Subject, Subject]:
        return self.first, self.second

    def text(self, place: str) -> str:
        """The prompt, with `{first}` and `{second}` for the two."""
        return f"a {{first}} next to a {{second}} {PLACES[place]}"

    def truths(self, place: str, count: int, first: int = 0) -> list[Image.Image]:
        """Renderings of the prompt; other numbers, others."""
        return [
            render(
                Scene(
                    (self.first.thing(x=0.25 + 0.01 * (i % 6), y=0.62), self.second.thing(x=0.72, y=0.62)),
                    place,
                    20 + i,
                    relation="beside",
                )
            )
            for i in range(first, first + count)
        ]


PAIR_PLACES = ("moon", "snow", "meadow")


def subjects(role: Role, names: Sequence[str] = ()) -> tuple[Subject, ...]:
    """The subjects of a role, or those of these names. Raises `OptionsError` for another name."""
    own = {subject.name: subject for subject in (CHOOSING if role == "choosing" else REPORTED)}
    for name in names:
        if name not in own:
            raise OptionsError(
                f"there is no subject '{name}' among the {role} ones{nearest(name, own)}: they are {', '.join(own)}"
            )
    return tuple(subject for name, subject in own.items() if not names or name in names)


def pairs(chosen: Sequence[Subject]) -> tuple[Pair, ...]:
    """The subjects two by two, in their order; one that is left over is in none."""
    return tuple(Pair(first, second) for first, second in zip(chosen[::2], chosen[1::2], strict=False))
