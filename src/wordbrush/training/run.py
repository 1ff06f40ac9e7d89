"""One training from a folder of pictures to a concept, with checkpoints, a log and samples."""

from collections import deque
from collections.abc import Generator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext, suppress
from dataclasses import dataclass, replace
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from wordbrush import images, methods, options, sampling, training
from wordbrush.concept import Concept, Use, applied
from wordbrush.denoise import denoise
from wordbrush.errors import ImageError, OptionsError, OutputError
from wordbrush.files import sole
from wordbrush.fit import ALONE, Checkpoints, Share, fit
from wordbrush.fit.log import Log
from wordbrush.guidance import TextGuidance
from wordbrush.model import Conditioning, Model
from wordbrush.options import Options
from wordbrush.progress import Progress
from wordbrush.sheets import sheet
from wordbrush.training import pictures, prior, rare_tokens
from wordbrush.training.examples import Examples
from wordbrush.training.options import ClassOptions, JointOptions, PictureOptions, ThingOptions
from wordbrush.training.pictures import Folder, Pictures
from wordbrush.training.task import Task, Trainee, require_words

_SAMPLES = 5  # of a training, where the user does not say otherwise
_SAMPLE_STEPS = 20
_SAMPLE_SEED = 0
_RECENT = 20  # steps over which the loss that is shown is averaged


@dataclass(frozen=True, eq=False)
class Plan:
    """A training that is checked and not begun. notices: what a user should know before the work. prior: pictures of
    the class that are given."""

    model: Model
    method: str
    pictures: Pictures
    options: PictureOptions
    notices: tuple[str, ...] = ()
    prior: Pictures | None = None


@dataclass(frozen=True, eq=False)
class Trained:
    """What a training made: the concept, and a strip of samples that shows the thing appearing. losses: of the last
    steps, none where all were done before."""

    concept: Concept
    strip: Image.Image
    losses: tuple[float, ...] = ()
    notices: tuple[str, ...] = ()


def planned(
    model: Model,
    found: Pictures | Folder,
    method: str,
    given: Mapping[str, Any] | Options | None = None,
) -> Plan:
    """Check what a training is asked for. found: its pictures, or where they are. Raises `ImageError`, `OptionsError`,
    `PromptError`."""
    entry = methods.find(training.METHODS, method, "training")
    kind = entry.options()
    told = given.model_dump(exclude_unset=True) if isinstance(given, Options) else dict(given or {})
    own = training.defaults(model.name, method)
    settings = options.parse(kind, {**own, **told})
    assert isinstance(settings, PictureOptions)
    _require_taught(model, methods.key(method), settings)
    _computed_in(model, settings)
    found = found if isinstance(found, Pictures) else pictures.read(found)
    if found.count_of_things > 1 and not settings.SEVERAL:
        raise OptionsError(
            f"expected one folder for {methods.typed(method)}, which learns one thing, got {found.count_of_things}: "
            "train one concept for each, or use a method that learns several at once"
        )
    mixing = (
        [name for name in JointOptions.MIXING if name in told] if isinstance(settings, JointOptions) else []
    )
    if mixing and found.count_of_things == 1:
        raise OptionsError(
            f"option '{mixing[0]}': expected a folder for each of several things, got one: leave it out"
        )
    notices = [*found.notices, *pictures.doubts(found, model.image_size, settings.crop)]
    if measured := [f"{methods.typed(name)} {value}" for name, value in own.items() if name not in told]:
        notices.append(f"measured for {model.name} and used where you say nothing: {', '.join(measured)}")
    given_prior = prior.given(settings) if isinstance(settings, ClassOptions) else None
    if isinstance(settings, ThingOptions | JointOptions):
        mixed = (
            settings.side_by_side if isinstance(settings, JointOptions) and len(settings.prompts) > 1 else ()
        )
        prior.require_prompts(model, settings, found, given_prior, mixed)
        notices += rare_tokens.doubts(model, settings, found, wants_class=settings.WANTS_CLASS)
    elif isinstance(settings, ClassOptions):
        prior.require_classes(model, settings, given_prior)
        notices += settings.doubts(found)
    elif any(found.captions):
        notices.append(
            "the captions beside the pictures are not read: the word is learned in prompts of its own"
        )
    return Plan(model, methods.key(method), found, settings, tuple(notices), given_prior)


def run(plan: Plan, work: Path | None = None, share: Share = ALONE) -> Generator[Progress, None, Trained]:
    """Train; `work` is the folder for checkpoints, class pictures, the log and samples, or None to keep none of these.

    Goes on from the last checkpoint there: a run that was killed at any instant and is started again gives the same
    bytes as one that was not. Of several processes each computes its share, and the first writes. Raises
    `NumericsError`, `OptionsError`, `PromptError`, `OutputError`.
    """
    module, settings, model = training.METHODS[plan.method].load(), plan.options, plan.model
    share.rows(settings.batch_size)
    examples = _examples(plan, plan.pictures.images, "pictures", plan.pictures.things)
    task = Task(model, plan.pictures, examples, share=share)
    trainee = module.attached(task, settings)
    prompt = settings.sample_prompt or trainee.prompt
    require_words(trainee.model, "sample_prompt", prompt)
    written = work if share.is_first else None
    recent: deque[float] = deque(maxlen=_RECENT)
    with ExitStack() as ending:
        checkpoints = None if work is None else Checkpoints(work, _identity(plan))
        state = None if checkpoints is None else checkpoints.last()
        begun = 0 if state is None else state.step
        share.require_same(begun)
        if isinstance(settings, ClassOptions):
            made = yield from prior.prior_pictures(model.base, settings, plan.prior, work, share)
            if made is not None:
                classes = [made[1].index(shown) for shown in made[1]]
                task = replace(task, prior=_examples(plan, made[0], "class", classes), prior_prompts=made[1])
        if begun:
            yield Progress("training", begun, settings.steps, says=f"going on from step {begun}")
        samples: dict[int, Image.Image] = {}
        log = None
        if written is not None:
            log = ending.enter_context(Log(written, begun, tensorboard=settings.tensorboard))
            samples = _kept_samples(written, begun)
            for number, shown in samples.items():
                log.show(number, shown)
        ending.enter_context(_learning(trainee, settings))
        steps = fit(
            trainee.parameters,
            partial(module.loss, trainee, task, settings),
            settings,
            rates=trainee.rates,
            begin=trainee.begin,
            autocast=_autocast(model, settings),
            scaled=_computed_in(model, settings) == torch.float16,
            state=state,
            save=checkpoints.save if checkpoints is not None and share.is_first else None,
            share=share,
        )
        every = settings.sample_every or max(1, settings.steps // _SAMPLES)
        while True:
            try:
                step = next(steps)
            except StopIteration as end:
                learned = end.value
                break
            recent.append(step.loss)
            rows = step.rows
            if log is not None:
                log.add(step)
            if share.is_first and step.number % every == 0 and step.number < step.total:
                shown, sampled = _sample(trainee.at(step.number - 1), prompt, _autocast(model, settings))
                samples[step.number] = shown
                rows += sampled
                if log is not None and written is not None:
                    log.show(step.number, shown)
                    images.save_png(shown, _sample_path(written, step.number))
            told = f"loss {sum(recent) / len(recent):.4f}, rate {step.rate:.2g}"
            preview = samples[max(samples)].copy if samples else None
            yield Progress("training", step.number, step.total, preview, rows, step.rows, told)
        concept: Concept = module.export(trainee, task, settings, learned)
        shown, rows = _sample(applied(model, [Use(concept)]), prompt, nullcontext())
        samples[settings.steps] = shown
        strip = sheet(list(samples.values()), [f"step {number}" for number in samples])
        if log is not None and written is not None:
            log.show(settings.steps, shown)
            images.save_png(shown, _sample_path(written, settings.steps))
            images.save_png(strip, written / "strip.png")
    yield Progress("sampling", 1, 1, rows=rows)
    content = BytesIO()
    shown.save(content, "PNG")
    notices = [] if checkpoints is None else [*checkpoints.ignored]
    if not (concept.weights or concept.placeholders):
        notices.append(
            "nothing was learned, and the concept changes nothing: choose more --steps, or a higher --learning-rate"
        )
    return Trained(replace(concept, previews=(content.getvalue(),)), strip, tuple(recent), tuple(notices))


@contextmanager
def held(work: Path) -> Generator[None, None, None]:
    """Hold a training's folder against other processes. Raises `OutputError` if another one holds it."""
    with ExitStack() as ending:
        try:
            ending.enter_context(sole(work / ".lock"))
        except BlockingIOError as error:
            raise OutputError(
                f"another training is at work in {work}: wait for it, or choose another folder (--work)"
            ) from error
        yield


def finish(plan: Plan, work: Path) -> None:
    """Remove a training's checkpoints, once its concept is kept; its log and its samples stay."""
    Checkpoints(work, _identity(plan)).remove()


def _examples(plan: Plan, found: Sequence[Image.Image], stream: str, things: Sequence[int]) -> Examples:
    settings = plan.options
    mixed = settings.cut_mix if isinstance(settings, JointOptions) else 0.0
    return Examples(plan.model, found, settings.seed, settings.crop, settings.flip, stream, things, mixed)


def _identity(plan: Plan) -> dict[str, Any]:
    """What decides the result of a training, besides the machine."""
    return {
        "method": plan.method,
        "options": plan.options.deciding(),
        "model": plan.model.hash,
        "pictures": [record.model_dump() for record in plan.pictures.records],
        "captions": list(plan.pictures.captions),
        "things": list(plan.pictures.things),
        "class": [] if plan.prior is None else [record.model_dump() for record in plan.prior.records],
    }


def _require_taught(model: Model, method: str, settings: PictureOptions) -> None:
    """Raise `OptionsError` for a model with concepts, but for those that the method goes on from."""
    if model.base is model:
        return
    if not settings.SEQUENTIAL:
        raise OptionsError(
            "expected a model without concepts to train, got one with some: give the one that they were applied to"
        )
    for use in model.uses:
        if use.concept.method != method or use.strength != 1:
            raise OptionsError(
                f"expected concepts of {methods.typed(method)} at strength 1 to go on from, got {use.concept!r} at "
                f"{use.strength:g}: leave it out (--concept)"
            )


def _computed_in(model: Model, settings: PictureOptions) -> torch.dtype:
    """What the networks compute in. Raises `OptionsError` for what a model of this type cannot."""
    own = model.dtype
    chosen = own if settings.precision is None else getattr(torch, settings.precision)
    # Half types compute in one another, and float32 in them; nothing computes in more than it is loaded in.
    if chosen != own and (own == torch.float64 or chosen == torch.float32):
        loaded, asked = (str(each).removeprefix("torch.") for each in (own, chosen))
        raise OptionsError(
            f"option 'precision': expected {loaded}, in which the model is loaded, got {asked}: load it with "
            f"--dtype {asked}"
        )
    return chosen


def _autocast(model: Model, settings: PictureOptions) -> AbstractContextManager[Any]:
    """The context of forward passes: what learns is in float32, the networks compute in another type."""
    dtype = _computed_in(model, settings)
    if dtype in (torch.float32, torch.float64):
        return nullcontext()
    return torch.autocast(model.device.type, dtype)


@contextmanager
def _learning(trainee: Trainee, settings: PictureOptions) -> Generator[None, None, None]:
    """Let the parameters learn, for the block; activations may be computed again in the backward pass."""
    unet, learning = trainee.model.denoiser.unet, list(trainee.parameters.values())
    # Nothing draws at random in this mode: a dropout would be no function of the seed.
    assert not any(each.training for own in trainee.model.networks.values() for each in own.modules())
    if settings.checkpointing:
        unet.enable_gradient_checkpointing()
    for parameter in learning:
        parameter.requires_grad_(True)
    try:
        yield
    finally:
        for parameter in learning:
            parameter.requires_grad_(False)
            parameter.grad = None
        if settings.checkpointing:
            unet.disable_gradient_checkpointing()


def _sample(model: Model, prompt: str, autocast: AbstractContextManager[Any]) -> tuple[Image.Image, int]:
    """A picture of a prompt, always of the same noise, and the rows it took."""
    schedule = model.schedule(min(_SAMPLE_STEPS, model.defaults.steps))
    noise = sampling.initial_latents(model, _SAMPLE_SEED, *model.image_size)
    latents, rows = noise, 0
    with torch.no_grad(), autocast:
        texts = {
            name: Conditioning(model.encode_text([own])) for name, own in (("text", prompt), ("null", ""))
        }
        for step in denoise(model, noise, texts, schedule, TextGuidance(model.defaults.guidance_scale)):
            latents, rows = step.latents, rows + step.rows
        return images.to_image(model.decode(latents)[0].cpu()), rows


def _sample_path(work: Path, step: int) -> Path:
    return work / "samples" / f"{step:07d}.png"


def _kept_samples(work: Path, step: int) -> dict[int, Image.Image]:
    """The samples of the steps that are done, in order; what cannot be read is not one of them."""
    found: dict[int, Image.Image] = {}
    for path in sorted((work / "samples").glob("*.png")):
        with suppress(ValueError, ImageError):
            if int(path.stem) <= step:
                found[int(path.stem)] = images.load(path)
    return found
