"""What to compare: a picture or a seed, target prompts, and the ways to edit; checked before any work."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from wordbrush import api, editing, inversion, methods
from wordbrush.errors import InputError, OptionsError, PromptError
from wordbrush.filenames import unique
from wordbrush.model import Model
from wordbrush.options import SolvedOptions, parse
from wordbrush.words import Word, align

SEED = "seed"
"""An inversion of a generated source: the run that generated it, which needs no inverting."""

Chosen = Sequence[str] | Mapping[str, Mapping[str, Any]]


@dataclass(frozen=True, eq=False)
class Truth:
    """What is known of one target's true answer; pictures of any size are cropped and scaled to the model's.

    image: the true answer. mask: white where the change belongs, black where the source should stay.
    """

    image: api.ImageOrPath | None = None
    mask: api.ImageOrPath | None = None


@dataclass(frozen=True, eq=False)
class Request:
    """One picture or prompt pair, and the ways to edit it.

    picture: a picture or file; None: it is generated from `seed`, and "seed" is one of the inversions by default.
    prompt: what it shows. targets: what the edits show.
    inversions, methods: names, or names with their options; by default all there are, with their defaults, each method
    after the inversions that suit it.
    words: to be shown in heat maps of source and edits; a word that only one of two prompts has is shown in the other
    by the word in its place.
    truths: one for each target, in order, or none.
    suited: edit by a method only after the inversions that suit it (`Method.after`); None: where none are named.
    pairs: inversions and the methods that edit after them; by default every one after every other, or as suits.
    """

    picture: api.ImageOrPath | None
    prompt: str | None
    targets: str | Sequence[str]
    seed: int | None = None
    inversions: Chosen | None = None
    methods: Chosen | None = None
    words: Sequence[str] = ()
    truths: Sequence[Truth] = ()
    suited: bool | None = None
    pairs: Sequence[tuple[str, str]] | None = None

    def checked(self) -> "Checked":
        """The request with defaults filled in. Raises `OptionsError` and `PromptError` for what cannot be done."""
        if (self.picture is None) == (self.seed is None):
            given = "neither" if self.picture is None else "both"
            raise OptionsError(f"expected a picture file, or --seed N to generate one, got {given}")
        if self.prompt is None or not self.prompt.strip():
            raise PromptError('expected --source to say what to generate, as in --source "a cat on a beach"')
        targets = (self.targets,) if isinstance(self.targets, str) else tuple(dict.fromkeys(self.targets))
        if not targets:
            raise PromptError("expected at least one target prompt, got none")
        if not all(target.strip() for target in targets):
            raise PromptError("expected --target to say what to see, got nothing")
        if self.truths and len(self.truths) != len(targets):
            raise OptionsError(
                f"expected one truth for each of {len(targets)} targets, got {len(self.truths)}"
            )
        is_generated = self.picture is None
        inversions = _chosen(self.inversions, inversion.METHODS, "inversion", is_generated=is_generated)
        edits = _chosen(self.methods, editing.METHODS, "editing")
        suited = self.inversions is None if self.suited is None else self.suited
        pairs = tuple(
            (name, method)
            for name in inversions
            for method in edits
            if (
                (name, method) in self.pairs
                if self.pairs is not None
                else not suited or editing.suits(method, name)
            )
        )
        return Checked(
            self.picture,
            self.prompt,
            targets,
            self.seed,
            {name: options for name, options in inversions.items() if name in dict(pairs)},
            edits,
            pairs,
            self.words,
            self.truths or [Truth()] * len(targets),
        )


@dataclass(frozen=True, eq=False)
class Checked:
    """A request with its defaults filled in; inversions and methods by their names in the tables.

    pairs: the inversions and the methods that edit after them.
    """

    picture: api.ImageOrPath | None
    prompt: str
    targets: tuple[str, ...]
    seed: int | None
    inversions: Mapping[str, Mapping[str, Any]]
    methods: Mapping[str, Mapping[str, Any]]
    pairs: tuple[tuple[str, str], ...]
    words: Sequence[str]
    truths: Sequence[Truth]

    @property
    def prompts(self) -> list[str]:
        """Every prompt of the comparison, negative ones too."""
        options = (*self.inversions.values(), *self.methods.values())
        return [self.prompt, *self.targets, *(each.get("negative_prompt") or "" for each in options)]

    @property
    def generating(self) -> Mapping[str, Any]:
        """The options that the source is generated with: those of "seed", or the first inversion's that apply."""
        options = self.inversions.get(SEED, next(iter(self.inversions.values())))
        return {name: value for name, value in options.items() if name in SolvedOptions.model_fields}


def truths(images: Sequence[Path], masks: Sequence[Path], targets: int) -> list[Truth]:
    """A truth for each target from files in the targets' order, or none. Raises `OptionsError` for other numbers."""
    for flag, paths in (("--truth", images), ("--mask", masks)):
        if paths and len(paths) != targets:
            raise OptionsError(
                f"expected {flag} once for each of {targets} targets, in their order, got {len(paths)}"
            )
    missing = [None] * targets
    pairs = zip(images or missing, masks or missing, strict=True)
    return [Truth(*pair) for pair in pairs] if images or masks else []


def paths(folder: Path, request: Checked) -> dict[tuple[str, str, str], Path]:
    """The file of each edit by target, inversion and method."""
    names = zip(request.targets, unique(request.targets, taken=("sheet", "preview")), strict=True)
    return {
        (target, *pair): folder / methods.typed(f"{name}.{'.'.join(pair)}.png")
        for target, name in names
        for pair in request.pairs
    }


def _chosen(
    given: Chosen | None, table: Mapping[str, methods.Method[Any]], kind: str, *, is_generated: bool = False
) -> dict[str, dict[str, Any]]:
    """Names as in the table, with their options, checked. Raises `OptionsError`."""
    if given is None:
        given = [SEED, *table] if is_generated else list(table)
    options = given if isinstance(given, Mapping) else dict.fromkeys(given, dict[str, Any]())
    if not options:
        raise OptionsError(f"expected at least one {kind} method, got none")
    for name, values in options.items():
        if name == SEED and kind == "inversion":
            if not is_generated:
                raise OptionsError(
                    f"'{SEED}' is no inversion of a picture, it is for pictures that --seed N generates: leave the "
                    f"picture or '{SEED}' out"
                )
            parse(SolvedOptions, values)
        else:
            parse(methods.find(table, name, kind).options(), values)
    return {methods.key(name): dict(values) for name, values in options.items()}


# Against the prompts ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Look:
    """A word whose attention is shown: its name in the source's prompt and in a target's, where it is there."""

    source: str | None
    target: str | None


def impossible(model: Model, request: Checked) -> dict[tuple[str, str], str]:
    """Why a method cannot do a target, by method and target. Raises the first reason if none can do any."""
    reasons: dict[tuple[str, str], str] = {}
    first: InputError | None = None
    for method, options in request.methods.items():
        for target in request.targets:
            try:
                api.check_edit(model, request.prompt, [target], method=method, options=options)
            except InputError as error:
                reasons[method, target] = str(error)
                first = first or error
    if first is not None and len(reasons) == len(request.methods) * len(request.targets):
        raise first
    return reasons


def looks(model: Model, request: Checked) -> dict[str, list[Look]]:
    """For each target the words to show. Raises `PromptError` for a word that is in none of the prompts."""
    for word in request.words:
        if not any(model.read(prompt).has(word) for prompt in (request.prompt, *request.targets)):
            model.read(request.prompt).find(word)
    return {target: _looks(model, request.prompt, target, request.words) for target in request.targets}


def _looks(model: Model, prompt: str, target: str, words: Sequence[str]) -> list[Look]:
    """For each word its name in both prompts: its own, or that of the word it is aligned with."""
    before, after = model.read(prompt), model.read(target)
    matches = [(match.source, match.target) for match in align(before, after).matches]
    found: list[Look] = []
    for word in words:
        look = Look(word if before.has(word) else None, word if after.has(word) else None)
        if look.source is None and look.target is not None:
            there = set(after.find(word))
            look = replace(look, source=_name(next((s for s, t in matches if there & set(t)), ())))
        elif look.target is None and look.source is not None:
            there = set(before.find(word))
            look = replace(look, target=_name(next((t for s, t in matches if there & set(s)), ())))
        if look != Look(None, None) and look not in found:
            found.append(look)
    return found


def _name(words: Sequence[Word]) -> str | None:
    return " ".join(word.text for word in words if not word.is_punctuation) or None
