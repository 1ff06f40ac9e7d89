"""The options of negative-prompt inversion."""

from collections.abc import Mapping

from pydantic import Field

from wordbrush.options import ProximalOptions, SolvedOptions

SCALES: Mapping[str, float] = {"pocket": 1.5}
"""The guidance scale of edits by model, where another than the model's own was measured
(`docs/methods/negative-prompt.md`)."""


class Options(ProximalOptions, SolvedOptions):
    """What takes the steps, and how edits are guided."""

    guidance_scale: float | None = Field(
        None,
        ge=0,
        le=100,
        description="guidance of the edits made from it; the source is the same at any (default: the model's own; with "
        "the built-in model 1.5)",
    )
