"""The flags of every command that computes: the model, the machine, and how to report."""

import shlex
from collections.abc import Callable, Generator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from timeit import Timer
from typing import TYPE_CHECKING, Annotated

from cyclopts import Group, Parameter

import wordbrush
from wordbrush import options
from wordbrush.cli.options import concepts
from wordbrush.cli.terminal import Terminal
from wordbrush.imports import libraries, no_collection

if TYPE_CHECKING:
    import torch

_GROUP = Group("Model and machine", sort_key=20)

Model = Annotated[
    str,
    Parameter(help="pocket (built in), a diffusers folder, a .safetensors file or a hub id", group=_GROUP),
]
Device = Annotated[
    str | None, Parameter(help="cpu, cuda, cuda:1 … (default: an accelerator if there is one)", group=_GROUP)
]
DType = Annotated[
    options.DType | None,
    Parameter(help="to compute in (default: float32 on the CPU, float16 elsewhere)", group=_GROUP),
]
LongPrompt = Annotated[
    bool,
    Parameter(
        help="read prompts that do not fit the text encoder's context in chunks of it, which no model was trained on",
        group=_GROUP,
    ),
]
Concept = Annotated[
    tuple[str, ...],
    Parameter(
        metavar="FILE[=STRENGTH]",
        help="a learned concept, and how strongly it is applied: 0 not at all, 1 as it was trained (the default); "
        "repeat it for more",
        group=_GROUP,
        negative=(),
        show_default=False,
    ),
]
Json = Annotated[bool, Parameter(help="one line of JSON on stdout, everything else on stderr", group=_GROUP)]


@Parameter(name="*")
@dataclass(frozen=True)
class Setup:
    """The model, the machine, and how to report."""

    model: Model = "pocket"
    device: Device = None
    dtype: DType = None
    concept: Concept = ()
    json: Json = False

    @property
    def files(self) -> list[Path]:
        """The files of the concepts. Raises `OptionsError` for strengths."""
        return [path for text in self.concept for path in concepts.Named.of(text).files]

    @property
    def terminal(self) -> Terminal:
        """The terminal that the command writes to."""
        return Terminal(as_json=self.json)

    def use(self, prompt: str, concept: Path) -> str:
        """What to type for a picture of a prompt with a concept that was just made."""
        model = [] if self.model == POCKET.model else ["--model", self.model]
        picture = str(concept.with_suffix(".png"))
        return shlex.join(
            ["wordbrush", "generate", prompt, "--concept", str(concept), *model, "--out", picture]
        )

    def load(self, *, fetch: bool = True) -> "wordbrush.Model":
        """Load the model, with its concepts; what is doubtful of them is noted. fetch: whether a hub id may be fetched.

        Raises `ModelError`, and `ConceptError` before anything is loaded, where that can be.
        """
        if self.concept:
            concepts.read(self.concept)
        model = _LOADING.get()(self, fetch)
        if model.uses:
            self.terminal.note(concepts.doubts(model))
        return model

    def fresh(self, *, fetch: bool) -> "wordbrush.Model":
        """The model without concepts, whoever keeps models."""
        with self.terminal.busy(f"loading {self.model}"), no_collection():
            for library in libraries():
                library.utils.logging.set_verbosity_error()
                library.utils.logging.disable_progress_bar()
            model = wordbrush.Model.load(self.model, device=self.device, dtype=self.dtype, fetch=fetch)
        if model.device.type == "cpu" and model.dtype.itemsize < 4:
            slowdown = times_float32(model.dtype)
            if slowdown > 2:
                self.terminal.note(
                    [
                        f"{self.dtype} takes {slowdown:.0f} times as long as float32 on this processor, which has no "
                        "instructions for it: leave out --dtype"
                    ]
                )
        return model


Loading = Callable[[Setup, bool], "wordbrush.Model"]


def _loaded(setup: Setup, fetch: bool) -> "wordbrush.Model":
    return concepts.taught(lambda: setup.fresh(fetch=fetch), setup.concept)


_LOADING: ContextVar[Loading] = ContextVar("loading", default=_loaded)


@contextmanager
def loading(load: Loading) -> Generator[None, None, None]:
    """Commands in the block get their model from `load`."""
    token = _LOADING.set(load)
    try:
        yield
    finally:
        _LOADING.reset(token)


def times_float32(dtype: "torch.dtype") -> float:
    """How many times as long as in float32 a small convolution takes on this CPU: measured, in a tenth of a second."""
    import torch

    seconds: list[float] = []
    with torch.no_grad():
        for kind in (dtype, torch.float32):
            picture, kernel = torch.zeros(1, 64, 32, 32, dtype=kind), torch.zeros(64, 64, 3, 3, dtype=kind)
            timer = Timer(lambda picture=picture, kernel=kernel: torch.conv2d(picture, kernel, padding=1))
            seconds.append(min(timer.repeat(4, number=1)))
    return seconds[0] / seconds[1]


POCKET = Setup()
