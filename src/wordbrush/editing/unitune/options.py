"""The options of UniTune."""

from collections.abc import Mapping
from typing import Any

from pydantic import Field

from wordbrush.options import MaybeSaid
from wordbrush.training.options import OnePictureOptions


class Options(OnePictureOptions):
    """How the picture is learned, and what is drawn of it."""

    rare_words: MaybeSaid = Field(
        "",
        description="what the picture is learned as, and what stands before the target (default: three are drawn)",
    )
    start: float = Field(
        0.0,
        ge=0,
        le=1,
        description="fraction of the run that is left out: the later the picture is noised to, the more of it stays "
        "(1: all of it)",
    )
    guidance_scale: float | None = Field(
        None,
        ge=0,
        le=100,
        description="text guidance, higher than that of ordinary edits (default: by the model)",
    )
    redraw_seed: int = Field(0, ge=0, lt=2**63, description="of the noise: another one is another result")


# The paper's, of Imagen; its rate, 1e-4, is Adafactor's, and says nothing of Adam.
PUBLISHED: Mapping[str, Any] = {"tuning_steps": 128, "tuning_rate": 1e-5, "tuning_batch": 4}

MEASURED: Mapping[str, Mapping[str, Any]] = {
    "pocket": {"tuning_steps": 60, "tuning_rate": 4e-4, "tuning_batch": 1},
}
"""The models for which other defaults were measured, by name, and those."""
