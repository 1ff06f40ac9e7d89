"""Edit success on rendered scenes: does the world reader see in an edit what was to change?

The reader's answers are compared with the two scenes. Where size or absence is in question they are compared with its
answers on the true pictures, so that a bias of the reader counts neither for nor against an edit.
"""

from dataclasses import dataclass

from wordbrush.evaluation.bench.cases import ADDED, UNCHANGED, Case
from wordbrush.evaluation.judges.reader import Reading, likeliest


@dataclass(frozen=True)
class Readings:
    """What the reader sees in one picture: in all of it, and in the region where the change belongs."""

    whole: Reading
    region: Reading


def succeeded(case: Case, edited: Readings, source: Readings, truth: Readings) -> bool:
    """Whether the edit shows the change.

    edited, source, truth: readings of the edit, of the picture that was edited and of the true answer; the region is
    the case's mask in all of them.

    - every thing of the target is seen; a new one is seen in the region, unless it was added: the words leave its place
      open, so it counts wherever it stands
    - a removed thing is not seen in the region, nor is anything else there that the truth does not show
    - a new colour is the colour of its thing; a new place, light or style is the most probable of all
    - a thing of new size covers a share that is nearer to the true answer's than to the source's
    - with nothing changed: place, light and style are still read as they are
    """
    return (
        _shows_the_right_things(case, edited, truth)
        and all(_looks_right(case, i, edited, source, truth) for i in range(len(case.target.things)))
        and all(
            likeliest(getattr(edited.whole, aspect)) == getattr(case.target, aspect)
            for aspect in ("place", "light", "style")
            if case.kind == UNCHANGED or getattr(case.source, aspect) != getattr(case.target, aspect)
        )
    )


def _shows_the_right_things(case: Case, edited: Readings, truth: Readings) -> bool:
    before = {thing.name for thing in case.source.things}
    after = {thing.name for thing in case.target.things}
    anywhere = after if case.kind == ADDED else before
    if not all((edited.whole if name in anywhere else edited.region).sees(name) for name in after):
        return False
    if any(edited.region.sees(name) for name in before - after):
        return False
    return case.kind != "delete object" or not any(
        chance > 0.5 and not truth.region.sees(name) for name, chance in edited.region.things.items()
    )


def _looks_right(case: Case, i: int, edited: Readings, source: Readings, truth: Readings) -> bool:
    """Whether thing `i` of the target has its new colour and its new size, where it has one."""
    thing = case.target.things[i]
    old = next((one for one in case.source.things if one.name == thing.name), None)
    has_new_colour = thing.colour is not None and (old is None or old.colour != thing.colour)
    if has_new_colour and edited.whole.colour(thing.name) != thing.colour:
        return False
    if old is None or old.size == thing.size:
        return True
    share, source_share, true_share = (
        readings.whole.extents[thing.name] for readings in (edited, source, truth)
    )
    return abs(share - true_share) < abs(share - source_share)
