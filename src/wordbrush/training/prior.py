"""Prior preservation (Ruiz et al. 2023, section 4.3): pictures of the class that the frozen model makes, and the loss
that goes with them."""

from collections.abc import Generator
from pathlib import Path

from PIL import Image

from wordbrush import provenance, sampling
from wordbrush.errors import ImageError, OptionsError
from wordbrush.fit import ALONE, Share
from wordbrush.images import Recorded, load, save_png
from wordbrush.model import Model
from wordbrush.progress import Progress
from wordbrush.source import Source
from wordbrush.training.objective import joined, losses, with_prior
from wordbrush.training.options import ClassOptions
from wordbrush.training.pictures import Pictures
from wordbrush.training.task import Loss, Task, Trainee, require_words


def require_prompts(model: Model, options: ClassOptions, pictures: Pictures) -> None:
    """Raise `PromptError` for a prompt or a caption that does not fit the model, and for a prompt without words."""
    require_words(model, "prompt", options.prompt)
    if options.class_prompt:
        require_words(model, "class_prompt", options.class_prompt)
    for caption in filter(None, pictures.captions):
        model.read(caption)


def loss(trainee: Trainee, task: Task, options: ClassOptions, number: int) -> Loss:
    """The loss of a forward pass: of the thing's pictures, and of the class's in the same pass."""
    batch = task.examples.batch(number, options.batch_size, task.share)
    prompts = [task.pictures.captions[k] or options.prompt for k in batch.pictures]
    instances = len(prompts)
    if task.prior is not None:
        batch = joined(batch, task.prior.batch(number, options.batch_size, task.share))
        prompts += [options.class_prompt] * (len(batch.pictures) - instances)
    errors = losses(trainee.model, batch, trainee.text(prompts), options.snr_gamma)
    return with_prior(errors, instances, options.prior_weight), len(prompts)


def class_pictures(
    model: Model, prompt: str, count: int, seed: int, work: Path | None, share: Share = ALONE
) -> Generator[Progress, None, list[Image.Image]]:
    """Pictures of a class by the frozen model, kept as PNGs in the folder "class" of a run's, if there is one.

    Each has the record of how it was made. One that is there is used only if this model made it of this prompt and of
    its seed; another one is made again. Of several processes the first writes.
    """
    found: list[Image.Image] = []
    for k in range(count):
        path = None if work is None else work / "class" / f"{k:05d}.png"
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
