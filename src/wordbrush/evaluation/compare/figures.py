"""The comparisons that papers print, as ways to edit; `wordbrush compare --figure NAME` draws one of any picture."""

from collections.abc import Mapping
from dataclasses import dataclass

from wordbrush.errors import OptionsError, nearest
from wordbrush.methods import typed


@dataclass(frozen=True)
class Figure:
    """pairs: inversions and the methods that edit after them, in the order of the paper."""

    summary: str
    pairs: tuple[tuple[str, str], ...]


FIGURES: Mapping[str, Figure] = {
    "prompt-to-prompt": Figure(
        "Hertz et al. 2022, Table 1: VQGAN+CLIP, Text2LIVE, the fixed seed, Prompt-to-Prompt",
        (
            ("straight", "vqgan_clip"),
            ("straight", "text2live"),
            ("straight", "fixed_seed"),
            ("straight", "prompt_to_prompt"),
        ),
    ),
    "null-text": Figure(
        "Mokady et al. 2023, methods without a mask: Text2LIVE, VQGAN+CLIP, SDEdit, Prompt-to-Prompt after null-text",
        (
            ("straight", "text2live"),
            ("straight", "vqgan_clip"),
            ("straight", "sdedit"),
            ("null_text", "prompt_to_prompt"),
        ),
    ),
    "null-text-masks": Figure(
        "Mokady et al. 2023, methods with a mask: Blended Diffusion, inpainting, blended latents; Prompt-to-Prompt "
        "after null-text, which needs none",
        (
            ("straight", "blended_diffusion"),
            ("straight", "inpainting"),
            ("straight", "blended_latent"),
            ("null_text", "prompt_to_prompt"),
        ),
    ),
}


def figure(name: str) -> Figure:
    """The figure of that name. Raises `OptionsError`, naming the nearest."""
    if typed(name) not in FIGURES:
        raise OptionsError(f"there is no figure '{name}'{nearest(name, FIGURES)}")
    return FIGURES[typed(name)]
