"""Scenes as immutable values: things with positions, a place, a light and a style.

    scene = sample(7)
    other = change(scene, thing=0, name="tiger")

This module draws nothing: `render` makes pictures, `captions` makes captions.
"""

from __future__ import annotations

import json
import random
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, cast

from wordbrush.errors import InputError
from wordbrush.pocket import sprites
from wordbrush.pocket.vocabulary import (
    COLOURS,
    COMMON,
    HELD_OUT,
    HELD_OUT_LOOKS,
    LIGHTS,
    NAMES,
    PLACES,
    RELATIONS,
    SIZES,
    STYLES,
    check,
    rare,
)

# The number of wordings of a caption (see `captions`): wording 0 mentions everything.
WORDINGS = 24
# The number of variants of each place in a split. The two splits share none.
VARIANTS = 96


@dataclass(frozen=True)
class Thing:
    """One object in a scene.

    `name`: a key of `NAMES` or `HELD_OUT`. `colour`: a key of `COLOURS`, one of `HELD_OUT_LOOKS`, or None for its
    own colours. `size`: a key of `SIZES`. `x`, `y`: its centre as fractions of the picture, from the left and from
    the top. `flip`: mirrored. Raises `InputError` for unknown words and for positions outside the picture.
    """

    name: str
    colour: str | None = None
    size: str = "medium"
    x: float = 0.5
    y: float = 0.6
    flip: bool = False

    def __post_init__(self) -> None:
        check("thing", self.name, (*NAMES, *HELD_OUT))
        if self.colour is not None:
            check("colour", self.colour, (*COLOURS, *HELD_OUT_LOOKS))
        check("size", self.size, SIZES)
        for axis, value in (("x", self.x), ("y", self.y)):
            if not 0 <= value <= 1:
                raise InputError(f"expected {axis} in [0, 1] (a fraction of the picture), got {value}.")


@dataclass(frozen=True)
class Scene:
    """Things in a place, with a light and a style.

    `things`: one to three, nearest first; the caption names them in this order. `place_seed`: the variant of the
    place. `relation`: how the first thing relates to the second (a key of `RELATIONS`), or None for "and".
    `wording`: selects the optional parts of the caption, 0 to 23; 0 mentions everything. Raises `InputError` for
    any other values.
    """

    things: tuple[Thing, ...]
    place: str
    place_seed: int = 0
    light: str = "day"
    style: str = "photo"
    relation: str | None = None
    wording: int = 0

    def __post_init__(self) -> None:
        if not 1 <= len(self.things) <= 3:
            raise InputError(f"a scene has one to three things, got {len(self.things)}.")
        check("place", self.place, PLACES)
        check("light", self.light, LIGHTS)
        check("style", self.style, STYLES)
        if self.relation is not None:
            check("relation", self.relation, RELATIONS)
            if len(self.things) < 2:
                raise InputError(f"{self.relation!r} relates two things, but the scene has one: use None.")
        if not 0 <= self.wording < WORDINGS:
            raise InputError(f"expected wording in 0 to {WORDINGS - 1}, got {self.wording}.")

    def to_json(self) -> str:
        """The scene as one line of JSON; `from_json` returns an equal scene."""
        return json.dumps(asdict(self), separators=(",", ":"))

    @staticmethod
    def from_json(text: str) -> Scene:
        """The scene that `to_json` wrote. Raises `InputError` for any other text."""
        try:
            values = json.loads(text)
        except json.JSONDecodeError as error:
            raise InputError(f"expected a scene as JSON, got {text[:60]!r} ({error}).") from error
        known = _checked(values, Scene)
        if not isinstance(known.get("things"), list):
            raise InputError(f"a scene's things must be a list, got {known.get('things')!r}.")
        things = tuple(Thing(**_checked(thing, Thing)) for thing in known.pop("things"))
        return Scene(things=things, **known)


def _checked(values: object, kind: type[Thing] | type[Scene]) -> dict[str, Any]:
    """`values` as constructor arguments of `kind`, with keys and JSON types checked."""
    label = kind.__name__.lower()
    if not isinstance(values, dict):
        raise InputError(f"expected a {label} as a JSON object, got {values!r}.")
    given = cast(dict[str, Any], values)
    expected = {field.name: str(field.type) for field in fields(kind)}
    for key in given:
        check(f"key of a {label}", key, expected)
    for key, annotation in expected.items():
        if key not in given:
            raise InputError(f"this {label} has no {key!r}: it needs {', '.join(expected)}.")
        value = given[key]
        fits = {
            "str": isinstance(value, str),
            "str | None": value is None or isinstance(value, str),
            "int": isinstance(value, int) and not isinstance(value, bool),
            "float": isinstance(value, int | float) and not isinstance(value, bool),
            "bool": isinstance(value, bool),
        }
        if not fits.get(annotation, True):
            raise InputError(f"{key!r} of a {label} must be {annotation}, got {value!r}.")
        if annotation == "float":
            given[key] = float(given[key])
    return given


def change(
    scene: Scene,
    *,
    thing: int = 0,
    name: str | None = None,
    colour: str | None = "same",
    size: str | None = None,
    remove: bool = False,
    add: Thing | None = None,
    place: str | None = None,
    light: str | None = None,
    style: str | None = None,
) -> Scene:
    """The scene with something changed and everything else unchanged, including the caption's wording.

    `name`, `colour`, `size` and `remove` apply to `scene.things[thing]`; `colour=None` restores its own colours.
    `add` puts one more thing behind the others. Raises `InputError` for unknown words (suggesting the nearest
    known one), for a thing that the scene does not have, and for fewer than one or more than three things.
    """
    things = list(scene.things)
    relation = scene.relation
    if not 0 <= thing < len(things):
        raise InputError(f"this scene has {len(things)} things, so thing must be below that; got {thing}.")
    if remove:
        if name is not None or colour != "same" or size is not None:
            raise InputError("a thing can be removed or changed, not both.")
        del things[thing]
        # The relation is between the first two things; without one of them it has no meaning.
        if thing < 2:
            relation = None
    else:
        old = things[thing]
        things[thing] = replace(
            old,
            name=old.name if name is None else name,
            colour=old.colour if colour == "same" else colour,
            size=old.size if size is None else size,
        )
    if add is not None:
        things.append(add)
    return replace(
        scene,
        things=tuple(things),
        relation=relation,
        place=scene.place if place is None else place,
        light=scene.light if light is None else light,
        style=scene.style if style is None else style,
    )


def sample(
    seed: int,
    *,
    things: int | None = None,
    split: str = "train",
    tints: bool = True,
    sizes: bool = True,
    places: bool = True,
    looks: bool = True,
) -> Scene:
    """A random scene; the same arguments always give the same one.

    `things`: how many (1 to 3), or None for the mixture of the split (three only in the test split).
    `split="test"` uses other variants of the places, and half of its scenes have a combination of thing and
    colour, or thing and place, that training never shows (`vocabulary.rare`). The flags make scenes simpler:
    `tints=False` no coloured things, `sizes=False` only medium ones, `places=False` only plain backgrounds,
    `looks=False` only photos by day. Raises `InputError` for another number of things or another split.
    """
    check("split", split, ("train", "test"))
    if things is not None and things not in (1, 2, 3):
        raise InputError(f"a scene has one to three things, got {things}.")
    rng = random.Random(f"{split}/{seed}")
    count: int = things or _draw(rng, {1: 55, 2: 45} if split == "train" else {1: 40, 2: 42, 3: 18})
    relation = None
    if count == 2:
        relation = _draw(rng, {None: 30, "beside": 22, "left": 16, "right": 16, "on": 8, "under": 8})
    elif count == 3:
        relation = _draw(rng, {None: 50, "beside": 50})

    seeking_rare = split == "test" and rng.random() < 0.5
    while True:
        names = _names(rng, count, relation)
        place = _place(rng) if places else _background(rng)
        colours = _colours(rng, count, place, share=0.34 if tints else 0.0)
        pairs = [(name, place) for name in names]
        pairs += [(name, colour) for name, colour in zip(names, colours, strict=True) if colour is not None]
        found = any(rare(name, attribute) for name, attribute in pairs)
        # Training never has a rare pair; in the test split half of the scenes have one.
        if found == seeking_rare:
            break

    light = style = None
    if looks:
        style = _draw(
            rng, {None: 76, "watercolour": 6, "sketch": 5, "pixel art": 5, "drawing": 4, "mosaic": 4}
        )
        # In a grey sketch, sunset looks like day, and fog takes away its contrast.
        coloured = style != "sketch"
        light = _draw(rng, {None: 78, "night": 7, "sunset": 6 * coloured, "fog": 5 * coloured, "rain": 4})
    return Scene(
        things=_arranged(rng, names, colours, relation, sizes, style),
        place=place,
        place_seed=rng.randrange(VARIANTS) + (VARIANTS if split == "test" else 0),
        light=light or "day",
        style=style or "photo",
        relation=relation,
        wording=rng.randrange(WORDINGS),
    )


def _draw(rng: random.Random, weights: dict[Any, int]) -> Any:
    return rng.choices(list(weights), list(weights.values()))[0]


def _names(rng: random.Random, count: int, relation: str | None) -> list[str]:
    """Different names, nearest thing first; the second one suits the relation."""
    pool = list(NAMES)
    weights = [3 if name in COMMON else 1 for name in pool]
    names: list[str] = []
    if relation in ("on", "under"):
        names = [rng.choice(list(sprites.SEATS if relation == "on" else sprites.SHELTERS))]
    while len(names) < count:
        name = rng.choices(pool, weights)[0]
        if name not in names:
            names.insert(0, name)
    return names


def _background(rng: random.Random) -> str:
    return rng.choice([place for place in PLACES if place.endswith(" background")])


def _place(rng: random.Random) -> str:
    if rng.random() < 0.2:
        return _background(rng)
    return rng.choice([place for place in PLACES if not place.endswith(" background")])


def _colours(rng: random.Random, count: int, place: str, share: float) -> list[str | None]:
    """A colour for this share of the things, never that of a plain background."""
    pool = [colour for colour in COLOURS if not place.startswith(colour)]
    return [rng.choice(pool) if rng.random() < share else None for _ in range(count)]


def _mixture(count: int, relation: str | None, style: str | None) -> dict[tuple[str, ...], int]:
    """Weights of the combinations of sizes; for "on" and "under" the second thing carries or shelters the first."""
    if count == 3:
        return {("medium", "medium", "medium"): 1}
    if relation == "on":
        return {("medium", "medium"): 45, ("small", "medium"): 30, ("small", "large"): 25}
    if relation == "under":
        return {("medium", "large"): 60, ("small", "large"): 40}
    # In these coarse styles a small thing would be about a dozen blocks, tiles or strokes, and not recognisable.
    coarse = style in ("pixel art", "mosaic", "drawing")
    if count == 1:
        return {("small",): 0 if coarse else 12, ("medium",): 53, ("large",): 35}
    if coarse:
        return {("medium", "medium"): 1}
    return {("medium", "medium"): 55, ("small", "medium"): 20, ("small", "large"): 25}


def _arranged(
    rng: random.Random,
    names: list[str],
    colours: list[str | None],
    relation: str | None,
    sizes: bool,
    style: str | None,
) -> tuple[Thing, ...]:
    """Things with sizes and positions that make the relation true and keep every thing recognisable."""
    chosen: list[str] = ["medium"] * len(names)
    if sizes:
        chosen = list(_draw(rng, _mixture(len(names), relation, style)))
    if relation not in ("on", "under"):
        rng.shuffle(chosen)
    extents = [sprites.extent(name, size) for name, size in zip(names, chosen, strict=True)]
    centres = _centres(rng, names, extents, relation)
    return tuple(
        Thing(name, colour, size, round(x, 4), round(y, 4), rng.random() < 0.5)
        for name, colour, size, (x, y) in zip(names, colours, chosen, centres, strict=True)
    )


def _centres(
    rng: random.Random, names: list[str], extents: list[tuple[float, float]], relation: str | None
) -> list[tuple[float, float]]:
    def resting(i: int, floor: float) -> float:
        """The y of the centre of a thing that stands at `floor`; things that fly are higher."""
        height = extents[i][1]
        lift = 0.16 if names[i] in sprites.SHADOWLESS and relation != "under" else 0.0
        return max(height / 2 + 0.03, floor - height / 2 - lift * rng.uniform(0.3, 1.0))

    if relation == "on":
        x, floor = rng.uniform(0.4, 0.6), rng.uniform(0.86, 0.95)
        seat = floor - extents[1][1] * (1 - sprites.SEATS[names[1]])
        return [(x + rng.uniform(-0.03, 0.03), seat - extents[0][1] / 2), (x, floor - extents[1][1] / 2)]
    if relation == "under":
        x, floor = rng.uniform(0.4, 0.6), rng.uniform(0.90, 0.96)
        top = floor - extents[0][1] * 0.92 - extents[1][1] * sprites.SHELTERS[names[1]]
        above = (x, max(0.02, top) + extents[1][1] / 2)
        return [(x + rng.uniform(-0.05, 0.05), floor - extents[0][1] / 2), above]
    if len(names) == 1:
        slack = max(0.0, 0.5 - extents[0][0] / 2 - 0.02)
        return [(0.5 + rng.uniform(-1, 1) * min(0.16, slack), resting(0, rng.uniform(0.76, 0.93)))]
    if len(names) == 3:
        back = [0.24 + rng.uniform(-0.02, 0.02), 0.76 + rng.uniform(-0.02, 0.02)]
        rng.shuffle(back)
        behind = [(back[i - 1], resting(i, rng.uniform(0.60, 0.66))) for i in (1, 2)]
        return [(rng.uniform(0.46, 0.54), resting(0, rng.uniform(0.92, 0.97))), *behind]
    first_left = relation == "left" or (relation != "right" and rng.random() < 0.7)
    left, right = (0, 1) if first_left else (1, 0)
    free = 1 - extents[0][0] - extents[1][0]
    # Two wide things overlap a little instead of leaving the picture.
    edge = rng.uniform(0.1, 0.4) * free if free > 0 else free / 4
    other = rng.uniform(0.1, 0.4) * free if free > 0 else free / 4
    centres = [(0.0, 0.0)] * 2
    centres[left] = (edge + extents[left][0] / 2, resting(left, rng.uniform(0.76, 0.93)))
    centres[right] = (1 - other - extents[right][0] / 2, resting(right, rng.uniform(0.76, 0.93)))
    return centres
