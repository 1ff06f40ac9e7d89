"""The options of null-text inversion."""

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import Field

from wordbrush.options import MaybeSaid, ProximalOptions

OPTIMIZERS: Mapping[str, Mapping[str, Any]] = {
    "adam": {"inner_steps": 10, "learning_rate": 1e-2, "early_stop": 1e-5, "early_stop_growth": 2e-5},
    "gauss-newton": {"inner_steps": 4, "early_stop": 5e-4, "early_stop_growth": 0.0},
}
"""What an option is for each optimiser, where the user leaves it out. Adam's are the released code's."""

_ADAM = frozenset(OPTIMIZERS["adam"])

ABLATIONS: Mapping[str, frozenset[str]] = {
    "none": _ADAM,
    "random-pivot": _ADAM | {"ablation_seed"},
    "random-caption": _ADAM | {"ablation_caption"},
    "global-null": _ADAM - {"early_stop_growth"},
    "textual-inversion": frozenset({"inner_steps", "learning_rate", "ablation_seed"}),
    "pivotal-caption": _ADAM - {"early_stop_growth"},
    "autoencoder": frozenset(),
}
"""The paper's ablations, and which of the options about the optimisation each reads."""


class Options(ProximalOptions):
    """How to invert."""

    null_optimizer: Literal["adam", "gauss-newton"] = Field(
        "adam",
        description="adam is the published loop, from no text; gauss-newton starts from the prompt's embedding and "
        "takes few steps, none where the error is small already: as near to the picture at a sixth of the cost",
    )
    inner_steps: int | None = Field(
        None,
        ge=0,
        le=1000,
        description="optimisation steps for each sampling step, at most (default: 10; gauss-newton 4)",
    )
    learning_rate: float | None = Field(
        None, gt=0, le=1, description="Adam's rate at the first sampling step (default: 0.01)"
    )
    early_stop: float | None = Field(
        None,
        ge=0,
        description="mean squared error to the pivot that ends a step's optimisation (default: 1e-5; gauss-newton "
        "5e-4)",
    )
    early_stop_growth: float | None = Field(
        None, ge=0, description="how much that error may grow with each step (default: 2e-5; gauss-newton 0)"
    )
    source_guidance_scale: float | None = Field(
        None,
        ge=0,
        le=100,
        description="guidance that the embeddings are found at (default: the edits' own)",
    )
    ablation: Literal[
        "none",
        "random-pivot",
        "random-caption",
        "global-null",
        "textual-inversion",
        "pivotal-caption",
        "autoencoder",
    ] = Field(
        "none",
        description="what the paper compares with: one noise for the pivots; another caption; one null embedding for "
        "all steps; learning the caption, with and without pivots; and the picture as the autoencoder has it",
    )
    ablation_caption: MaybeSaid = Field(
        "", description="the caption that random-caption inverts the picture with, in place of the prompt"
    )
    ablation_seed: int | None = Field(
        None,
        ge=0,
        lt=2**63,
        description="of the noise of random-pivot and textual-inversion (default: 0)",
    )
