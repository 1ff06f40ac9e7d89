"""What a training method is given, and what it gives back."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from torch import Tensor, nn

from wordbrush.concept import Base, Concept, Placeholder
from wordbrush.concept.weights import Change
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
    """What to learn from: the base, pictures, and their latents. prior: those of the class. share: this process's."""

    model: Model
    pictures: Pictures
    examples: Examples
    prior: Examples | None = None
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


@dataclass(frozen=True, eq=False)
class Trainee:
    """A model that learns: another value than the base, with which it shares everything else.

    parameters: what learns, in float32, by name. prompt: to use the concept in. networks: those that gradients go
    through, besides the UNet. rates: learning rates of their own. begin: is called before each step.
    """

    model: Model
    parameters: Mapping[str, nn.Parameter]
    prompt: str
    networks: tuple[str, ...] = ()
    rates: Mapping[str, float] = field(default_factory=dict[str, float])
    begin: Callable[[int], object] = lambda step: None
    _texts: dict[str, TextEmbeds] = field(default_factory=dict[str, TextEmbeds])

    def text(self, prompts: list[str]) -> Conditioning:
        """The prompts' conditions, one row each; encoded once where the text does not learn."""
        if self.networks:
            return Conditioning(self.model.encode_text(prompts, gradients=True))
        for prompt in prompts:
            if prompt not in self._texts:
                self._texts[prompt] = self.model.encode_text([prompt])
        return Conditioning(TextEmbeds.concat([self._texts[prompt] for prompt in prompts]))
