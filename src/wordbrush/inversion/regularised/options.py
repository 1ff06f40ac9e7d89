"""The options of regularised DDIM inversion."""

from pydantic import Field

from wordbrush.options import InversionOptions


class Options(InversionOptions):
    """How white the noise of each step is made."""

    rounds: int = Field(5, ge=0, le=100, description="rounds of gradient steps on the noise of each step")
    rolls: int = Field(5, ge=1, le=100, description="random shifts of a round")
    autocorrelation: float = Field(
        20.0, ge=0, le=1000, description="weight of the noise's correlation with itself when shifted"
    )
    divergence: float = Field(
        20.0, ge=0, le=1000, description="weight of how far its mean and variance are from 0 and 1"
    )
    roll_seed: int = Field(0, ge=0, lt=2**63, description="of the shifts")
