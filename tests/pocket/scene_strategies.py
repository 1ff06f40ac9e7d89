"""Hypothesis strategies for all valid scenes, not only those that `sample` can return."""

from typing import Any

from hypothesis import strategies as st

from wordbrush.pocket.scene import WORDINGS, Scene, Thing
from wordbrush.pocket.vocabulary import (
    COLOURS,
    HELD_OUT,
    HELD_OUT_LOOKS,
    LIGHTS,
    NAMES,
    PLACES,
    RELATIONS,
    SIZES,
    STYLES,
)

fractions = st.floats(0, 1)
things = st.fixed_dictionaries(
    {
        "name": st.sampled_from([*NAMES, *HELD_OUT]),
        "colour": st.sampled_from([None, *COLOURS, *HELD_OUT_LOOKS]),
        "size": st.sampled_from(list(SIZES)),
        "x": fractions,
        "y": fractions,
        "flip": st.booleans(),
    }
)
# Plain values; the test makes a scene of them with `built`: the type checks of a constructor use random numbers, which
# a strategy must not do.
scenes = st.fixed_dictionaries(
    {
        "things": st.lists(things, min_size=1, max_size=3),
        "place": st.sampled_from(list(PLACES)),
        "place_seed": st.integers(0, 10**6),
        "light": st.sampled_from(list(LIGHTS)),
        "style": st.sampled_from(list(STYLES)),
        "relation": st.sampled_from([None, *RELATIONS]),
        "wording": st.integers(0, WORDINGS - 1),
    }
)


def built(values: dict[str, Any]) -> Scene:
    shown = tuple(Thing(**thing) for thing in values["things"])
    relation = values["relation"] if len(shown) > 1 else None
    return Scene(**(values | {"things": shown, "relation": relation}))
