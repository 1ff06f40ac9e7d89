"""Who sees what, in which order: as equal a number of raters for everything as can be, everything else by chance."""

import random
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from wordbrush.errors import InputError
from wordbrush.evaluation.study.design import Item, Study, Unit

SAME = ":same"  # on a check, the original itself
_OTHER = ":other:"  # and the original of another item


@dataclass(frozen=True)
class Trial:
    """One page: an item and the pictures shown of it, in the order in which they are shown."""

    item: str
    shown: tuple[str, ...]
    """Methods; on a check, `:same` and `:other:ITEM`."""
    is_check: bool = False

    @property
    def unit(self) -> Unit:
        """What its answers are about, whatever the order in which it is shown."""
        return self.item, frozenset(self.shown)


def assign(study: Study, rater: int, taken: Mapping[Unit, int]) -> tuple[Trial, ...]:
    """The pages of the `rater`-th rater; none if everything has been judged often enough.

    taken: how often each unit has been judged or given out. A rater gets those that were taken least, of them those
    whose item, then whose methods were taken least, of them any. So as long as nobody leaves, two units, and two
    items, differ by one at most however many raters have come; and what raters leave unanswered is given to those who
    come later. The same seed, rater and `taken` make the same pages.
    """
    settings = study.settings
    chance = random.Random(f"{settings.seed} {rater}")
    of_item: Counter[str] = Counter()
    of_picture: Counter[str] = Counter()
    for (item, shown), times in taken.items():
        of_item[item] += times
        of_picture.update({each: times for each in shown})
    free = {unit: chance.random() for unit in study.units if taken.get(unit, 0) < settings.raters_per_item}
    chosen: list[Unit] = []
    while free and len(chosen) < settings.pages_per_rater:
        unit = min(
            free,
            key=lambda each: (
                taken.get(each, 0),
                of_item[each[0]],
                sum(of_picture[shown] for shown in each[1]),
                free[each],
            ),
        )
        del free[unit]
        of_item[unit[0]] += 1
        of_picture.update(unit[1])
        chosen.append(unit)
    if not chosen:
        return ()
    chance.shuffle(chosen)
    trials = [Trial(item, _shuffled(shown, chance)) for item, shown in chosen]
    for number in range(settings.attention_checks):
        # Never the first page: what a page looks like has to be learnt first.
        trials.insert(chance.randint(1, len(trials)), _check(study, number + rater, chance))
    return tuple(trials)


def _check(study: Study, number: int, chance: random.Random) -> Trial:
    """A page whose answer is plain: the original itself, and an unrelated picture; a rating shows one of them."""
    candidates = {item: others for item, others in study.unrelated.items() if others}
    item = chance.choice(list(candidates))
    both = (SAME, _OTHER + chance.choice(candidates[item]))
    shown = (both[number % 2],) if study.settings.kind == "rating" else _shuffled(both, chance)
    return Trial(item, shown, is_check=True)


def _shuffled(names: Iterable[str], chance: random.Random) -> tuple[str, ...]:
    ordered = sorted(names)  # a set has another order in every process
    return tuple(chance.sample(ordered, len(ordered)))


def other_item(shown: str) -> str | None:
    """The item whose original a check shows as unrelated."""
    return shown.removeprefix(_OTHER) if shown.startswith(_OTHER) else None


def check_known(study: Study, trials: Iterable[Trial]) -> None:
    """Find out whether the study still has what raters were shown. Raises `InputError`."""

    def has(item: Item | None, shown: str) -> bool:
        return item is not None and (shown in item.pictures or (shown == SAME and bool(item.originals)))

    for trial in trials:
        for shown in trial.shown:
            other = other_item(shown)
            item, name = (other, SAME) if other else (trial.item, shown)
            if not has(study.items.get(item), name):
                what = f"item '{item}'" if item not in study.items else f"'{name}' of item '{item}'"
                raise InputError(
                    f"{study.answers} has a page with {what}, which the study has no more: put it back, or move the "
                    "answers away to begin anew"
                )
