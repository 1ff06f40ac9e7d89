"""A contender: an editing method after an inversion, with the options of both; and how every protocol runs one.

    contender = Contender("prompt_to_prompt", "direct", {"self_replace_steps": 0.4}, {"steps": 20})
    source = drain(contender.invert(model, "cat.png", "a cat on a beach"))
    (result,) = drain(contender.edit(model, source, ["a dog on a beach"]))
    result.save("dog.png")

What a run costs is measured by `results.cost.measured`.
"""

from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from wordbrush import api, editing, inversion, methods
from wordbrush.errors import WordbrushError
from wordbrush.images import Pixels
from wordbrush.masks import Where
from wordbrush.model import Model
from wordbrush.options import Options, parse
from wordbrush.progress import Progress
from wordbrush.result import Result
from wordbrush.source import Source


@dataclass(frozen=True)
class Contender:
    """An editing method after an inversion, and the options given to each.

    true_mask: whether it is told where the answer differs from the picture, by a protocol that knows: an upper bound,
    whose name says so.
    """

    method: str
    inversion: str
    options: Mapping[str, Any] = field(default_factory=dict[str, Any])
    inversion_options: Mapping[str, Any] = field(default_factory=dict[str, Any])
    true_mask: bool = False

    @property
    def label(self) -> str:
        """Its name in tables, folders and rows: `direct+prompt-to-prompt`."""
        label = methods.typed(f"{self.inversion}+{self.method}")
        return f"{label}, true mask" if self.true_mask else label

    @property
    def reads(self) -> frozenset[str]:
        """The judges that its method has read, whose scores say nothing of it (`Method.reads`)."""
        return methods.find(editing.METHODS, self.method, "editing").reads

    @property
    def inversion_class(self) -> type[Options]:
        """The inversion's `Options`. Raises `OptionsError` if there is no such inversion."""
        return methods.find(inversion.METHODS, self.inversion, "inversion").options()

    @property
    def editing_class(self) -> type[Options]:
        """The editing method's `Options`. Raises `OptionsError` if there is no such method."""
        return methods.find(editing.METHODS, self.method, "editing").options()

    def check(self) -> None:
        """Raise `OptionsError` for an unknown method, and for options that the methods do not accept."""
        parse(self.inversion_class, self.inversion_options)
        parse(self.editing_class, self.options)

    def invert(self, model: Model, picture: Pixels, prompt: str) -> Generator[Progress, None, Source]:
        """Invert a picture that shows `prompt`. Raises like `wordbrush.invert`."""
        options = self.inversion_options
        return (yield from api.invert_steps(model, picture, prompt, method=self.inversion, options=options))

    def edit(
        self, model: Model, source: Source, targets: Sequence[str], where: Where = api.ANYWHERE
    ) -> Generator[Progress, None, list[Result]]:
        """Edit a source into several targets, in one batch. Raises like `wordbrush.edit`."""
        options = self.options
        return (
            yield from api.edit_steps(
                model, source, targets, method=self.method, options=options, where=where
            )
        )

    def attempt(
        self,
        model: Model,
        source: Source,
        targets: Sequence[str],
        failures: tuple[type[Exception], ...] = (WordbrushError,),
        where: Where = api.ANYWHERE,
    ) -> Generator[Progress, None, list["Outcome"]]:
        """Edit a source into several targets in one batch, and decode the pictures.

        A batch that raises one of `failures` is edited again one target at a time, so that a target which the method
        cannot edit does not lose the others; its outcome holds the reason.
        """
        try:
            results = yield from self.edit(model, source, targets, where)
            for result in results:
                _ = result.rendering  # decoded here: the autoencoder may fail too
            return [Outcome(result) for result in results]
        except failures as error:
            if len(targets) == 1:
                return [Outcome(error=reason(error))]
        outcomes: list[Outcome] = []
        for target in targets:
            outcomes += yield from self.attempt(model, source, [target], failures, where)
        return outcomes


@dataclass(frozen=True, eq=False)
class Outcome:
    """The result for a target, or the reason why there is none."""

    result: Result | None = None
    error: str | None = None


def reason(error: BaseException) -> str:
    """Why an edit failed, in one line; the error's type comes first where it is not one of ours."""
    text = " ".join(str(error).split())
    return text if isinstance(error, WordbrushError) else f"{type(error).__name__}: {text}"
