"""Textual Inversion (Gal et al. 2023): a new word whose vectors are the only thing that learns.

v* = argmin_v E ‖ε − ε_θ(z_t, t, c_θ(y(v)))‖² (eq. 2), where y is one of many neutral prompts with the word in it.

The vectors are a parameter of their own, behind the table of the text encoder. So no other row can move: the usual way,
which trains the table and puts its rows back after each step, exists because AdamW's weight decay moves rows without a
gradient. With several text encoders (SDXL) the word has vectors in each. N vectors start from the tokens of the initial
word in turn. Progressive vectors are those of the paper's ablation (section 5.3).
"""

import torch
from jaxtyping import Float
from torch import Tensor

from wordbrush.concept import Concept, Placeholder
from wordbrush.errors import OptionsError, PromptError, short
from wordbrush.model import Model
from wordbrush.model.sharing import shared, with_vectors
from wordbrush.training.objective import losses
from wordbrush.training.task import Learned, Loss, Task, Trainee, learned_in
from wordbrush.training.textual_inversion.options import Options

OBJECT = (
    "a photo of {}", "a close-up photo of {}", "a good photo of {}", "a cropped photo of {}", "a bright photo of {}",
    "a dark photo of {}", "a photo of a clean {}", "a photo of my {}", "a photo of one {}", "a photo of the {}",
    "a rendition of {}", "the photo of {}", "a picture of {}", "a small photo of {}", "a large photo of {}",
)  # fmt: skip
STYLE = (
    "a painting in the style of {}", "a picture in the style of {}", "a drawing in the style of {}",
    "a close-up painting in the style of {}", "a bright painting in the style of {}", "art in the style of {}",
    "a dark painting in the style of {}", "a small painting in the style of {}", "a scene in the style of {}",
)  # fmt: skip


def attached(task: Task, options: Options) -> Trainee:
    """The model with the new word, which means its initial word. Raises `OptionsError`, `PromptError`."""
    model = task.model
    _require_token(model, options.token)
    tokens = len(_ids(model, 0, options.init))
    count = tokens if options.vectors is None else options.vectors
    if options.progressive and len(options.progressive) != count - 1:
        raise OptionsError(
            f"option 'progressive': expected the steps at which vectors 2 to {count} come, {count - 1} of them, got "
            f"{len(options.progressive)}"
        )
    initial = tuple(_initial(model, i, options.init, count) for i in range(len(model.text.encoders)))
    networks = dict(model.networks)
    networks["unet"] = shared(networks["unet"])
    parts = [part for part in networks if part != "unet"]
    for part, vectors, tokenizer in zip(parts, initial, model.text.tokenizers, strict=True):
        networks[part] = with_vectors(networks[part], vectors.clone(), tokenizer.eos_token_id).eval()
    learning = model.taught(networks, {options.token: count})
    vectors = {part: networks[part].get_input_embeddings().vectors for part in parts}
    for prompt in _prompts(options):
        learning.read(prompt)
    firsts = (0, *options.progressive) if options.progressive else ()
    stages = {first: model.taught(networks, {options.token: n}) for n, first in enumerate(firsts, 1)}

    def begin(step: int) -> None:
        """Vectors that come later start from the initial word, whatever weight decay has made of them."""
        for place, first in enumerate(options.progressive, 1):
            if step == first:
                for parameter, start in zip(vectors.values(), initial, strict=True):
                    parameter.data[place] = start[place]

    prompt = f"a photo of {options.token}"
    return Trainee(learning, vectors, prompt, learns_text=True, begin=begin, stages=stages)


def loss(trainee: Trainee, task: Task, options: Options, number: int) -> Loss:
    """The mean of eq. 2 over the rows of a forward pass."""
    batch = task.examples.batch(number, options.batch_size, task.share)
    known = _prompts(options)
    prompts = [known[int(choice * len(known))] for choice in batch.choices]
    text = trainee.text(prompts, number // options.accumulate)
    return losses(trainee.model, batch, text, options.snr_gamma).mean(), len(prompts)


def export(trainee: Trainee, task: Task, options: Options, learned: Learned) -> Concept:
    """The word, with what it was at the start."""
    initial = [_initial(task.model, i, options.init, len(each)) for i, each in enumerate(learned.values())]
    word = Placeholder(tuple(learned.values()), tuple(initial))
    return task.concept("textual_inversion", options, trainee.prompt, placeholders={options.token: word})


def _prompts(options: Options) -> list[str]:
    """The prompts that the word is learned in."""
    templates = options.templates or (OBJECT if options.kind == "object" else STYLE)
    return [template.replace("{}", options.token) for template in templates]


def _initial(model: Model, encoder: int, words: str, count: int) -> Float[Tensor, "n d"]:
    """Where `count` vectors start: at the tokens of the words in turn, or at means of neighbours if there are more of
    those."""
    table = model.text.encoders[encoder].get_input_embeddings().weight.detach()
    rows = table[_ids(model, encoder, words)].to(learned_in(table))
    if len(rows) > count:
        return torch.stack([part.mean(0) for part in torch.tensor_split(rows, count)])
    return rows[torch.arange(count) % len(rows)]


def _ids(model: Model, encoder: int, words: str) -> list[int]:
    tokenizer = model.text.tokenizers[encoder]
    ids: list[int] = tokenizer(words, add_special_tokens=False, verbose=False)["input_ids"]
    if not ids:
        raise PromptError("expected --init to be a word that the model knows, got nothing")
    return ids


def _require_token(model: Model, token: str) -> None:
    """Raise `OptionsError` for a word that is several, or that every prompt may already have."""
    if not token or any(character.isspace() for character in token):
        raise OptionsError(
            f"option 'token': expected one word without spaces, such as '<my-cat>', got {short(token)}"
        )
    if token[0] + token[-1] != "<>" and len(_ids(model, 0, token)) == 1:
        raise OptionsError(
            f"option 'token': expected a word that the model does not have, got {short(token)}, which would mean "
            f"something else in every prompt: choose '<{token:.40}>'"
        )
