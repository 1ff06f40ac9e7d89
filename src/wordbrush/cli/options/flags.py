"""Command-line flags: those of a method, derived from its `Options`, and the types of those that commands share."""

import functools
import inspect
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin

from cyclopts import Group, Parameter, Token, validators
from pydantic import TypeAdapter, ValidationError
from pydantic.fields import FieldInfo

from wordbrush.errors import OptionsError, nearest, short
from wordbrush.methods import key
from wordbrush.options import WHOLE, Options, branches, parse, read_toml

Given = Mapping[str, str | list[str]]
"""Options as given on the command line, by name: still text."""

# From Options to flags --------------------------------------------------------------------------------------


def with_flags(command: Callable[..., int], **methods: type[Options]) -> Callable[..., int]:
    """`command` with a flag for each option of the given classes, in groups titled by the keywords.

    Where two classes have an option of one name, one flag serves both. The values arrive in the command's keyword
    `given`, as text: a string, or a list of strings for options that take several values.
    """
    derived: dict[str, inspect.Parameter] = {}
    for i, (title, kind) in enumerate(methods.items()):
        group = Group(title, sort_key=10 + i)
        # What has to be said comes first.
        for name, field in sorted(kind.model_fields.items(), key=lambda each: not each[1].is_required()):
            derived.setdefault(name, _flag(name, field, group))

    @functools.wraps(command)
    def run(*args: Any, **values: Any) -> int:
        texts = {name: values.pop(name) for name in derived.keys() & values.keys()}
        given = {name: text for name, text in texts.items() if text is not None}
        return command(*args, **values, given=given)

    signature = inspect.signature(command)
    own = [parameter for name, parameter in signature.parameters.items() if name != "given"]
    assert not derived.keys() & {parameter.name for parameter in own}, "an option has the name of a flag"
    run.__signature__ = signature.replace(parameters=[*own, *derived.values()])  # pyright: ignore[reportAttributeAccessIssue]
    return run


def _flag(name: str, field: FieldInfo, group: Group) -> inspect.Parameter:
    several = any(get_origin(branch) in (dict, tuple) for branch in branches(field.annotation))
    flag = Parameter(
        help=describe(field),
        group=group,
        metavar="TEXT" if WHOLE in field.metadata else metavar(field.annotation),
        allow_leading_hyphen=True,  # numbers below 0
    )
    return inspect.Parameter(
        name,
        inspect.Parameter.KEYWORD_ONLY,
        default=None,
        annotation=Annotated[list[str] | None if several else str | None, flag],
    )


def describe(field: FieldInfo) -> str:
    """An option's help, its range and its default."""
    signs = {"gt": ">", "ge": "≥", "lt": "<", "le": "≤"}
    limits = [
        f"{sign} {getattr(limit, name):g}"
        for limit in field.metadata
        for name, sign in signs.items()
        if hasattr(limit, name)
    ]
    default = None if field.is_required() else field.get_default(call_default_factory=True)
    range_ = f" ({', '.join(limits)})" if limits else ""
    return f"{field.description}{range_}" + (
        f" [default: {default}]" if default not in (None, {}, (), "") else ""
    )


def metavar(annotation: Any) -> str:
    """How a value of this type is typed: `X|X,X`, `TEXT=X`, `auto|replace|refine`."""
    return "|".join(map(_looks, branches(annotation)))


def _looks(branch: Any) -> str:
    arguments = get_args(branch)
    match get_origin(branch) or branch:
        case origin if origin is Literal:
            return "|".join(map(str, arguments))
        case origin if origin is dict:
            return "=".join(metavar(argument) for argument in arguments)
        case origin if origin is tuple:
            return ",".join("…" if argument is Ellipsis else metavar(argument) for argument in arguments)
        case origin:
            return {int: "N", float: "X", bool: "true|false"}.get(origin, "TEXT")


# Flags of the commands themselves ---------------------------------------------------------------------------


_DIGITS = 30  # more than any value has


def _whole(_: type, tokens: Sequence[Token]) -> int:
    text = tokens[0].value
    with suppress(ValueError):
        if len(text) <= _DIGITS:
            return int(text)
    limit = f" of at most {_DIGITS} digits" if len(text) > _DIGITS else ""
    raise ValueError(f"expected a whole number{limit}, got {short(text)}")


# cyclopts rounds: without this, a seed of 1.5 would silently become another one.
Whole = Annotated[int, Parameter(converter=_whole)]
Count = Annotated[Whole, Parameter(metavar="N", validator=validators.Number(gte=1, lte=100_000))]
"""How many cases: a hundred thousand take days, and more than that would fill the memory before they start."""
OptionFile = Annotated[
    Path | None, Parameter(metavar="TOML", help="a file of options; flags take precedence over it")
]
Sheet = Annotated[bool, Parameter(help="also write a sheet: before and after, with captions")]
SaveMask = Annotated[
    bool,
    Parameter(
        help="also write where the edit was free to change the picture, as NAME.mask.png: look at it, correct it with "
        "any paint program, and edit with --mask"
    ),
]
DropMetadata = Annotated[
    bool,
    Parameter(
        help="leave the picture's metadata out, such as where it was taken; its colour profile and orientation stay"
    ),
]
Preview = Annotated[
    Whole | None,
    Parameter(
        metavar="N",
        help="write a preview next to the output every N steps; it is removed at the end",
        validator=validators.Number(gte=1),
    ),
]


# From flags and files to Options ----------------------------------------------------------------------------


def shared(given: Given, option_file: Path | None, *kinds: type[Options]) -> list[dict[str, Any]]:
    """The options of each class, from flags and an option file; flags take precedence.

    Returns for each class the options that differ from its defaults, as plain values. Raises `OptionsError`
    for unknown names and wrong values.
    """
    fields = {name: field for kind in kinds for name, field in kind.model_fields.items()}
    written = read_toml(option_file) if option_file else {}
    values = {key(name): value for name, value in written.items()}
    for name in values:
        if name not in fields:
            raise OptionsError(f"{option_file}: unknown option {short(name)}{nearest(name, fields)}")
    values |= {name: _value(name, fields[name], text) for name, text in given.items()}
    return [
        parse(kind, {name: value for name, value in values.items() if name in kind.model_fields}).model_dump(
            mode="json", exclude_defaults=True
        )
        for kind in kinds
    ]


def superfluous(inversion: str | None, options: Collection[str]) -> list[str]:
    """What only an inversion would use, as messages name it: the inversion, where one is named, and its options."""
    return ["--inversion"] * (inversion is not None) + [f"'{name}'" for name in options]


def _value(name: str, field: FieldInfo, text: str | list[str]) -> Any:
    """The text of one option in the option's shape; its values are still text, and are checked by `parse`."""
    if isinstance(text, str) or WHOLE in field.metadata:
        return text
    annotation: Any = field.annotation
    if any(get_origin(branch) is dict for branch in branches(annotation)):
        pairs: dict[str, Any] = {}
        for pair in text:
            word, equals, value = pair.rpartition("=")
            if not equals:
                raise OptionsError(f"option '{name}': expected {metavar(annotation)}, got {short(pair)}")
            pairs[word.strip()] = value.split(",") if "," in value else value
        return pairs
    pieces = [piece.strip() for part in text for piece in part.split(",")]
    if len(pieces) == 1:
        try:  # the "auto" of auto|TEXT,…
            TypeAdapter(annotation).validate_python(pieces[0])
            return pieces[0]
        except ValidationError:
            pass
    return pieces
