"""Editing methods: from a request to pictures. One file or folder a method, one line each in this table."""

from collections.abc import Generator, Mapping
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from wordbrush.methods import Method
from wordbrush.progress import Progress

if TYPE_CHECKING:
    from wordbrush.model import Model
    from wordbrush.request import EditRequest, Need
    from wordbrush.result import Result


@runtime_checkable
class EditingMethod(Protocol):
    """What an editing method's module has."""

    NEEDS: "frozenset[Need]"
    """What of a request it reads besides the targets and the options."""

    def plan(self, model: "Model", request: "EditRequest") -> object:
        """Raise what is wrong with the request, before any work; the source may not be there yet, its prompt is."""
        ...

    def edit(self, model: "Model", request: "EditRequest") -> "Generator[Progress, None, list[Result]]":
        """Edit into each of the targets; one result per target, in order."""
        ...


DEFAULT = "prompt_to_prompt"

METHODS: Mapping[str, Method[EditingMethod]] = {
    "prompt_to_prompt": Method(
        "wordbrush.editing.prompt_to_prompt.method",
        "cross-attention edits: swap, add or reweight words, keep the layout",
        "wordbrush.editing.prompt_to_prompt.options",
    ),
}
