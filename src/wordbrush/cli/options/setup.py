"""The flags of every command that computes: the model, the machine, and how to report."""

from dataclasses import dataclass
from typing import Annotated, Literal

from cyclopts import Group, Parameter

import wordbrush
from wordbrush.cli.terminal import Terminal
from wordbrush.imports import libraries, no_collection

_GROUP = Group("Model and machine", sort_key=20)

Model = Annotated[
    str,
    Parameter(help="pocket (built in), a diffusers folder, a .safetensors file or a hub id", group=_GROUP),
]
Device = Annotated[
    str | None, Parameter(help="cpu, cuda, cuda:1 … (default: an accelerator if there is one)", group=_GROUP)
]
DType = Annotated[
    Literal["float32", "bfloat16", "float16"] | None,
    Parameter(help="to compute in (default: float32 on the CPU, float16 elsewhere)", group=_GROUP),
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

    def load(self) -> "wordbrush.Model":
        """Load the model. Raises `ModelError`."""
        with self.terminal.busy(f"loading {self.model}"), no_collection():
            import torch

            for library in libraries():
                library.utils.logging.set_verbosity_error()
                library.utils.logging.disable_progress_bar()
            dtype = None if self.dtype is None else getattr(torch, self.dtype)
            return wordbrush.Model.load(self.model, device=self.device, dtype=dtype)


POCKET = Setup()
