"""The networks that score, as one value: a CLIP, an encoder, a perceptual distance and the world reader."""

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from wordbrush.backbones import Clip, Encoder, load_clip, load_encoder
from wordbrush.errors import OptionsError
from wordbrush.evaluation.judges.reader import Reader
from wordbrush.evaluation.metrics.perceptual import Lpips, Net, PocketDistance, load_lpips
from wordbrush.inputs import sha256
from wordbrush.model import POCKET
from wordbrush.records import fingerprint

_SHIPPED = ("judge", "encoder", "reader")  # their folders in the built-in model's
_PROTOCOL = 2  # to be increased when the meaning of any score changes


@dataclass(frozen=True, eq=False)
class Judges:
    """A CLIP, an encoder in DINO's role, a perceptual distance, and the reader, which knows the built-in world only."""

    clip: Clip
    encoder: Encoder
    distance: PocketDistance | Lpips
    reader: Reader | None = None

    @staticmethod
    def load(
        clip: str = "pocket",
        encoder: str = "pocket",
        lpips: Net | None = None,
        lpips_weights: str | Path | None = None,
        *,
        reader: bool = False,
        device: str | None = None,
    ) -> "Judges":
        """The shipped judges, or checkpoints by hub id or folder.

        lpips, lpips_weights: the network behind LPIPS and the file of its weights; without them the distance is the
        encoder's own. reader: load the world reader as well. device: by default the accelerator if there is one.
        Raises `OptionsError` for one of `lpips` and `lpips_weights` without the other, `ModelError` for a network
        that cannot be loaded, or a device that is not there.
        """
        if (lpips is None) != (lpips_weights is None):
            raise OptionsError("expected --lpips NET and --lpips-weights FILE together, got one of them")
        network = load_encoder(encoder, device)
        return Judges(
            load_clip(clip, device),
            network,
            load_lpips(lpips, lpips_weights, device=device)
            if lpips is not None and lpips_weights is not None
            else PocketDistance(network),
            Reader.load(device=device) if reader else None,
        )

    @property
    def names(self) -> dict[str, str]:
        """Which networks these are: scores by different networks cannot be compared."""
        names = {"CLIP": self.clip.name, "encoder": self.encoder.name, "distance": self.distance.name}
        return names if self.reader is None else names | {"reader": self.reader.name}

    @cached_property
    def hash(self) -> str:
        """Changes with any of the networks: a score by other judges has to be computed again.

        The shipped networks and those in folders are identified by their weights, those of the hub by their ids.
        """
        shipped: dict[str, str] = json.loads((POCKET / "manifest.json").read_text())["files"]
        weights = {path: digest for path, digest in shipped.items() if path.split("/")[0] in _SHIPPED}
        for folder in (Path(self.clip.name), Path(self.encoder.name)):
            weights |= {str(path): sha256(path) for path in sorted(folder.glob("*.safetensors"))}
        return fingerprint(_PROTOCOL, self.names, weights)
