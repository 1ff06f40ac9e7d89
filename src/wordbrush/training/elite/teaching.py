"""How mappers learn: each row of a batch has a word of its own, and the model says how well the words are drawn.

classroom = Classroom(model, mappers, rows=16)
loss = classroom.loss(lesson, words=1)  # the global mapper: ELITE's eq. 3
loss = classroom.loss(lesson, words=3, gate=0.8)  # the local one: eq. 8
loss.backward()
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from wordbrush.attention import Attend, liken, plain
from wordbrush.model import Conditioning, Model
from wordbrush.model.sharing import shared, with_vectors
from wordbrush.schedule import training_alphas_cumprod
from wordbrush.training.elite.mappers import Mappers
from wordbrush.training.objective import TARGETS


@dataclass(frozen=True, eq=False)
class Lesson:
    """Pictures of things, and other pictures of the same things.

    levels, maps, shown: of the former, as the encoder sees them (`features.Seen`; shown is its region). latents,
    captions: of the latter, with "{}" for the thing. emphasis: how much each latent cell counts. weights: of the rows.
    """

    levels: Sequence[Float[Tensor, "rows _"]]
    latents: Float[Tensor, "rows c h w"]
    captions: Sequence[str]
    noise: Float[Tensor, "rows c h w"]
    timesteps: Int[Tensor, " rows"]
    emphasis: Float[Tensor, "rows h w"]
    weights: Float[Tensor, " rows"]
    maps: Sequence[Float[Tensor, "rows _ _ _"]] = ()
    shown: Float[Tensor, "rows _ _"] | None = None


class Classroom:
    """A model with a word for each row of a batch, whose vectors and likenesses are those of the mappers: gradients go
    through both. The base stays as it is.

    attend: how attention is computed, where another way trains faster.
    """

    def __init__(self, model: Model, mappers: Mappers, rows: int, attend: Attend = plain) -> None:
        self.attend = attend
        self.mappers, self.tokens = mappers, [f"<{row}>" for row in range(rows)]
        self._base, self._models = model, dict[int, Model]()
        self._unet: Any = shared(model.networks["unet"])

    def loss(
        self,
        lesson: Lesson,
        words: int,
        gate: float = 0.0,
        penalty: float = 0.01,
        part_penalty: float = 1e-4,
    ) -> Float[Tensor, ""]:
        """The mean over the rows of ‖ε − ε_θ(z_t, t, c)‖², of each cell as much as it is emphasised, and the mean size
        of the words' vectors, times `penalty`; with a gate that of the parts' values, times `part_penalty`."""
        vectors = self.mappers.vectors(lesson.levels, words)
        regulated = penalty * torch.cat([each.abs().mean((0, 1)) for each in vectors]).mean()
        likenesses = {name: [own] for name, own in self.mappers.likenesses(None).items()}
        if gate:
            assert lesson.shown is not None, "the local mapper reads the patches of the thing"
            cells, shown = self.mappers.cells(lesson.maps, lesson.shown)
            for parts in self.mappers.parts_of(self.tokens[: len(cells)], cells, shown, gate):
                for name, own in parts.items():
                    likenesses[name].append(own)
                    size = cast(Tensor, own.values).abs().mean()
                    regulated = regulated + part_penalty * size / (len(cells) * len(likenesses))
        liken(self._unet, likenesses)
        errors = self._errors(lesson, self._taught(vectors, words))
        return (errors * lesson.weights).mean() + regulated

    def _taught(self, vectors: Sequence[Float[Tensor, "rows n _"]], words: int) -> Model:
        """The model whose words have these vectors."""
        if words not in self._models:
            networks = {**self._base.networks, "unet": self._unet}
            parts = [part for part in networks if part != "unet"]
            for part, each, tokenizer in zip(parts, vectors, self._base.text.tokenizers, strict=True):
                start = each.detach().new_zeros(len(self.tokens) * words, each.shape[-1])
                networks[part] = with_vectors(networks[part], start, tokenizer.eos_token_id)
                del networks[part].get_input_embeddings().vectors  # a parameter; what comes has gradients
            self._models[words] = self._base.taught(networks, dict.fromkeys(self.tokens, words))
        model = self._models[words]
        for encoder, each in zip(model.text.encoders, vectors, strict=True):
            missing = len(self.tokens) - len(each)
            encoder.get_input_embeddings().vectors = F.pad(each, (0, 0, 0, 0, 0, missing)).flatten(0, 1)
        return model

    def _errors(self, lesson: Lesson, model: Model) -> Float[Tensor, " rows"]:
        prompts = [
            caption.replace("{}", token) for caption, token in zip(lesson.captions, self.tokens, strict=False)
        ]
        text = Conditioning(model.encode_text(prompts, gradients=torch.is_grad_enabled()))
        alphas = training_alphas_cumprod(model.schedule_config)[lesson.timesteps]
        signal, sigma = (
            share.sqrt().to(lesson.latents)[:, None, None, None] for share in (alphas, 1 - alphas)
        )
        noisy = signal * lesson.latents + sigma * lesson.noise
        output = model.denoiser.output(noisy, lesson.timesteps.to(noisy.device), text, attend=self.attend)
        target = TARGETS[model.denoiser.prediction](lesson.latents, lesson.noise, signal, sigma)
        squares = (output - target).square().mean(1)
        return (squares * lesson.emphasis).sum((1, 2)) / lesson.emphasis.sum((1, 2))
