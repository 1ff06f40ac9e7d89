"""Background reconstruction: a decoder that learns one picture (Avrahami et al. 2023, section 4.2).

An autoencoder loses detail, so a picture that was decoded differs from the photograph outside of the mask, too. The
decoder's weights are optimised for this picture and this mask:

    θ* = argmin_θ ‖D_θ(z_0) ⊙ m − x̂ ⊙ m‖² + λ ‖D_θ(z_0) ⊙ (1 − m) − x ⊙ (1 − m)‖²,    x̂ = D(z_0)

x is the photograph, z_0 the edited latents. In contrast to pasting, what is beside the mask's edge is drawn by one
network. As in the released code the norms are means over all pixels, and the optimiser is Adam. The code encodes the
decoded edit once more; here z_0 are the edit's own latents, as in the equation.
"""

from collections.abc import Generator

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from wordbrush.editing.blended_latent.options import Options
from wordbrush.fit import fit
from wordbrush.model import Model
from wordbrush.options import FitOptions, parse
from wordbrush.progress import Progress


def reconstructed(
    model: Model,
    z_0: Float[Tensor, "1 c h w"],
    picture: Float[Tensor, "1 3 height width"],
    mask: Float[Tensor, "1 1 height width"],
    options: Options,
) -> Generator[Progress, None, Float[Tensor, "3 height width"]]:
    """The decoded edit, with the picture's own outside of the mask as far as the decoder learns it; both in [−1, 1]."""
    m = (mask > 0.5).float().to(model.device)
    x, drawn = picture.to(m), model.decode(z_0).to(m)
    decoder, weights = model.autoencoder.learning()

    def loss(_: int) -> tuple[Tensor, int]:
        now = decoder.decode(z_0, gradients=True)
        inside, outside = F.mse_loss(now * m, drawn * m), F.mse_loss(now * (1 - m), x * (1 - m))
        return inside + options.preservation_ratio * outside, 0  # no row of the UNet

    told = {"steps": options.decoder_steps, "learning_rate": options.decoder_rate}
    settings = parse(FitOptions, {**told, "weight_decay": 0.0, "max_norm": None})
    for step in fit(weights, loss, settings):
        yield Progress("reconstructing the background", step.number, step.total)
    return decoder.decode(z_0)[0].cpu()
