"""The options of null-text inversion."""

from pydantic import Field

from wordbrush.options import InversionOptions


class Options(InversionOptions):
    """How to invert."""

    inner_steps: int = Field(
        10, ge=0, le=1000, description="optimisation steps for each sampling step, at most"
    )
    learning_rate: float = Field(1e-2, gt=0, le=1, description="Adam's rate at the first sampling step")
    early_stop: float = Field(
        1e-5, ge=0, description="mean squared error to the pivot that ends a step's optimisation"
    )
    early_stop_growth: float = Field(2e-5, ge=0, description="how much that error may grow with each step")
