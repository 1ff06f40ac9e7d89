"""What the papers claim to be better than what, and whether it is here: from paired differences of the subjects."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from wordbrush.evaluation.results.statistics import Interval, interval
from wordbrush.evaluation.subjects.pocket.scores import Score, Scores

Better = Literal["high", "low"]

YES, ONE, MEAN, NOT, OTHERWISE, NOTHING = (
    "yes",
    "one difference alone, which has no interval",
    "in the mean; the interval contains 0",
    "no; the interval contains 0",
    "no, the other way round",
    "not measured",
)


@dataclass(frozen=True)
class Claim:
    """That one way to teach has a better score than another. source: who claims it, and how."""

    better: str
    worse: str
    score: str
    which: Better
    source: str


@dataclass(frozen=True)
class Finding:
    """What became of a claim here: how much better, of how many subjects, and in words. why: why it is not measured."""

    claim: Claim
    by: Interval
    verdict: str
    why: str = ""


_DREAMBOOTH, _CUSTOM = "DreamBooth", "Custom Diffusion"
_TI = "textual-inversion"
_FIDELITY = "DreamBooth, table 1: subject and prompt fidelity above Textual Inversion's"
_PRIOR = "DreamBooth, the prior loss: less drift, more variety, at the price of fidelity"
_NOUN = "DreamBooth, table 4: the class noun"
_KID = "Custom Diffusion: the category is kept (KID)"
_ALIGNED = "Custom Diffusion, table 1"
_TWO = "Custom Diffusion, two concepts: joint ≥ merged ≥ sequential"

CLAIMS: Sequence[Claim] = (
    Claim("dreambooth", _TI, "dino", "high", _FIDELITY),
    Claim("dreambooth", _TI, "clip_i", "high", _FIDELITY),
    Claim("dreambooth", _TI, "clip_t", "high", _FIDELITY),
    Claim("dreambooth", _TI, "near", "high", f"{_FIDELITY}; by the truth"),
    Claim("dreambooth", "dreambooth-no-prior", "pres", "low", _PRIOR),
    Claim("dreambooth", "dreambooth-no-prior", "div", "high", _PRIOR),
    Claim("dreambooth-no-prior", "dreambooth", "dino", "high", _PRIOR),
    Claim(
        "dreambooth", "dreambooth-no-prior", "class_drift", "low", f"{_PRIOR}; by the model's own pictures"
    ),
    Claim("dreambooth-no-prior", "dreambooth-wrong-noun", "dino", "high", _NOUN),
    Claim("dreambooth-no-prior", "dreambooth-no-noun", "dino", "high", _NOUN),
    Claim("dreambooth-wrong-noun", "dreambooth-no-noun", "dino", "high", _NOUN),
    Claim("custom-diffusion", "base", "kid", "low", _KID),
    Claim("custom-diffusion-all", "custom-diffusion", "kid", "low", _KID),
    Claim("custom-diffusion", "custom-diffusion-no-regularisation", "kid", "low", _KID),
    Claim("custom-diffusion", "custom-diffusion-generated", "kid", "low", _KID),
    Claim(
        "custom-diffusion-sizes",
        "custom-diffusion",
        "image_alignment",
        "high",
        "Custom Diffusion, ablation",
    ),
    Claim(
        "custom-diffusion",
        "custom-diffusion-frozen-word",
        "image_alignment",
        "high",
        "Custom Diffusion, ablation",
    ),
    Claim("custom-diffusion", _TI, "text_alignment", "high", _ALIGNED),
    Claim(_TI, "custom-diffusion", "image_alignment", "high", _ALIGNED),
    Claim("custom-diffusion", "custom-diffusion-all", "image_alignment", "high", _ALIGNED),
    Claim("custom-diffusion", "dreambooth", "text_alignment", "high", "CustomConcept101"),
    Claim("dreambooth", "custom-diffusion", "image_alignment", "high", "CustomConcept101"),
    Claim("joint", "merged", "image_alignment", "high", _TWO),
    Claim("merged", "sequential", "image_alignment", "high", _TWO),
    Claim("joint", "dreambooth-two", "image_alignment", "high", "CustomConcept101, two concepts"),
    Claim("joint", "dreambooth-two", "text_alignment", "high", "CustomConcept101, two concepts"),
)


def findings(scores: Scores, claims: Sequence[Claim] = CLAIMS) -> list[Finding]:
    """What becomes of each claim."""
    return [_found(claim, scores) for claim in claims]


def _found(claim: Claim, scores: Scores) -> Finding:
    groups = scores.groups(claim.better)
    better, worse = scores.of(claim.better, claim.score), scores.of(claim.worse, claim.score)
    sign = 1.0 if claim.which == "high" else -1.0
    by = interval([_difference(a, b, sign) for a, b in zip(better, worse, strict=True)], groups)
    why = ""
    if not by.count:
        absent = [way for way in (claim.better, claim.worse) if not scores.has(way)]
        marked = [way for way in (claim.better, claim.worse) if claim.score in scores.read.get(way, ())]
        why = (
            f"{' and '.join(absent)} not made"
            if absent
            else f"{' and '.join(marked)} read the judge"
            if marked
            else ""
        )
    return Finding(claim, by, verdict(by), why)


def verdict(by: Interval) -> str:
    """What a mean of paired differences with its interval says of a claim that it is above 0."""
    if not by.count:
        return NOTHING
    if by.low != by.low:
        return ONE
    if by.low > 0:
        return YES
    if by.high < 0:
        return OTHERWISE
    return MEAN if by.mean > 0 else NOT


def _difference(better: Score, worse: Score, sign: float) -> Score:
    return None if better is None or worse is None else sign * (better - worse)
