"""Textual Inversion (Gal et al. 2023): a new word whose vectors are the only thing that learns.

v* = argmin_v E ‖ε − ε_θ(z_t, t, c_θ(y(v)))‖² (eq. 2), where y is one of many neutral prompts with the word in it.

The vectors are a parameter of their own, behind the table of the text encoder. So no other row can move: the usual way,
which trains the table and puts its rows back after each step, exists because AdamW's weight decay moves rows without a
gradient. With several text encoders (SDXL) the word has vectors in each. N vectors start from the tokens of the initial
word in turn. Progressive vectors are those of the paper's ablation (section 5.3).
"""

from wordbrush.concept import Concept, Placeholder
from wordbrush.errors import OptionsError
from wordbrush.training.new_words import require_new, starts, with_words
from wordbrush.training.objective import losses
from wordbrush.training.task import Learned, Loss, Task, Trainee
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
    require_new(model, options.token)
    initial = starts(model, options.init, options.vectors)
    count = len(initial[0])
    if options.progressive and len(options.progressive) != count - 1:
        raise OptionsError(
            f"option 'progressive': expected the steps at which vectors 2 to {count} come, {count - 1} of them, got "
            f"{len(options.progressive)}"
        )
    networks, vectors = with_words(model, {options.token: initial})
    learning = model.taught(networks, {options.token: count})
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
    word = Placeholder(tuple(learned.values()), starts(task.model, options.init, options.vectors))
    return task.concept("textual_inversion", options, trainee.prompt, placeholders={options.token: word})


def _prompts(options: Options) -> list[str]:
    """The prompts that the word is learned in."""
    templates = options.templates or (OBJECT if options.kind == "object" else STYLE)
    return [template.replace("{}", options.token) for template in templates]
