"""Direct inversion (Ju et al. 2024, "PnP Inversion: Boosting Diffusion-based Editing with 3 Lines of Code").

The picture is walked up by unguided DDIM inversion, and during editing the source's row is pinned to that path
while the target's row is left alone (Algorithm 1). The released code finds the offsets to the path in a second
pass; adding them *is* writing the path over the source's latents, which a `Source` does by keeping the path. So
the inversion costs one row a step, and the source's row reconstructs the autoencoder's picture exactly.
"""

from collections.abc import Generator

from jaxtyping import Float
from torch import Tensor

from wordbrush.model import Model
from wordbrush.options import SolvedOptions
from wordbrush.progress import Progress
from wordbrush.sampling import walk_up
from wordbrush.source import Source


def invert(
    model: Model, image: Float[Tensor, "1 3 height width"], prompt: str, options: SolvedOptions
) -> Generator[Progress, None, Source]:
    """Invert a picture in [−1, 1] that `prompt` describes."""
    return (yield from walk_up(model, image, prompt, "direct", options, solver=options.solver))
