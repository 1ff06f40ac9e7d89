"""The one optimisation loop, its checkpoints and its share of a batch."""

from wordbrush.fit.checkpoints import Checkpoints, State
from wordbrush.fit.loop import Step, fit, generator, rate
from wordbrush.fit.share import ALONE, Share, shared_out

__all__ = ["ALONE", "Checkpoints", "Share", "State", "Step", "fit", "generator", "rate", "shared_out"]
