"""The options of the inversions that iterate; nothing here imports torch."""

from pydantic import Field, model_validator

from wordbrush.options import InversionOptions


class FixedPointOptions(InversionOptions):
    """How often each step is improved."""

    iterations: int = Field(
        2, ge=0, le=100, description="how often each step asks the network again, at most (0: DDIM inversion)"
    )
    tolerance: float = Field(
        0.0,
        ge=0,
        description="root mean square of a change of the latents below which a step is done (0: never)",
    )


class ReNoiseOptions(InversionOptions):
    """How often each step is improved, and which of its noises are averaged."""

    renoise_steps: int = Field(
        2, ge=0, le=100, description="how often each step asks the network again (0: DDIM inversion)"
    )
    average_from: int = Field(
        1,
        ge=0,
        le=100,
        description="the first of a step's noises that is averaged; 0 is DDIM inversion's own",
    )
    average_late: int = Field(
        1, ge=0, le=100, description="the same in the noisier steps, whose timesteps are 250 and more"
    )

    @model_validator(mode="after")
    def _averages_some(self) -> "ReNoiseOptions":
        for name in ("average_from", "average_late"):
            if getattr(self, name) > self.renoise_steps:
                raise ValueError(
                    f"option '{name}': expected at most renoise_steps, {self.renoise_steps}, got "
                    f"{getattr(self, name)}: there would be nothing to average"
                )
        return self
