"""Edit success on rendered scenes: does the world reader see in an edit what the change was to bring?

The reader's answers are compared with the two scenes, and where size or absence is in question with its own answers
on the true pictures, so that a reader's habit counts neither for nor against an edit.
"""

from dataclasses import dataclass

from wordbrush.evaluation.bench.cases import UNCHANGED, Case
from wordbrush.evaluation.judges.reader import Reading, likeliest


@dataclass(frozen=True)
class Looks:
    """What the reader makes of one picture: whole, and in the region where the change belongs."""

    whole: Reading
    region: Reading


def succeeded(case: Case, made: Looks, source: Looks, truth: Looks) -> bool:
    """Whether the edit shows the change.

    made, source, truth: looks at the edit, at the picture that was edited and at the true answer, the region being
    the case's mask in all of them.

    - every thing of the target is seen; one that is new is seen in the region
    - a thing that is gone is not seen in the region, and nothing else is that the truth does not show there
    - a new colour is the thing's colour, a new place, light or style the most probable of all
    - a thing of new size covers a share nearer to the true answer's than to the source's
    - with nothing changed: place, light and style are still read as they are
    """
    before, after = case.source, case.target
    gone = {thing.name for thing in before.things} - {thing.name for thing in after.things}
    new = {thing.name for thing in after.things} - {thing.name for thing in before.things}
    if not all(
        (made.region if name in new else made.whole).sees(name) for name in (t.name for t in after.things)
    ):
        return False
    if any(made.region.sees(name) for name in gone):
        return False
    if case.kind == "delete object" and any(
        chance > 0.5 and not truth.region.sees(name) for name, chance in made.region.things.items()
    ):
        return False
    for thing in after.things:
        old = next((one for one in before.things if one.name == thing.name), None)
        if thing.colour is not None and (old is None or old.colour != thing.colour):
            if made.whole.colour(thing.name) != thing.colour:
                return False
        if old is not None and old.size != thing.size:
            shares = (looks.whole.extents[thing.name] for looks in (made, source, truth))
            made_share, source_share, true_share = shares
            if abs(made_share - true_share) >= abs(made_share - source_share):
                return False
    unchanged = case.kind == UNCHANGED
    return all(
        likeliest(getattr(made.whole, aspect)) == getattr(after, aspect)
        for aspect in ("place", "light", "style")
        if unchanged or getattr(before, aspect) != getattr(after, aspect)
    )
