"""One option over several values: the same edit each time, but for that option."""

from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any

from wordbrush import api, editing, masks, methods
from wordbrush import inversion as inversions
from wordbrush.errors import OptionsError, PromptError, nearest, short
from wordbrush.images import Pixels
from wordbrush.masks import Where
from wordbrush.methods import key, typed
from wordbrush.model import Model
from wordbrush.options import Options, StrengthOptions, branches, numeric, parse
from wordbrush.progress import Progress, drain, staged
from wordbrush.result import Result
from wordbrush.source import Source

Number = int | float

_QUARTERS = (0.0, 0.25, 0.5, 0.75, 1.0)
_WHOLE, _SCALES = (1, 2, 4, 8, 16), (1.0, 2.0, 3.0, 5.0, 7.5)


@dataclass(frozen=True)
class Swept:
    """A numeric option and its values, checked. kinds: whose option it is, of "strength", "editing", "inversion"."""

    option: str
    values: tuple[Number, ...]
    kinds: frozenset[str]

    @classmethod
    def of(
        cls,
        option: str,
        values: Sequence[Number | str] | None,
        method: str,
        inverting: str | None,
    ) -> "Swept":
        """Find and check what to sweep. values: by default some that suit the option's range.

        inverting: the inversion whose options count too; None where the source is made already. An option that editing
        and inversion have in common is both's, as on the command line. Raises `OptionsError`.
        """
        classes: dict[str, type[Options]] = {"strength": StrengthOptions}
        classes["editing"] = methods.find(editing.METHODS, method, "editing").options()
        if inverting is not None:
            classes["inversion"] = methods.find(inversions.METHODS, inverting, "inversion").options()
        name = key(option)
        owners = {kind: owner for kind, owner in classes.items() if name in numeric(owner)}
        if not owners:
            known = sorted({typed(each) for owner in classes.values() for each in numeric(owner)})
            raise OptionsError(
                f"expected a numeric option to sweep, one of {', '.join(known)}, got {short(option)}"
                f"{nearest(typed(name), known)}"
            )
        if values is None:
            chosen = _suitable(name, [*owners.values()])
        else:
            checked = [[_number(owner, name, value) for owner in owners.values()] for value in values]
            chosen = list(dict.fromkeys(found[0] for found in checked))
        if not chosen:
            raise OptionsError(f"expected at least one value of {typed(name)}, got none")
        return cls(name, tuple(chosen), frozenset(owners))

    def label(self, value: Number) -> str:
        """How a value is named: `self-replace-steps = 0.25`."""
        return f"{typed(self.option)} = {_shown(value)}"

    def file_name(self, value: Number) -> str:
        """The same for a file: `self-replace-steps-0.25`."""
        return f"{typed(self.option)}-{_shown(value)}"


def sweep(
    model: Model,
    source: Source | Pixels,
    target: str,
    option: str,
    values: Sequence[Number] | None = None,
    *,
    prompt: str | None = None,
    inversion: str | None = None,
    inversion_options: Mapping[str, Any] | Options | None = None,
    method: str = editing.DEFAULT,
    options: Mapping[str, Any] | Options | None = None,
    mask: Pixels | None = None,
    mask_words: str | Sequence[str] | None = None,
    keep_words: str | Sequence[str] | None = None,
    on_progress: Callable[[Progress], object] | None = None,
) -> list[Result]:
    """Edit a source into `target` once for each value of an option; everything else as in `edit`.

    option: any numeric option of the editing method or of the inversion, or "strength". values: by default some that
    suit its range: 0, 0.25, 0.5, 0.75, 1 for fractions. A picture is inverted once, and once for each value where the
    option is the inversion's. mask, mask_words, keep_words: where the picture may change, as for `edit`. Raises what
    `edit` raises, for every value before the first is edited.

    >>> model = Model.load("pocket")
    >>> source = from_seed(model, "a cat on a beach", steps=2)
    >>> weak, strong = sweep(model, source, "a dog on a beach", "cross-replace-steps", [0.2, 0.8])
    >>> weak.options, strong.options
    ({'cross_replace_steps': 0.2}, {'cross_replace_steps': 0.8})
    """
    steps = sweep_steps(
        model,
        source,
        target,
        option,
        values,
        prompt=prompt,
        inversion=inversion,
        inversion_options=inversion_options,
        method=method,
        options=options,
        where=masks.read(mask, mask_words, keep_words),
    )
    return drain(steps, on_progress)


def sweep_steps(
    model: Model,
    source: Source | Pixels,
    target: str,
    option: str,
    values: Sequence[Number | str] | None = None,
    *,
    prompt: str | None = None,
    inversion: str | None = None,
    inversion_options: Mapping[str, Any] | Options | None = None,
    method: str = editing.DEFAULT,
    options: Mapping[str, Any] | Options | None = None,
    where: Where = api.ANYWHERE,
) -> Generator[Progress, None, list[Result]]:
    """`sweep` as a generator, for callers that pause, show previews or measure."""
    inverting = None if isinstance(source, Source) else inversion or inversions.default(model.name)
    swept = Swept.of(option, values, method, inverting)
    edits, inverts = _plain(options), _plain(inversion_options)
    for given, kind in ((edits, "editing"), (inverts, "inversion")):
        if swept.option in given and kind in swept.kinds:
            raise OptionsError(f"{typed(swept.option)} is swept: leave its one value out")
    if isinstance(source, Source) and (prompt, inversion, inversion_options) != (None, None, None):
        raise OptionsError("the source already has its prompt and its steps: leave prompt and inversion out")
    said = source.prompt if isinstance(source, Source) else prompt
    if said is None:
        raise PromptError(
            'to sweep edits of a picture, say what it shows: sweep(…, prompt="a cat on a beach")'
        )
    asked = [_asked(swept, value, edits) for value in swept.values]
    for options_, strength in asked:
        api.check_edit(model, said, [target], method=method, options=options_, strength=strength)
    where.check(model, said)
    made = source if isinstance(source, Source) else None
    results: list[Result] = []
    count = len(swept.values)
    yield Progress("sweep", 0, count)
    for done, (value, (options_, strength)) in enumerate(zip(swept.values, asked, strict=True), 1):
        named = partial("{1}, {0}".format, swept.label(value))
        if not isinstance(source, Source) and (made is None or "inversion" in swept.kinds):
            own = {**inverts, swept.option: value} if "inversion" in swept.kinds else inverts
            made = yield from staged(
                api.invert_steps(model, source, said, method=inverting, options=own, mask=where.mask), named
            )
        assert made is not None, "a picture is inverted at its first value"
        editor = api.edit_steps(
            model, made, [target], method=method, options=options_, strength=strength, where=where
        )
        results += yield from staged(editor, named)
        yield Progress("sweep", done, count)
    return results


def _asked(swept: Swept, value: Number, options: Mapping[str, Any]) -> tuple[Mapping[str, Any], float | None]:
    """The options of an edit with this value, and its strength."""
    if "editing" in swept.kinds:
        return {**options, swept.option: value}, None
    return options, float(value) if "strength" in swept.kinds else None


def _plain(given: Mapping[str, Any] | Options | None) -> dict[str, Any]:
    return given.model_dump(exclude_unset=True) if isinstance(given, Options) else dict(given or {})


def _number(owner: type[Options], name: str, value: Number | str) -> Number:
    """A value as its option reads it. Raises `OptionsError`."""
    number = getattr(parse(owner, {name: value}), name)
    if not isinstance(number, int | float):
        raise OptionsError(f"option '{name}': expected a number, got {short(value)}")
    return number


def _suitable(name: str, owners: Sequence[type[Options]]) -> list[Number]:
    """Values that suit an option's range: quarters of a fraction, or a few that make a difference to most others."""

    def accepted(values: Iterable[Number]) -> list[Number]:
        found: list[Number] = []
        for value in values:
            with suppress(OptionsError):
                found.append([_number(owner, name, value) for owner in owners][0])
        return found

    field = owners[0].model_fields[name]
    if float not in branches(field.annotation):
        return accepted(_WHOLE)
    if not accepted([1.01]):
        return accepted(_QUARTERS)
    return accepted(_SCALES)


def _shown(value: Number) -> str:
    return str(value) if isinstance(value, int) else repr(value).removesuffix(".0")
