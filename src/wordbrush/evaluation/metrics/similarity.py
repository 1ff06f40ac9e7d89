"""Scores on embeddings: similarity of pictures to texts, to other pictures, and to the edit that the texts describe.

All take unit vectors, as `Clip` and `Encoder` in `backbones` give them, and all answer once for each generated or
edited picture, so that spreads and intervals can be had; a protocol's number is the mean of the answers. Only
`text_similarity_of_mean` has one answer for all.

    clip_t(clip.images(made), clip.texts(prompts)).mean()

Scores of two networks are never comparable, and scores that look alike here have different names for a reason:
DreamBooth's 0.3 and Custom Diffusion's 0.8 can be the same picture.
"""

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from wordbrush.errors import InputError

# Below this, a difference of two unit vectors is rounding, and its direction means nothing.
_NO_CHANGE = 1e-5

Vectors = Float[Tensor, "n d"]
References = Float[Tensor, "m d"]
Scores = Float[Tensor, " n"]


def clip_t(pictures: Vectors, prompts: Vectors) -> Scores:
    """DreamBooth's CLIP-T: cos(picture, its prompt), −1 to 1; near 0.3 for a CLIP ViT-B/32.

    Protocol: 30 subjects × 25 prompts × 4 pictures, averaged. Left open: which CLIP, which preprocessing, and
    whether the rare word stays in the prompt. Usual, and ours: ViT-B/32, its own processor, the prompt without
    the rare word ("a dog in the snow").
    """
    return _cosines(pictures, prompts)


def clip_i(generated: Vectors, real: References) -> Scores:
    """DreamBooth's CLIP-I: for each generated picture, its mean cosine with all real pictures of the subject.

    Protocol and what was left open as for `clip_t`. Also Textual Inversion's image score: 64 pictures of "A photo
    of S*" against the training pictures, ViT-B/32. A set scored against itself (the papers' "real images" row)
    includes each picture's cosine with itself, which is 1; we do not take it out, as nothing says they did.
    """
    return _mean_cosines(generated, real)


def dino_i(generated: Vectors, real: References) -> Scores:
    """DreamBooth's DINO: as `clip_i`, on the CLS token of DINO's ViT-S/16 (`facebook/dino-vits16`).

    Its PRES is this same number on pictures of the bare class against those of the subject, where lower is
    better. Left open: the preprocessing; ours is DINO's own, 256 bicubic, middle 224. Pictures that score above
    the real ones among themselves (0.774 in the paper) are copies.
    """
    return _mean_cosines(generated, real)


def text_alignment(pictures: Vectors, prompts: Vectors) -> Scores:
    """Custom Diffusion's text-alignment: CLIPScore (Hessel et al. 2021), 2.5·max(cos, 0), 0 to 2.5.

    CLIP ViT-B/32, the modifier token taken out of the prompt; 20 prompts × 50 pictures (DDPM, 50 steps, guidance
    6; the paper also says 200 steps). Not `clip_t`: 0.795 here is a cosine of 0.318. We leave out Hessel's
    "A photo depicts", as the released evaluation does.
    """
    return 2.5 * _cosines(pictures, prompts).clamp(min=0)


def image_alignment(generated: Vectors, targets: References) -> Scores:
    """Custom Diffusion's image-alignment: for each generated picture, its mean cosine with all target pictures.

    CLIP ViT-B/32; prompts and sampling as for `text_alignment`. The formula of `clip_i` under another protocol: with
    two concepts the paper scores each against its own targets, and so should a caller.
    """
    return _mean_cosines(generated, targets)


def clip_score_100(pictures: Vectors, prompts: Vectors) -> Scores:
    """PIE-Bench's CLIP similarity: max(100·cos, 0), torchmetrics' CLIPScore of one picture at a time.

    CLIP ViT-L/14; the whole picture, or the picture blackened outside of the mask ("edited"), against the target
    prompt without its brackets. Differences of about 1 are within what a rerun of the same recipe moves.
    """
    return 100 * _cosines(pictures, prompts).clamp(min=0)


def image_similarity(sources: Vectors, targets: Vectors) -> Scores:
    """InstructPix2Pix's image similarity: cos(E(I₀), E(I₁)), high when little has changed.

    CLIP ViT-L/14, 5,000 pictures a point of the curve. Left open: the preprocessing (the released script's values are
    off, see `directional.run`); ours is the CLIP's own processor.
    """
    return _cosines(sources, targets)


def directional_similarity(
    source_pictures: Vectors, target_pictures: Vectors, source_texts: Vectors, target_texts: Vectors
) -> Scores:
    """Whether the picture changed in the direction of the captions: cos(E(I₁) − E(I₀), E(T₁) − E(T₀)), −1 to 1.

    Gal et al. 2022 (StyleGAN-NADA), InstructPix2Pix's curve: CLIP ViT-L/14, captions of before and after, not the
    instruction; 5,000 pictures a point. Noisy where the captions barely differ. Left open: captions that are equal
    and pictures that did not change. Ours: equal texts have no direction, nan; an unchanged picture gives 0.
    """
    pictures = target_pictures - source_pictures
    texts = target_texts - source_texts
    scores = F.cosine_similarity(pictures, texts, dim=-1)
    scores = scores.masked_fill(pictures.square().sum(-1) < _NO_CHANGE**2, 0)
    return scores.masked_fill(texts.square().sum(-1) < _NO_CHANGE**2, torch.nan)


def text_similarity(pictures: Vectors, prompt: Float[Tensor, " d"]) -> Scores:
    """Textual Inversion's text score as its released code has it: cos(picture, prompt), then averaged.

    64 pictures a prompt, 50 DDIM steps; ViT-B/32, guidance 5; the placeholder left out of the prompt. The paper
    describes `text_similarity_of_mean`.
    """
    return _cosines(pictures, prompt.expand_as(pictures))


def text_similarity_of_mean(pictures: Vectors, prompt: Float[Tensor, " d"]) -> float:
    """Textual Inversion's text score as the paper has it: embeddings averaged first, then one cosine.

    Protocol as for `text_similarity`. Never below the mean of the cosines where that is positive, and further
    above it the more the pictures differ: the two must not share a column. Left open: whether the mean is of
    unit vectors; ours is.
    """
    return F.cosine_similarity(pictures.mean(0), prompt, dim=0).item()


def _cosines(one: Tensor, other: Tensor) -> Scores:
    """Row by row. Raises `InputError` unless there are as many rows on both sides: one text is not repeated."""
    if one.shape != other.shape:
        raise InputError(f"expected pairs of embeddings, got {list(one.shape)} and {list(other.shape)}")
    return (one * other).sum(-1)


def _mean_cosines(each: Vectors, references: References) -> Scores:
    if not len(references):
        raise InputError("expected at least one picture to compare with, got none")
    return (each @ references.T).mean(-1)
