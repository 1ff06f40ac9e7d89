"""Prior preservation (Ruiz et al. 2023, section 4.3): pictures of the class, which the frozen model makes or which are
given, and the loss that goes with them."""

import re
from collections.abc import Generator, Sequence
from pathlib import Path

from PIL import Image

from wordbrush import provenance, sampling
from wordbrush.attention import Attend
from wordbrush.errors import ImageError, OptionsError, PromptError
from wordbrush.fit import ALONE, Share
from wordbrush.images import Recorded, load, save_png
from wordbrush.model import Model
from wordbrush.progress import Progress
from wordbrush.source import Source
from wordbrush.training import pictures
from wordbrush.training.examples import Batch
from wordbrush.training.objective import joined, losses, with_prior
from wordbrush.training.options import ClassOptions
from wordbrush.training.pictures import Pictures, listed
from wordbrush.training.task import Loss, Task, Trainee, require_words
from wordbrush.training.unmix import Unmix

Prior = tuple[list[Image.Image], tuple[str, ...]]
"""Pictures of classes, and what each shows."""


def require_prompts(
    model: Model,
    options: ClassOptions,
    found: Pictures,
    given: Pictures | None,
    side_by_side: Sequence[str] = (),
) -> None:
    """Raise `PromptError` for a prompt or a caption that does not fit the model, and for a prompt without words.

    given: the pictures of the class, where they are. side_by_side: as in `loss`.
    """
    for prompt in options.prompts:
        require_words(model, "prompt", prompt)
    require_classes(model, options, given)
    own, of_class = (tuple(filter(None, each.captions)) if each else () for each in (found, given))
    for caption in own:
        model.read(caption)
    for texts in ((*options.prompts, *own), (*options.class_prompts, *of_class)):
        # If the longest fit beside each other, all do.
        longest = sorted(dict.fromkeys(texts), key=lambda text: _tokens(model, text))[-2:]
        for template in side_by_side if len(longest) > 1 else ():
            require_words(model, "side_by_side", _side_by_side(template, *longest))


def require_classes(model: Model, options: ClassOptions, given: Pictures | None) -> None:
    """The same for what is said of the class."""
    for prompt in options.class_prompts:
        require_words(model, "class_prompt", prompt)
    for caption in filter(None, () if given is None else given.captions):
        model.read(caption)


def _tokens(model: Model, text: str) -> int:
    return max((word.stop for word in model.read(text).words), default=0)


def given(options: ClassOptions) -> Pictures | None:
    """The pictures of the class, where a folder is named. Raises `ImageError`; `PromptError` for a picture of which
    nobody says what it shows."""
    if not options.class_folder:
        return None
    found = pictures.read(options.class_folder)
    bare = [name for name, caption in zip(found.names, found.captions, strict=True) if not caption]
    if bare and len(options.class_prompts) != 1:
        raise PromptError(
            f"expected a caption for each picture of {options.class_folder}, got none for {listed(bare)}: write "
            "NAME.txt beside them, or say one --class-prompt for all"
        )
    return found


def prior_pictures(
    model: Model, options: ClassOptions, found: Pictures | None, work: Path | None, share: Share = ALONE
) -> Generator[Progress, None, Prior | None]:
    """The pictures of the class and what they show: those that are given, or of each class those that the model makes.
    None where nothing is preserved."""
    if options.prior_weight == 0:
        return None
    if found is not None:
        return list(found.images), tuple(caption or options.class_prompts[0] for caption in found.captions)
    made: list[Image.Image] = []
    shown: list[str] = []
    for number, prompt in enumerate(dict.fromkeys(options.class_prompts), 1):
        name = "class" if number == 1 else f"class-{number}"
        own = work and work / name
        made += yield from class_pictures(model, prompt, options.class_pictures, options.seed, own, share)
        shown += [prompt] * options.class_pictures
    return (made, tuple(shown)) if made else None


def loss(
    trainee: Trainee,
    task: Task,
    options: ClassOptions,
    number: int,
    side_by_side: Sequence[str] = (),
    unmix: float = 0.0,
) -> Loss:
    """The loss of a forward pass: of the things' pictures, and of the classes' in the same pass.

    side_by_side: what a picture of two shows, with {left} and {right} for the prompts of both. unmix: the weight of
    what is measured of such pictures (`Unmix`), mean over all pictures of things.
    """
    batch = task.examples.batch(number, options.batch_size, task.share)
    told = [
        caption or options.prompts[task.pictures.thing(k)] for k, caption in enumerate(task.pictures.captions)
    ]
    prompts = _shown(batch, told, side_by_side)
    if not unmix or all(beside is None for beside in batch.beside):
        return preserving(trainee, task, options, number, batch, prompts, side_by_side)
    rows = [
        None if beside is None else (prompt, told[picture], told[beside])
        for prompt, picture, beside in zip(prompts, batch.pictures, batch.beside, strict=True)
    ]
    apart = Unmix(trainee.model, rows)
    loss, count = preserving(trainee, task, options, number, batch, prompts, side_by_side, apart)
    return loss + unmix * apart.wrong.sum() / len(prompts), count


def preserving(
    trainee: Trainee,
    task: Task,
    options: ClassOptions,
    number: int,
    batch: Batch,
    prompts: list[str],
    side_by_side: Sequence[str] = (),
    attend: Attend | None = None,
) -> Loss:
    """The loss of these rows under these prompts, and of as many pictures of the class in the same pass, if there are
    any. attend: computes the attention layers."""
    instances = len(prompts)
    if task.prior is not None:
        classes = task.prior.batch(number, options.batch_size, task.share)
        batch = joined(batch, classes)
        prompts = prompts + _shown(classes, task.prior_prompts, side_by_side)
    errors = losses(trainee.model, batch, trainee.text(prompts), options.snr_gamma, attend)
    return with_prior(errors, instances, options.prior_weight), len(prompts)


def _side_by_side(template: str, left: str, right: str) -> str:
    words = {"{left}": left, "{right}": right}
    return re.sub("{left}|{right}", lambda place: words[place[0]], template)


def _shown(batch: Batch, prompts: Sequence[str], side_by_side: Sequence[str]) -> list[str]:
    """What each row shows, by the prompts of its pictures."""

    def told(picture: int, beside: int | None, choice: float) -> str:
        if beside is None:
            return prompts[picture]
        template = side_by_side[int(choice * len(side_by_side))]
        return _side_by_side(template, prompts[picture], prompts[beside])

    return list(map(told, batch.pictures, batch.beside, batch.choices))


def class_pictures(
    model: Model, prompt: str, count: int, seed: int, folder: Path | None, share: Share = ALONE
) -> Generator[Progress, None, list[Image.Image]]:
    """Pictures of a class by the frozen model, kept as PNGs in a folder, if there is one.

    Each has the record of how it was made. One that is there is used only if this model made it of this prompt and of
    its seed; another one is made again. Of several processes the first writes.
    """
    found: list[Image.Image] = []
    for k in range(count):
        path = None if folder is None else folder / f"{k:05d}.png"
        own = (seed + k) % 2**63
        image = None if path is None else _kept(path, model, prompt, own)
        if image is None:
            source = yield from _quietly(model, prompt, own, k, count)
            image = source.image(model)
            if path is not None and share.is_first:
                record = provenance.source_record(model, source)
                save_png(Recorded(image, provenance.record("generate", model, record, image)), path)
        found.append(image)
    return found


def _quietly(model: Model, prompt: str, seed: int, k: int, count: int) -> Generator[Progress, None, Source]:
    """One picture's sampling, told as one step of making all of them."""
    loop = sampling.sample(model, prompt, seed)
    rows = 0
    while True:
        try:
            rows += next(loop).rows
        except StopIteration as end:
            yield Progress("making class pictures", k + 1, count, rows=rows)
            return end.value


def _kept(path: Path, model: Model, prompt: str, seed: int) -> Image.Image | None:
    """A picture that is there already, if it is the one that would be made."""
    try:
        record, image = provenance.read_record(path), load(path)
    except (ImageError, OptionsError):
        return None
    made = record.source.prompt, record.source.options.get("seed"), record.model.hash, record.pixels
    return image if made == (prompt, seed, model.hash, provenance.pixel_hash(image)) else None
