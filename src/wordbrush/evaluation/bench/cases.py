"""The ground-truth bench's cases: a scene and a change to it, which give the true answer and the exact mask.

Ten kinds of change, in the spirit of PIE-Bench's. A case follows from the number of its scene and its kind alone;
`split` draws as many as asked from a seed, `public` gives the 200 that everyone measures on.

The caption changes as a careful user would change it; the scene changes as little as the words allow. A thing that
becomes another one, or larger, keeps its foot at the same place. Where a thing is added, the words leave its place
open, and the true answer is one of many: beside what is already there.
"""

import hashlib
import json
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from importlib.resources import files

import numpy as np
from jaxtyping import Bool
from PIL import Image

from wordbrush.errors import OptionsError
from wordbrush.pocket import Scene, Thing, caption, change, mask, parse, render, sample, segment
from wordbrush.pocket.sprites import extent
from wordbrush.pocket.vocabulary import BACKGROUNDS, COLOURS, LIGHTS, NAMES, PLACES, SIZES, STYLES, check

KINDS = (
    "change object",
    "add object",
    "delete object",
    "change colour",
    "change size",
    "change place",
    "change light",
    "change style",
    "two changes",
    "nothing changed",
)
ADDED, UNCHANGED = "add object", KINDS[-1]
PUBLIC_SEED, PUBLIC_COUNT = 2026, 200
_MOST = 100_000  # cases in one list; they would take days
_FIRST_SCENE = 1_000_000  # held-out scenes from here on are the bench's: nothing else is measured on them
_VISIBLE = 0.6  # the share of an added thing that must be seen
_ROOM = 0.03  # between things and the picture's edge, as a share of the picture


class _NoRoomError(OptionsError):
    """A scene whose thing is so large that nothing can be added beside it."""


@dataclass(frozen=True)
class Case:
    """One question. `scene` is the number that the source scene is drawn by: even ones have one thing, odd ones two."""

    scene: int
    kind: str
    source: Scene
    target: Scene

    @property
    def name(self) -> str:
        """What the case is called in tables and files."""
        return f"{self.scene}-{self.kind.replace(' ', '-')}"

    @property
    def source_prompt(self) -> str:
        """The source's caption."""
        return caption(self.source)

    @property
    def target_prompt(self) -> str:
        """The changed caption."""
        return caption(self.target)

    @cached_property
    def picture(self) -> Image.Image:
        """The picture to edit."""
        return render(self.source)

    @cached_property
    def truth(self) -> Image.Image:
        """The true answer."""
        return render(self.target)

    @cached_property
    def mask(self) -> Bool[np.ndarray, "h w"]:
        """Where the truth may differ from the picture (True: edit here)."""
        return mask(self.source, self.target)

    @cached_property
    def things(self) -> Bool[np.ndarray, "h w"]:
        """What the picture's things cover."""
        return np.asarray(segment(self.source)) > 0


def case(scene: int, kind: str) -> Case:
    """The case of that scene and kind. Raises `InputError` for an unknown kind, `OptionsError` where a scene of its
    number of things cannot have the change.
    """
    check("kind of case", kind, KINDS)
    rng = random.Random(f"{scene}/{kind}")
    before = _scene(scene)
    after = before if kind == UNCHANGED else _CHANGES[kind](before, rng)
    return Case(scene, kind, before, after)


def split(seed: int, count: int, kind: str | None = None) -> list[Case]:
    """`count` cases drawn by a seed: twenty to a pair of scenes' ten kinds, five kinds a scene.

    Scenes come in pairs, one with one thing and one with two; between them they have every kind once, so that whole
    tens are balanced. Cases of one scene follow one another: they share a source, and with it an inversion. The
    same seed with a larger count begins with the same cases. A pair with a scene in which nothing can be added is
    passed over. kind: draw this kind alone, from the same scenes. Raises `OptionsError` for a count below 1 or above
    100,000, `InputError` for an unknown kind.
    """
    if not 1 <= count <= _MOST:
        raise OptionsError(f"expected at least one case and at most {_MOST:,}, got a count of {count}")
    if (seed, count, kind) == (PUBLIC_SEED, PUBLIC_COUNT, None):
        return public()
    if kind is not None:
        check("kind of case", kind, KINDS)
    return _drawn(seed, count, kind)


def public() -> list[Case]:
    """The fixed split of 200: the list that ships, so that no change to `split` can change what was measured."""
    text = (files("wordbrush.evaluation.bench") / "public_split.json").read_text()
    listed: list[dict[str, list[str]]] = [json.loads(text)["scenes"]]
    return [case(int(scene), kind) for scene, kinds in listed[0].items() for kind in kinds]


def fingerprint(cases: Sequence[Case]) -> str:
    """SHA-256 over all that the cases say: equal for equal splits of an equal world."""
    lines = [
        f"{one.name} {one.source.to_json()} {one.target.to_json()} {one.source_prompt} {one.target_prompt}\n"
        for one in cases
    ]
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def _drawn(seed: int, count: int, only: str | None = None) -> list[Case]:
    rng = random.Random(f"bench/{seed}")
    drawn: list[Case] = []
    while len(drawn) < count:
        number = _FIRST_SCENE + 2 * rng.randrange(10**8)
        shared = [kind for kind in KINDS if kind not in ("add object", "delete object")]
        rng.shuffle(shared)
        pair = [(number, kind) for kind in sorted(["add object", *shared[:4]], key=KINDS.index)]
        pair += [(number + 1, kind) for kind in sorted(["delete object", *shared[4:]], key=KINDS.index)]
        try:
            drawn += [case(scene, kind) for scene, kind in pair if only in (None, kind)]
        except _NoRoomError:
            continue
    return drawn[:count]


def _scene(number: int) -> Scene:
    """The first held-out photo, from that number on, that every kind of change can be made to.

    Its caption says the place; its things are not stacked, and at least half of each is seen.
    """
    things = 1 + number % 2
    for step in range(10_000):
        scene = sample(1000 * number + step, things=things, split="test")
        plain = scene.style == "photo" and scene.relation not in ("on", "under")
        if plain and parse(caption(scene)).place is not None and _seen(scene, range(things), 0.5):
            return scene
    raise AssertionError("no scene in ten thousand is plain")


def _seen(scene: Scene, things: Sequence[int], share: float) -> bool:
    """Whether this share of each of the things can be seen, inside the picture and behind the others."""
    together = segment(scene)
    for i in things:
        alone = segment(replace(scene, things=(scene.things[i],), relation=None))
        wide, high = extent(scene.things[i].name, scene.things[i].size)
        if (together == 1 + i).sum() < share * (alone == 1).sum() or (
            alone == 1
        ).sum() < 0.25 * wide * high * alone.size:
            return False
    return True


# The changes ------------------------------------------------------------------------------------------------


def _standing(scene: Scene, i: int, name: str | None = None, size: str | None = None) -> Scene:
    """Thing `i` as another thing or in another size, its foot where it was, and inside the picture."""
    old = scene.things[i]
    new = replace(old, name=name or old.name, size=size or old.size)
    wide, high = extent(new.name, new.size)
    foot = old.y + extent(old.name, old.size)[1] / 2
    x = min(max(old.x, wide / 2), 1 - wide / 2)
    y = min(max(foot - high / 2, high / 2), 1 - high / 2)
    moved = replace(new, x=round(x, 4), y=round(y, 4))
    return replace(scene, things=(*scene.things[:i], moved, *scene.things[i + 1 :]))


def _change_object(scene: Scene, rng: random.Random) -> Scene:
    there = {thing.name for thing in scene.things}
    i = rng.randrange(len(scene.things))
    return _standing(scene, i, name=rng.choice([name for name in NAMES if name not in there]))


def _add_object(scene: Scene, rng: random.Random) -> Scene:
    if len(scene.things) != 1:
        raise OptionsError("a thing is added to scenes of one thing, which have even numbers")
    first = scene.things[0]
    foot = first.y + extent(first.name, first.size)[1] / 2
    names = [name for name in NAMES if name != first.name]
    tried: set[str] = set()
    while len(tried) < len(names):
        name = rng.choice(names)
        tried.add(name)
        for size in ("medium", "small"):
            wide, high = extent(name, size)
            x = 1 - _ROOM - wide / 2 if first.x <= 0.5 else _ROOM + wide / 2
            y = max(high / 2 + _ROOM, foot - high / 2 - 0.02)
            added = change(scene, add=Thing(name, None, size, round(x, 4), round(y, 4), rng.random() < 0.5))
            if _seen(added, (0, 1), _VISIBLE):
                return added
    raise _NoRoomError(f"nothing can be added beside the {first.size} {first.name} of this scene")


def _delete_object(scene: Scene, rng: random.Random) -> Scene:
    if len(scene.things) != 2:
        raise OptionsError("a thing is deleted from scenes of two things, which have odd numbers")
    return change(scene, thing=rng.randrange(2), remove=True)


def _change_colour(scene: Scene, rng: random.Random) -> Scene:
    i = rng.randrange(len(scene.things))
    free = [
        colour
        for colour in COLOURS
        if colour != scene.things[i].colour and not scene.place.startswith(colour)
    ]
    return change(scene, thing=i, colour=rng.choice(free))


def _change_size(scene: Scene, rng: random.Random) -> Scene:
    i = rng.randrange(len(scene.things))
    return _standing(scene, i, size=rng.choice([size for size in SIZES if size != scene.things[i].size]))


def _change_place(scene: Scene, rng: random.Random) -> Scene:
    # Half of the places are plain backgrounds; a thing may not vanish into one of its own colour.
    plain = [f"{colour} background" for colour in BACKGROUNDS]
    places = [place for place in PLACES if place not in plain]
    pool = places if rng.random() < 0.75 else plain
    tints = {thing.colour for thing in scene.things}
    return change(
        scene,
        place=rng.choice([place for place in pool if place != scene.place and place.split()[0] not in tints]),
    )


def _change_light(scene: Scene, rng: random.Random) -> Scene:
    return change(scene, light=rng.choice([light for light in LIGHTS if light not in ("day", scene.light)]))


def _change_style(scene: Scene, rng: random.Random) -> Scene:
    return change(scene, style=rng.choice([style for style in STYLES if style != scene.style]))


_CHANGES: dict[str, Callable[[Scene, random.Random], Scene]] = {
    "change object": _change_object,
    "add object": _add_object,
    "delete object": _delete_object,
    "change colour": _change_colour,
    "change size": _change_size,
    "change place": _change_place,
    "change light": _change_light,
    "change style": _change_style,
}


def _two_changes(scene: Scene, rng: random.Random) -> Scene:
    """A thing and its colour, a thing and the place …: two of the single changes, one after the other."""
    pool = ("change object", "change colour", "change place", "change light", "change style")
    for kind in rng.sample(pool, 2):
        scene = _CHANGES[kind](scene, rng)
    return scene


_CHANGES["two changes"] = _two_changes
