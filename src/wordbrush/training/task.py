"""What a training method is given, and what it gives back."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from wordbrush.concept import Base, Concept, Placeholder
from wordbrush.concept.weights import Change
from wordbrush.errors import PromptError, short
from wordbrush.fit import ALONE, Share
from wordbrush.model import Conditioning, Model, TextEmbeds
from wordbrush.options import FitOptions
from wordbrush.training.examples import Examples
from wordbrush.training.pictures import Pictures

Learned = Mapping[str, Tensor]
"""What was learned, by the names of a trainee's parameters."""

Loss = tuple[Tensor, int]
"""The mean loss of a forward pass, and the rows that the UNet computed for it."""


@dataclass(frozen=True, eq=False)
class Task:
    """What to learn from: the base, pictures, and their latents.

    prior: the pictures of the class. prior_prompts: what each of them shows. share: this process's.
    """

    model: Model
    pictures: Pictures
    examples: Examples
    prior: Examples | None = None
    prior_prompts: tuple[str, ...] = ()
    share: Share = ALONE

    def concept(
        self,
        method: str,
        options: FitOptions,
        prompt: str,
        *,
        placeholders: Mapping[str, Placeholder] | None = None,
        weights: Mapping[str, Change] | None = None,
    ) -> Concept:
        """The concept of what was learned."""
        return Concept(
            method=method,
            prompt=prompt,
            base=Base(name=self.model.name, hash=self.model.base_hash),
            placeholders=placeholders or {},
            weights=weights or {},
            options=options.deciding(),
            seed=options.seed,
            pictures=self.pictures.records,
        )


def learned_in(weight: Tensor) -> torch.dtype:
    """What a weight learns in: float32, or float64 where it is."""
    return torch.promote_types(weight.dtype, torch.float32)


@dataclass(frozen=True, eq=False)
class Trainee:
    """A model that learns: another value than the base, with which it shares everything else. Its UNet is its own.

    parameters: what learns, in float32, by name. prompt: to use the concept in. learns_text: whether gradients go
    through the text encoders. rates: learning rates of their own. begin: is called before each step. stages: where what
    a prompt says changes during the training, the models from each of these steps on. words: those that learn, if
    nothing else of the text does.
    """

    model: Model
    parameters: Mapping[str, nn.Parameter]
    prompt: str
    learns_text: bool = False
    rates: Mapping[str, float] = field(default_factory=dict[str, float])
    begin: Callable[[int], object] = lambda step: None
    stages: Mapping[int, Model] = field(default_factory=dict[int, Model])
    words: tuple[str, ...] = ()
    _texts: dict[str, TextEmbeds] = field(default_factory=dict[str, TextEmbeds])

    def at(self, step: int) -> Model:
        """The model as it is in a step, the first of which is 0."""
        begun = [first for first in self.stages if first <= step]
        return self.stages[max(begun)] if begun else self.model

    def text(self, prompts: Sequence[str], step: int = 0) -> Conditioning:
        """The prompts' conditions in a step, one row each. Equal ones are encoded once; where the text does not learn,
        once in all steps."""
        distinct = list(dict.fromkeys(prompts))
        learning = [prompt for prompt in distinct if self._learns(prompt)]
        embeds = self.at(step).encode_text(learning, gradients=True) if learning else None
        if embeds is not None and len(learning) == len(distinct):
            return Conditioning(embeds[[distinct.index(prompt) for prompt in prompts]])
        for prompt in distinct:
            if prompt not in learning and prompt not in self._texts:
                self._texts[prompt] = self.model.encode_text([prompt])
        known = (
            self._texts
            if embeds is None
            else {**self._texts, **{p: embeds[[i]] for i, p in enumerate(learning)}}
        )
        return Conditioning(TextEmbeds.concat([known[prompt] for prompt in prompts]))

    def _learns(self, prompt: str) -> bool:
        """Whether what a prompt says changes while the model learns."""
        return self.learns_text and (not self.words or any(word in prompt for word in self.words))


def require_words(model: Model, name: str, prompt: str) -> None:
    """Raise `PromptError` for a prompt that does not fit the model, or has no words. name: the option's."""
    if all(word.is_punctuation for word in model.read(prompt).words):
        raise PromptError(f"option '{name}': expected some words, got {short(prompt)}")
