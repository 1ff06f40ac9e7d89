"""What Prompt-to-Prompt does where the user does not choose: by what the words change, and by how the source is known.

The figures for the straight path were chosen on rendered scenes with the built-in model
(`docs/benchmarks/defaults.md`). A source with a trajectory of its own gets the published defaults; nobody has measured
others there.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Float
from torch import Tensor

from wordbrush.attention_edit import bounds
from wordbrush.changes import Change, Kind
from wordbrush.editing.prompt_to_prompt.options import Options
from wordbrush.model import Model
from wordbrush.recording import Reads
from wordbrush.source import Source
from wordbrush.states import StraightPath

# Hertz et al. 2022 and the released notebooks.
_PUBLISHED: Mapping[str, Any] = {
    "cross_replace_steps": 0.8,
    "self_replace_steps": 0.4,
    "blend_start": 0.2,
    "blend_threshold": 0.3,
    "blend_difference": 0.0,
    "spare": (),
    "spare_threshold": 0.3,
    "hold": 0.0,
    "finish": 1.0,
}

_UNTOLD: Mapping[str, Any] = {
    name: value
    for name, value in _PUBLISHED.items()
    if name not in ("cross_replace_steps", "self_replace_steps")
}
"""Values that a report need not name: nothing is done, or as everywhere."""

MEASURED = "pocket"
"""The model that the figures for the straight path were chosen with."""

# Timestep, and the error of the noise above which a picture is not the model's. Of rendered scenes all photos and 19 of
# 20 in other styles are below; nine of eleven photographs of the real world, and most scenes with another scene's
# caption, are above.
_STRANGE = ((374, 0.19), (499, 0.12), (624, 0.08), (749, 0.04))

_STRAIGHT: Mapping[Kind, Mapping[str, Any]] = {
    "swap": {"cross_replace_steps": 0.5, "blend_difference": 0.2, "finish": 0.5},
    "recolour": {"self_replace_steps": 0.8, "guidance_scale": 2.0},
    "resize": {"cross_replace_steps": 0.3, "self_replace_steps": 0.0, "blend_threshold": 0.5, "finish": 0.5},
    # Nothing of the source can say where a new thing goes. So the run is free until its words have found a place; then
    # the source is put back around them, and they are drawn with ordinary guidance.
    "add": {
        "cross_replace_steps": 0.0,
        "self_replace_steps": 0.0,
        "blend_start": 0.5,
        "blend_threshold": 0.4,
        "spare": "things",
        "spare_threshold": 0.4,
        "finish": 0.5,
    },
    "remove": {"blend_difference": 0.4, "spare": "things", "spare_threshold": 0.6, "finish": 0.875},
    "place": {"cross_replace_steps": 0.5, "hold": 0.8},
    "light": {"cross_replace_steps": 0.4, "hold": 0.3},
    "style": {"self_replace_steps": 0.8, "hold": 0.2},
    "relation": {"cross_replace_steps": 0.4},
    "several": {"cross_replace_steps": 0.4, "hold": 0.7},
}


def decided(options: Options, change: Change, source: Source) -> Options:
    """The options with a value for each that the user left out, but for a guidance scale that the source was given."""
    values = dict(_PUBLISHED)
    is_added = "add" in change.kinds
    if isinstance(source.states, StraightPath):
        values |= _STRAIGHT["add"] if is_added and change.is_local else _STRAIGHT.get(change.kind, {})
    if "guidance_scale" in source.options:
        values.pop("guidance_scale", None)
    left_out = {name: value for name, value in values.items() if getattr(options, name) in (None, "auto")}
    return options.model_copy(update=left_out)


def readable(model: Model, source: Source) -> list[Reads]:
    """What edits may read of this source at each step, by the widest of these defaults."""
    tables = [_PUBLISHED, *(_STRAIGHT.values() if isinstance(source.states, StraightPath) else ())]

    def widest(name: str) -> float:
        return max(table.get(name, 0.0) for table in tables)

    steps, maps = source.steps, model.map_positions(source.latent_size)
    guidance = source.states.guidance(source.guidance_scale)
    cross = bounds((0.0, widest("cross_replace_steps")), steps)[1]
    injected = int(widest("self_replace_steps") * steps)
    return [
        Reads(guidance.reads_source(i / steps), i < cross, maps, maps if i < injected else 0)
        for i in range(steps)
    ]


def chosen(given: Options, options: Options) -> dict[str, Any]:
    """Of decided options those that the user left out, by name, without what need not be told."""
    names = [name for name in (*_PUBLISHED, "guidance_scale") if getattr(given, name) in (None, "auto")]
    return {name: getattr(options, name) for name in names if getattr(options, name) != _UNTOLD.get(name)}


def is_strange(
    model: Model, t: int, noise: Float[Tensor, "1 c h w"], predicted: Float[Tensor, "1 c h w"]
) -> bool:
    """Whether a model predicts a picture's noise at timestep t so badly that it cannot be expected to draw it, or that
    the caption does not say what it shows."""
    levels, limits = zip(*_STRANGE, strict=True)
    if model.name != MEASURED or not levels[0] <= t <= levels[-1]:
        return False
    return float((predicted - noise).square().mean()) > float(np.interp(t, levels, limits))


def notices(model: Model, source: Source, is_strange: bool) -> list[str]:
    """What a user should know of the defaults for this source."""
    found: list[str] = []
    if is_strange:
        found.append(
            f"{model.name} cannot draw this picture, or its prompt does not say what it shows: expect a poor result"
        )
    if model.name != MEASURED and isinstance(source.states, StraightPath):
        found.append(
            f"the defaults of the straight path were chosen with the built-in model; with {model.name} nobody has "
            "measured them yet"
        )
    elif model.name != MEASURED and source.picture is not None:
        found.append(
            f"these are the published defaults; --inversion straight takes about a tenth of the work, and with "
            f"{model.name} nobody has measured it yet"
        )
    return found
