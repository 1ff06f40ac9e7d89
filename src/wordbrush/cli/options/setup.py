"""The flags of every command that computes: the model, the machine, and how to report."""

from dataclasses import dataclass
from typing import Annotated

from cyclopts import Group, Parameter

import wordbrush
from wordbrush import options
from wordbrush.cli.terminal import Terminal

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
Json = Annotated[bool, Parameter(help="one line of JSON on stdout, everything else on stderr", group=_GROUP)]


@Parameter(name="*")
@dataclass(frozen=True)
class Setup:
    """The model, the machine, and how to report."""

    model: Model = "pocket"
    device: Device = None
    dtype: DType = None
    json: Json = False

    @property
    def terminal(self) -> Terminal:
        """The terminal that the command writes to."""
        return Terminal(as_json=self.json)

    def load(self, *, fetch: bool = True) -> "wordbrush.Model":
        """Load the model. fetch: whether a hub id may be fetched. Raises `ModelError`."""
        with self.terminal.busy(f"loading {self.model}"):
            import diffusers
            import transformers

            for library in (diffusers, transformers):
                library.utils.logging.set_verbosity_error()
                library.utils.logging.disable_progress_bar()
            return wordbrush.Model.load(self.model, device=self.device, dtype=self.dtype, fetch=fetch)


POCKET = Setup()
