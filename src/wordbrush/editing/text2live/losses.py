"""What CLIP is asked of a picture, of a layer over it, and of the layer alone (sections 3.1 and 3.3)."""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from wordbrush.backbones import Clip
from wordbrush.clip_guidance import cosine_distance, whole

_WINDOWS = 8  # places of the window along each side
_COVERED = 4  # windows beside one another cover the picture


def composition(
    made: Float[Tensor, "n d"],
    before: Float[Tensor, "n d"],
    target: Float[Tensor, "1 d"],
    source: Float[Tensor, "1 d"],
) -> Tensor:
    """L_comp = D_cos(I_o, T) + D_cos(I_o − I_s, T − T_ROI) (eq. 2 and 3), of CLIP's vectors, as a mean over views."""
    moved, asked = F.normalize(made - before, dim=-1), F.normalize(target - source, dim=-1)
    return (cosine_distance(made, target) + cosine_distance(moved, asked.expand_as(moved))).mean()


def structure(made: Float[Tensor, "n c h w"], before: Float[Tensor, "n c h w"]) -> Tensor:
    """L_structure = ‖S(I_s) − S(I_o)‖² (eq. 5), a mean over pairs: S holds the cosines of each two parts."""
    return F.mse_loss(_likeness(made), _likeness(before))


def _likeness(parts: Float[Tensor, "n c h w"]) -> Float[Tensor, "n hw hw"]:
    tokens = F.normalize(parts.flatten(2), dim=1)
    return tokens.transpose(1, 2) @ tokens


def sparsity(alpha: Float[Tensor, "1 1 h w"]) -> Tensor:
    """L_reg = ‖α‖_1 + Ψ_0(α), Ψ_0(x) = 2 sigmoid(5x) − 1 (eq. 6), as means over pixels."""
    return alpha.mean() + (2 * (5 * alpha).sigmoid() - 1).mean()


@torch.no_grad()
def relevance(
    clip: Clip, picture: Float[Tensor, "1 3 h w"], words: Float[Tensor, "1 d"]
) -> Float[Tensor, "1 1 h w"]:
    """Where CLIP finds words in a picture, in [0, 1]: how much it finds them less when a window there is grey.

    The paper's map is Chefer et al. 2021's, which reads the attention of a vision transformer. A window does the same
    for a CLIP of any kind (Zeiler & Fergus 2014, section 4.2).
    """
    square = whole(picture, clip.size)
    side = max(1, clip.size // _COVERED)
    starts = [round(k * (clip.size - side) / (_WINDOWS - 1)) for k in range(_WINDOWS)]
    covers = torch.zeros(_WINDOWS**2, 1, clip.size, clip.size, device=square.device)
    for k, cover in enumerate(covers):
        top, left = starts[k // _WINDOWS], starts[k % _WINDOWS]
        cover[:, top : top + side, left : left + side] = 1
    looks, _ = clip.seen(torch.cat([square, square * (1 - covers)]))
    less = (looks[:1] - looks[1:]) @ words[0]
    found = (less.clamp(min=0)[:, None, None, None] * covers).sum(0) / covers.sum(0)
    scaled = found / found.max().clamp(min=1e-12)
    return F.interpolate(scaled[None], picture.shape[-2:], mode="bilinear", antialias=True)
