"""The three protocols that measure personalisation, each a function of one subject and the embeddings of its pictures.

A score is None where the pictures that it needs are missing. A paper's number is the mean of the subjects' scores,
each of which is a mean over the subject's pictures: with as many pictures for each subject and prompt as in the
papers, that is the mean over all pictures.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from wordbrush import images
from wordbrush.evaluation.judges.judges import Judges
from wordbrush.evaluation.metrics import similarity
from wordbrush.evaluation.metrics.distribution import kid
from wordbrush.evaluation.subjects.format import Subject

Name = Literal["dreambooth", "custom-diffusion", "textual-inversion"]
Text = Literal["token-free", "with-token"]
SelfPairs = Literal["excluded", "included"]
Scores = dict[str, float | None]


@dataclass(frozen=True)
class Rules:
    """The choices that the papers left open.

    `text`: whether the token stays in the prompts that CLIP reads. `self_pairs`: whether a real picture is compared
    with itself, cosine 1, where the real pictures replace generated ones. `kid_subset`: pictures in a subset of the
    kernel distance.
    """

    text: Text = "token-free"
    self_pairs: SelfPairs = "excluded"
    kid_subset: int = 50


class Seen:
    """The embeddings and distances of pictures; each picture is opened and embedded once, all in float64."""

    def __init__(self, judges: Judges) -> None:
        self.judges = judges
        self._clip: dict[Path, Tensor] = {}
        self._encoder: dict[Path, Tensor] = {}
        self._texts: dict[str, Tensor] = {}
        self._spread: dict[tuple[Path, ...], float] = {}

    def look(self, paths: Iterable[Path]) -> None:
        """Embed the pictures that have not been seen before. Raises `ImageError` for a file that is not a picture."""
        fresh = [path for path in paths if path not in self._clip]
        if not fresh:
            return
        pictures = [images.load(path) for path in fresh]
        of_clip, of_encoder = self.judges.clip.images(pictures), self.judges.encoder.images(pictures)
        self._clip |= zip(fresh, of_clip.double().cpu(), strict=True)
        self._encoder |= zip(fresh, of_encoder.double().cpu(), strict=True)

    def clip(self, paths: Sequence[Path]) -> Float[Tensor, "n d"]:
        """CLIP's unit vectors of pictures; the list may be empty."""
        self.look(paths)
        return _stacked([self._clip[path] for path in paths])

    def encoder(self, paths: Sequence[Path]) -> Float[Tensor, "n d"]:
        """The encoder's unit vectors of pictures; the list may be empty."""
        self.look(paths)
        return _stacked([self._encoder[path] for path in paths])

    def text(self, text: str) -> Float[Tensor, " d"]:
        """A text's unit vector. Raises `PromptError` if it is too long for CLIP."""
        if text not in self._texts:
            self._texts[text] = self.judges.clip.texts([text])[0].double().cpu()
        return self._texts[text]

    def kid(self, made: Sequence[Path], true: Sequence[Path], subset_size: int) -> float:
        """The kernel distance ×10³ of two sets of pictures, by the encoder's features."""
        loaded = [[images.load(path) for path in paths] for paths in (made, true)]
        return kid(self.judges.encoder, *loaded, subset_size=subset_size).mean

    def spread(self, paths: Sequence[Path]) -> float | None:
        """The mean perceptual distance of all pairs of pictures; None for fewer than two.

        Pictures of other sizes are fitted to the size of the first.
        """
        if len(paths) < 2:
            return None
        key = tuple(paths)
        if key not in self._spread:
            pictures = [images.load(path) for path in paths]
            width, height = pictures[0].size
            pairs = list(combinations([images.fit(picture, width, height) for picture in pictures], 2))
            distances: list[float] = []
            for first in range(0, len(pairs), 32):  # a pair's feature maps are large
                one, other = zip(*pairs[first : first + 32], strict=True)
                distances += self.judges.distance.distances(one, other)
            self._spread[key] = sum(distances) / len(distances)
        return self._spread[key]


def dreambooth(subject: Subject, seen: Seen, rules: Rules) -> Scores:
    """DreamBooth's five scores (Ruiz et al. 2023, section 4.1 and its supplement).

    - `dino`, `clip_i`: the mean cosine of every generated picture with every real one; higher is more faithful.
    - `clip_t`: the mean cosine of a generated picture and its prompt.
    - `pres`: `dino` of pictures of the bare class against the real subject; lower means that the class is better
      preserved. Needs `_class`.
    - `div`: the mean perceptual distance of two pictures of one prompt, averaged over prompts; LPIPS in the paper.
    - `real_dino`, `real_clip_i`: the real pictures in place of the generated ones.
    - `copying`: 1 if `dino` is above that of the real pictures among themselves (each with the others), else 0: a
      method that varies the scene as the prompts ask cannot be more similar to the real pictures than they are to one
      another. `nearest`: the mean cosine of a generated picture with the real one nearest to it, 1 for a copy.

    Protocol: 30 subjects × 25 prompts × 4 pictures; DINO ViT-S/16. Left open: which CLIP, the preprocessing, whether
    the token stays in the text of `clip_t`, whether the real pictures' row counts a picture's similarity to itself, how
    many class pictures there are, the LPIPS network, and the sampler. Here: the judges are the networks, `rules`
    decides on text and self-pairs, all class pictures count, and the folder's listing names the sampler.
    """
    made = _all(subject.made)
    real = seen.encoder(subject.real)
    scores: Scores = {
        "dino": _mean(similarity.dino_i, seen.encoder(made), real),
        "clip_i": _mean(similarity.clip_i, seen.clip(made), seen.clip(subject.real)),
        "clip_t": _mean(similarity.clip_t, seen.clip(made), _texts(subject, seen, rules)),
        "pres": _mean(similarity.dino_i, seen.encoder(subject.class_made), real),
        "div": _average(seen.spread(paths) for paths in subject.made),
        "real_dino": among(real, rules.self_pairs),
        "real_clip_i": among(seen.clip(subject.real), rules.self_pairs),
        "nearest": (seen.encoder(made) @ real.T).amax(-1).mean().item() if made else None,
    }
    bound = among(real, "excluded")
    if scores["dino"] is not None and bound is not None:
        scores["copying"] = float(scores["dino"] > bound)
    return scores


def custom_diffusion(subject: Subject, seen: Seen, rules: Rules) -> Scores:
    """Custom Diffusion's scores (Kumari et al. 2023, section 4), and the one that CustomConcept101 adds.

    - `text_alignment`: 2.5·max(cos, 0) of a generated picture and its prompt, averaged; no cosine, see
      `similarity.text_alignment`.
    - `image_alignment`: the mean cosine of every generated picture with every target picture, by CLIP;
      `image_alignment_dino`: the same by DINO.
    - `kid`: the kernel distance ×10³ between real pictures of the category and pictures generated from their captions
      by the personalised model: has it forgotten the category, or does the subject leak into it? Needs
      `category/<class>` and `_category`, with at least `rules.kid_subset` pictures each.

    Protocol: CLIP ViT-B/32, V* taken out of the text; 20 prompts × 50 pictures a concept (CustomConcept101: 20 × 5),
    DDPM, 50 steps, guidance 6, though the text says 200 as well; KID of 500 real pictures of the category from
    LAION-400M and 1,000 generated ones. Left open: KID's library and subset size. Here: features of the judges'
    encoder instead of Inception's, so that the number cannot be compared with a printed one, and `rules.kid_subset`.
    """
    made = _all(subject.made)
    enough = min(len(subject.category_real), len(subject.category_made)) >= rules.kid_subset
    return {
        "text_alignment": _mean(similarity.text_alignment, seen.clip(made), _texts(subject, seen, rules)),
        "image_alignment": _mean(similarity.image_alignment, seen.clip(made), seen.clip(subject.real)),
        "image_alignment_dino": _mean(
            similarity.image_alignment, seen.encoder(made), seen.encoder(subject.real)
        ),
        "kid": seen.kid(subject.category_made, subject.category_real, rules.kid_subset) if enough else None,
    }


def textual_inversion(subject: Subject, seen: Seen, rules: Rules) -> Scores:
    """Textual Inversion's two scores (Gal et al. 2022, section 5.3), and its two reference points.

    - `reconstruction`: the mean cosine by CLIP of every picture of "A photo of S*" with every real picture. Needs
      `_photo`.
    - `editability`: for each prompt the cosine of the text and the mean of its pictures' unit vectors, averaged over
      prompts: the paper. `editability_of_code`: the mean of the cosines, as in the released code. The first is the
      larger, and the more so the more its pictures differ: never compare one with the other.
    - `image_only_…`: the real pictures in place of generated ones: the subject without the prompts.
    - `prompt_only_…`: pictures of the prompts without S*, by the model before training: the prompts without the
      subject. Needs `_prompt_only`.

    Protocol: CLIP ViT-B/32; 64 pictures of "A photo of S*", 64 of each prompt, 50 DDIM steps, guidance 5; S* left out
    of the text. Left open: which prompts, whether the mean is of unit vectors, and how the reference points were
    computed in detail. Here: the folder's prompts, unit vectors, `rules.self_pairs` for the real pictures, and the
    pictures of `_prompt_only` scored against the real ones as the generated ones are.
    """
    real = seen.clip(subject.real)
    texts = [_text(subject, prompt, seen, rules) for prompt in subject.prompts]
    by_prompt = [seen.clip(paths) for paths in subject.made]
    without = [seen.clip(paths) for paths in subject.prompt_only]
    return {
        "reconstruction": _mean(similarity.clip_i, seen.clip(subject.photos), real),
        "editability": _over_prompts(similarity.text_similarity_of_mean, by_prompt, texts),
        "editability_of_code": _over_prompts(_mean_of_cosines, by_prompt, texts),
        "image_only_reconstruction": among(real, rules.self_pairs),
        "image_only_editability": _over_prompts(
            similarity.text_similarity_of_mean, [real] * len(texts), texts
        ),
        "image_only_editability_of_code": _over_prompts(_mean_of_cosines, [real] * len(texts), texts),
        "prompt_only_reconstruction": _mean(similarity.clip_i, seen.clip(_all(subject.prompt_only)), real),
        "prompt_only_editability": _over_prompts(similarity.text_similarity_of_mean, without, texts),
        "prompt_only_editability_of_code": _over_prompts(_mean_of_cosines, without, texts),
    }


PROTOCOLS: Mapping[Name, Callable[[Subject, Seen, Rules], Scores]] = {
    "dreambooth": dreambooth,
    "custom-diffusion": custom_diffusion,
    "textual-inversion": textual_inversion,
}


def among(vectors: Float[Tensor, "n d"], self_pairs: SelfPairs) -> float | None:
    """The mean cosine of pictures with one another; None where there is no pair."""
    cosines, count = vectors @ vectors.T, len(vectors)
    if self_pairs == "included":
        return cosines.mean().item() if count else None
    # Of unit vectors the cosines on the diagonal are 1.
    return ((cosines.sum() - cosines.trace()) / (count * (count - 1))).item() if count > 1 else None


def _all(groups: Iterable[Sequence[Path]]) -> list[Path]:
    return [path for group in groups for path in group]


def _text(subject: Subject, prompt: str, seen: Seen, rules: Rules) -> Float[Tensor, " d"]:
    return seen.text(subject.text(prompt, with_token=rules.text == "with-token"))


def _texts(subject: Subject, seen: Seen, rules: Rules) -> Float[Tensor, "n d"]:
    """The prompt of each generated picture, embedded."""
    pairs = zip(subject.prompts, subject.made, strict=True)
    return _stacked([_text(subject, prompt, seen, rules) for prompt, paths in pairs for _ in paths])


def _over_prompts(
    score: Callable[[Tensor, Tensor], float], by_prompt: Sequence[Tensor], texts: Sequence[Tensor]
) -> float | None:
    pairs = zip(by_prompt, texts, strict=False)
    return _average(score(pictures, text) for pictures, text in pairs if len(pictures))


def _mean_of_cosines(pictures: Float[Tensor, "n d"], text: Float[Tensor, " d"]) -> float:
    return similarity.text_similarity(pictures, text).mean().item()


def _mean(score: Callable[[Tensor, Tensor], Tensor], made: Tensor, other: Tensor) -> float | None:
    return score(made, other).mean().item() if len(made) else None


def _average(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


def _stacked(vectors: Sequence[Tensor]) -> Float[Tensor, "n d"]:
    return torch.stack(list(vectors)) if vectors else torch.zeros(0, 0, dtype=torch.float64)
