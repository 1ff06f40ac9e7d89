"""The built-in world: captioned scenes in which every edit has a true answer, and the small model trained on them.

    scene = sample(7)
    render(scene), caption(scene), segment(scene)
    other = change(scene, name="tiger")
    mask(scene, other)

`vocabulary` lists all words; `recipes/pocket` has the scripts that trained the model.
"""

from wordbrush.pocket.captions import Constraint, Constraints, caption, caption_parts, parse
from wordbrush.pocket.render import mask, render, segment
from wordbrush.pocket.scene import Scene, Thing, change, sample

__all__ = [
    "Constraint",
    "Constraints",
    "Scene",
    "Thing",
    "caption",
    "caption_parts",
    "change",
    "mask",
    "parse",
    "render",
    "sample",
    "segment",
]
