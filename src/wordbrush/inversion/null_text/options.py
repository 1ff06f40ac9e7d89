"""The options of null-text inversion."""

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import Field

from wordbrush.options import InversionOptions

OPTIMIZERS: Mapping[str, Mapping[str, Any]] = {
    "adam": {"inner_steps": 10, "learning_rate": 1e-2, "early_stop": 1e-5, "early_stop_growth": 2e-5},
    "gauss-newton": {"inner_steps": 4, "early_stop": 5e-4, "early_stop_growth": 0.0},
}
"""What an option is for each optimiser, where the user leaves it out. Adam's are the released code's."""


class Options(InversionOptions):
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
