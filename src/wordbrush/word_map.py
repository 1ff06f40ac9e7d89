"""A word's cross-attention map, averaged over the steps of a trajectory."""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from wordbrush.attention import plain
from wordbrush.local_blend import WordMaps
from wordbrush.model import Conditioning, Model
from wordbrush.rows import Rows
from wordbrush.schedule import Schedule


def sampled(schedule: Schedule, samples: int = 10) -> range:
    """The steps of a trajectory at which a word's map is read; each takes one row of the UNet."""
    return range(0, schedule.steps, max(1, schedule.steps // samples))


@torch.no_grad()
def word_map(
    model: Model,
    prompt: str,
    word: str,
    trajectory: Float[Tensor, "steps_plus_1 c h w"],
    schedule: Schedule,
    *,
    samples: int = 10,
) -> Float[Tensor, "height width"]:
    """The mean cross-attention map of `word` in `prompt`, scaled to [0, 1], at the size of the latents.

    The conditional prediction is computed again at `samples` evenly spaced steps of the trajectory, and the word's
    column is averaged over heads, steps and the sites at which local blend reads maps (Hertz et al. 2022,
    figure 4). Raises `PromptError` if the prompt has no such word.
    """
    column = model.read(prompt).indicator([word])
    text = Conditioning(model.encode_text([prompt]))
    height, width = trajectory.shape[-2:]
    maps = WordMaps(
        plain, column[None, :, None], lambda _: Rows(1, ("text",)), model.map_positions((height, width))
    )
    for i in sampled(schedule, samples):
        model.predict(trajectory[i : i + 1].to(model.device), schedule.levels[i], text, attend=maps, step=i)
    heat = F.interpolate(maps.mean, size=(height, width), mode="bilinear")[0, 0].cpu().float()
    return (heat - heat.min()) / (heat.max() - heat.min()).clamp(min=1e-12)
