"""The pages of each rater and their order: equal numbers of raters for all units, otherwise random."""

import random
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from wordbrush.errors import InputError
from wordbrush.evaluation.study.design import Item, Study, Unit

SAME = ":same"  # in a check: the item's own original
_OTHER = ":other:"  # in a check: the original of another item


@dataclass(frozen=True)
class Trial:
    """One page: an item, and its pictures in the order shown."""

    item: str
    shown: tuple[str, ...]
    """Methods; in a check, `:same` and `:other:ITEM`."""
    is_check: bool = False

    @property
    def unit(self) -> Unit:
        """The unit that its answers judge, regardless of order."""
        return self.item, frozenset(self.shown)


def assign(study: Study, rater: int, taken: Mapping[Unit, int]) -> tuple[Trial, ...]:
    """The pages of the `rater`-th rater; empty if every unit has been judged often enough.

    taken: how often each unit has been judged or assigned. A rater gets the units taken least often; ties are broken by
    how often their item was taken, then their methods, then at random. So while nobody leaves, the counts of any two
    units, and of any two items, differ by at most one; pages that a rater leaves unanswered are assigned to later
    raters. The pages are deterministic for a given seed, rater and `taken`.
    """
    settings = study.settings
    rng = random.Random(f"{settings.seed} {rater}")
    item_counts: Counter[str] = Counter()
    picture_counts: Counter[str] = Counter()
    for (item, shown), times in taken.items():
        item_counts[item] += times
        picture_counts.update({each: times for each in shown})
    available = {unit: rng.random() for unit in study.units if taken.get(unit, 0) < settings.raters_per_item}
    chosen: list[Unit] = []
    while available and len(chosen) < settings.pages_per_rater:
        unit = min(
            available,
            key=lambda each: (
                taken.get(each, 0),
                item_counts[each[0]],
                sum(picture_counts[shown] for shown in each[1]),
                available[each],
            ),
        )
        del available[unit]
        item_counts[unit[0]] += 1
        picture_counts.update(unit[1])
        chosen.append(unit)
    if not chosen:
        return ()
    rng.shuffle(chosen)
    trials = [Trial(item, _shuffled(shown, rng)) for item, shown in chosen]
    for number in range(settings.attention_checks):
        # Never the first page: raters have to learn what a page looks like.
        trials.insert(rng.randint(1, len(trials)), _check(study, number + rater, rng))
    return tuple(trials)


def _check(study: Study, number: int, rng: random.Random) -> Trial:
    """A page with a known answer: the original itself, and an unrelated picture; a rating shows one of the two."""
    candidates = {item: others for item, others in study.unrelated.items() if others}
    item = rng.choice(list(candidates))
    pictures = (SAME, _OTHER + rng.choice(candidates[item]))
    shown = (pictures[number % 2],) if study.settings.kind == "rating" else _shuffled(pictures, rng)
    return Trial(item, shown, is_check=True)


def _shuffled(names: Iterable[str], rng: random.Random) -> tuple[str, ...]:
    ordered = sorted(names)  # the order of a set differs between processes
    return tuple(rng.sample(ordered, len(ordered)))


def other_item(shown: str) -> str | None:
    """The item whose original a check shows as the unrelated picture; None for any other picture."""
    return shown.removeprefix(_OTHER) if shown.startswith(_OTHER) else None


def check_known(study: Study, trials: Iterable[Trial]) -> None:
    """Check that the study still has the pictures on these pages. Raises `InputError`."""

    def has(item: Item | None, shown: str) -> bool:
        return item is not None and (shown in item.pictures or (shown == SAME and bool(item.originals)))

    for trial in trials:
        for shown in trial.shown:
            other = other_item(shown)
            item, name = (other, SAME) if other else (trial.item, shown)
            if not has(study.items.get(item), name):
                what = f"item '{item}'" if item not in study.items else f"'{name}' of item '{item}'"
                raise InputError(
                    f"{study.answers} has a page with {what}, which the study no longer has: put it back, or move the "
                    "answers file away to start again"
                )
