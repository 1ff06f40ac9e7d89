"""The flags that name the judges, for the `evaluate` commands that take all of them."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Parameter

if TYPE_CHECKING:
    from wordbrush.evaluation.judges.judges import Judges

Clip = Annotated[
    str,
    Parameter(metavar="NAME", help="the CLIP that judges: pocket (built in), a hub id or a folder"),
]
Encoder = Annotated[
    str,
    Parameter(
        metavar="NAME",
        help="the encoder that judges, in DINO's role: pocket (built in), a hub id or a folder",
    ),
]
LpipsNetwork = Annotated[
    Literal["alex", "vgg", "squeeze"] | None,
    Parameter(help="measure LPIPS on this network instead of the encoder's own distance"),
]
LpipsWeights = Annotated[
    Path | None,
    Parameter(metavar="FILE", help="that network's weights, as torchvision publishes them"),
]


@Parameter(name="*")
@dataclass(frozen=True)
class Judging:
    """Which networks score."""

    clip: Clip = "pocket"
    encoder: Encoder = "pocket"
    lpips: LpipsNetwork = None
    lpips_weights: LpipsWeights = None

    def load(self, device: str | None, *, reader: bool = False) -> "Judges":
        """Load the networks. Raises `OptionsError`, `ModelError`."""
        from wordbrush.evaluation.judges.judges import Judges

        return Judges.load(
            self.clip, self.encoder, self.lpips, self.lpips_weights, reader=reader, device=device
        )
