"""Custom Diffusion (Kumari et al. 2023): what the UNet reads from the text learns, and a new word for each thing.

Of the UNet the keys and values of cross-attention learn, K = W_k c and V = W_v c, a twentieth of it, under

    E ‖m ⊙ (ε − ε_θ(z_t, t, c))‖² / ‖m‖² + λ E ‖ε′ − ε_θ(z′_t′, t′, c_pr)‖²

with as many rows of each: pictures of the things under prompts with their words, and pictures of their classes under
their own. A picture of a thing is seen in many sizes, and m is 1 where it is (`Examples`). The words are vectors behind
the text encoders' tables, through which gradients go.

Every prompt begins with the same token. What K and V say there is left as it is: it gets no gradient.
"""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from wordbrush.concept import Concept, Placeholder
from wordbrush.concept.weights import Full
from wordbrush.errors import OptionsError
from wordbrush.fit import generator
from wordbrush.model import Model
from wordbrush.model.sharing import shared
from wordbrush.training import rare_tokens
from wordbrush.training.custom_diffusion.options import Options
from wordbrush.training.examples import PREFIXES
from wordbrush.training.new_words import require_new, starts, with_words
from wordbrush.training.prior import preserving
from wordbrush.training.task import Learned, Loss, Task, Trainee, learned_in, require_words

_READS_TEXT = (".attn2.to_k", ".attn2.to_v")


def attached(task: Task, options: Options) -> Trainee:
    """The model with words that mean what they start from, and weights of its own, which are the base's. Raises
    `OptionsError`, `PromptError`."""
    model = task.model
    for token in options.token:
        require_new(model, token)
    words = {token: starts(model, text, options.vectors) for token, text in _starts(model, options).items()}
    networks, vectors = with_words(model, words)
    unet = networks["unet"]
    own = {
        name: weight.detach().to(learned_in(weight), copy=True)
        for name, weight in unet.named_parameters()
        if options.layers == "all" or name.removesuffix(".weight").endswith(_READS_TEXT)
    }
    networks["unet"] = unet = shared(unet, own)
    for name, layer in unet.named_modules():
        if name.endswith(_READS_TEXT):
            layer.register_forward_hook(partial(_start_detached, model.text.context))
    learning = model.taught(
        networks,
        {**model.text.placeholders, **{token: len(own[0]) for token, own in words.items()}},
        words=[word for prompt in (*_learned_before(model), *options.prompts) for word in prompt.split()],
    )
    learning.read(_joined([*_learned_before(model), *options.prompts]))
    for prompt in (*options.prompts, *filter(None, task.pictures.captions)):
        for prefix in ("", *(PREFIXES if options.sizes else ())):
            require_words(learning, "prompt", prefix + prompt)
    parameters = {f"unet.{name}": each for name, each in unet.named_parameters() if name in own}
    if not options.train_word:
        return Trainee(learning, parameters, _joined(options.prompts))
    return Trainee(
        learning,
        {**parameters, **vectors},
        _joined(options.prompts),
        learns_text=True,
        words=options.token,
        rates=dict.fromkeys(vectors, options.word_learning_rate),
    )


def loss(trainee: Trainee, task: Task, options: Options, number: int) -> Loss:
    """The loss of a forward pass."""
    batch = task.examples.batch(number, options.batch_size, task.share, sizes=options.sizes)
    prompts = [
        prefix + (task.pictures.captions[k] or options.prompts[task.pictures.thing(k)])
        for k, prefix in zip(batch.pictures, batch.prefixes, strict=True)
    ]
    return preserving(trainee, task, options, number, batch, prompts)


def export(trainee: Trainee, task: Task, options: Options, learned: Learned) -> Concept:
    """The words and the weights that learned; of a model that was taught before, its words and weights too."""
    model = task.model
    networks: dict[str, Any] = trainee.model.networks
    vectors = {
        part: learned.get(part, network.get_input_embeddings().vectors.detach())
        for part, network in networks.items()
        if part != "unet"
    }
    words = {token: own for use in model.uses for token, own in use.concept.placeholders.items()}
    first = 0
    for token, text in _starts(model, options).items():
        initial = starts(model, text, options.vectors)
        own = slice(first, first + len(initial[0]))
        words[token] = Placeholder(tuple(each[own].clone() for each in vectors.values()), initial)
        first = own.stop
    before = {name for use in model.uses for name in use.concept.weights}
    kept = {
        name: weight.detach()
        for part, network in networks.items()
        for each, weight in network.named_parameters()
        if (name := f"{part}.{each}") in before
    }
    weights = {name: Full(own) for name, own in {**kept, **learned}.items() if name not in vectors}
    prompt = _joined([*_learned_before(model), *options.prompts])
    concept = task.concept("custom_diffusion", options, prompt, placeholders=words, weights=weights)
    pictures = [picture for use in model.uses for picture in use.concept.pictures]
    return replace(concept, pictures=(*pictures, *concept.pictures))


def _start_detached(
    context: int, layer: Any, given: Any, projected: Float[Tensor, "rows tokens channels"]
) -> Float[Tensor, "rows tokens channels"]:
    """The same, without gradients at the token that every prompt begins with; context: tokens of a chunk."""
    is_start = torch.arange(projected.shape[1], device=projected.device) % context == 0
    return torch.where(is_start[:, None], projected.detach(), projected)


def _starts(model: Model, options: Options) -> dict[str, str]:
    """What each word starts from: what the user says, or a rare word that no other word has started from."""
    if options.init:
        return dict(zip(options.token, options.init, strict=True))
    rare = [each.text for each in rare_tokens.candidates(model)]
    tokens = (*model.text.placeholders, *options.token)
    if len(rare) < len(tokens):
        raise OptionsError(
            f"option 'init': expected what each word starts from, as {model.base.name} has too few rare words, got "
            "nothing: say --init"
        )
    found: dict[str, str] = {}
    # By the word itself, so that words that are trained apart begin apart: merging cannot tell equal ones from another.
    for token in tokens:
        place = int(torch.randint(len(rare), (1,), generator=generator(options.seed, token)))
        while rare[place % len(rare)] in found.values():
            place += 1
        found[token] = rare[place % len(rare)]
    return {token: found[token] for token in options.token}


def _learned_before(model: Model) -> list[str]:
    """The prompts of what a model was taught before."""
    return [use.concept.prompt for use in model.uses]


def _joined(prompts: Sequence[str]) -> str:
    """One prompt with all things."""
    first, *others = prompts
    return " and ".join([first, *(other.removeprefix("photo of ") for other in others)])
