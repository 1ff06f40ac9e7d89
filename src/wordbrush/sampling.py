"""Where sources come from: a seed, sampled down to its picture, or a picture, walked up to noise."""

from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import replace
from functools import partial

import torch
from jaxtyping import Bool, Float
from PIL import Image
from torch import Tensor

from wordbrush.denoise import Conditions, FindNoise, Predictor, Step, check_finite, denoise, noise_up
from wordbrush.errors import NumericsError, OptionsError, SourceError
from wordbrush.guidance import Guidance, TextGuidance, check_scale
from wordbrush.images import to_image
from wordbrush.methods import typed
from wordbrush.model import Conditioning, Model
from wordbrush.options import InversionOptions, RecordOptions
from wordbrush.progress import Progress
from wordbrush.recording import Reads, Recorder, Recording, fitting, kept_in
from wordbrush.schedule import Schedule
from wordbrush.source import Source
from wordbrush.states import SOLVERS, MultistepPath, NoiseMaps, Trajectory, Walk


def initial_latents(model: Model, seed: int, height: int, width: int) -> Float[Tensor, "1 c h w"]:
    """z_T of a seed: standard normal, drawn on the CPU so that a seed means the same noise on every device.

    Raises `OptionsError` for a seed that does not fit torch's generator.
    """
    if not 0 <= seed < 2**63:
        raise OptionsError(f"seed must be between 0 and 2^63 − 1, got {seed}")
    h, w = model.latent_size(height, width)
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(1, model.latent_channels, h, w, generator=generator).to(
        model.device, model.latent_dtype
    )


def sample(
    model: Model,
    prompt: str,
    seed: int,
    *,
    steps: int | None = None,
    guidance_scale: float | None = None,
    negative_prompt: str = "",
    height: int | None = None,
    width: int | None = None,
    solver: str = "ddim",
) -> Generator[Progress, None, Source]:
    """Generate a picture from a seed, with its trajectory, as a source. Defaults are the model's own.

    negative_prompt: what guidance leads away from, in place of no text.

    Raises `PromptError`, `OptionsError`, or `ModelError` for a size that the model cannot make.
    """
    schedule = model.schedule(steps)
    scale = model.defaults.guidance_scale if guidance_scale is None else guidance_scale
    check_scale(scale)
    if negative_prompt and scale == 1:
        raise OptionsError(
            "negative_prompt needs a guidance scale other than 1: at 1 nothing is led away from"
        )
    default_height, default_width = model.image_size
    size = default_height if height is None else height, default_width if width is None else width
    z_T = initial_latents(model, seed, *size)  # noqa: N806
    null = model.encode_text([negative_prompt])
    conditions = {"text": Conditioning(model.encode_text([prompt])), "null": Conditioning(null)}
    path = SOLVERS[solver]
    loop = denoise(model, z_T, conditions, schedule, TextGuidance(scale), walk=path.free(schedule.steps))
    states = yield from watched("generating", loop, model)
    return Source(
        prompt=prompt,
        states=path(torch.cat([z_T, *states])),
        null=null,
        schedule=schedule,
        guidance_scale=scale,
        method="seed",
        model_hash=model.hash,
        concepts=model.concepts,
        options={
            "seed": seed,
            **({"negative_prompt": negative_prompt} if negative_prompt else {}),
            **({"solver": solver} if solver != "ddim" else {}),
        },
    )


def walk_up(
    model: Model,
    image: Float[Tensor, "1 3 height width"],
    prompt: str,
    method: str,
    options: InversionOptions,
    find: FindNoise | None = None,
    solver: str = "ddim",
) -> Generator[Progress, None, Source]:
    """Walk a picture in [−1, 1] up to z_T without guidance, as the inversions here begin: DDIM inversion, or that of
    another of the `SOLVERS`.

    Returns the source whose trajectory is this very path; an inversion replaces its states or its null embeddings by
    what it finds. find: see `noise_up`. Defaults are the model's own.
    """
    schedule = model.schedule(options.steps or model.defaults.inversion_steps)
    scale = model.defaults.guidance_scale if options.guidance_scale is None else options.guidance_scale
    text = Conditioning(model.encode_text([prompt]))
    z_0 = model.encode_image(image)
    kind = SOLVERS[solver]
    loop = noise_up(model, z_0, text, schedule, find, is_second_order=kind is MultistepPath)
    path = yield from watched("inverting", loop, model)
    return Source(
        prompt=prompt,
        states=kind(torch.cat([*reversed(path), z_0])),
        null=model.encode_text([options.negative_prompt]),
        schedule=schedule,
        guidance_scale=scale,
        method=method,
        model_hash=model.hash,
        concepts=model.concepts,
        options=options.given(),
    )


def noised(z_0: Float[Tensor, "1 c h w"], schedule: Schedule, seed: int) -> list[Float[Tensor, "1 c h w"]]:
    """The picture at each level with noise of its own, and itself at the last. The noise is drawn from the picture up,
    so what is skipped changes nothing of the rest."""
    generator = torch.Generator().manual_seed(seed)
    path = [z_0]
    for level in reversed(schedule.levels[:-1]):
        path.append(level.mix(z_0, torch.randn(z_0.shape, generator=generator).to(z_0)))
    return path[::-1]


@torch.no_grad()
def taken_apart(
    model: Model,
    path: Sequence[Float[Tensor, "1 c h w"]],
    schedule: Schedule,
    conditions: Conditions,
    guidance: Guidance,
    eta: float,
    kind: type[NoiseMaps] = NoiseMaps,
) -> Generator[Progress, None, NoiseMaps]:
    """The noise with which stochastic steps lead along a path of states (Huberman-Spiegelglas et al. 2024, alg. 1).

    σ_t z_t = x_{t−1} − μ_t(x_t). path: the states before each step, and the picture. schedule: the levels that the
    network is told, and that μ_t is computed with. kind: what the noise is of, steps of first or of second order.
    """
    ask = Predictor(
        model, conditions, schedule, guidance, where=lambda i: f"inversion step {i + 1} of {schedule.steps}"
    )
    found, noises, along = [path[0]], list[Tensor](), kind.along(schedule.steps)
    for i in range(schedule.steps):
        ask.rows = 0
        here, to = schedule.levels[i], schedule.levels[i + 1]
        mean = along(i, here, to, found[-1], ask.predict(i, found[-1])).mean(here, to, eta)
        noises.append(path[i + 1] - mean)
        found.append(mean + noises[-1])  # not path[i + 1], which is the same but for rounding
        yield Progress("inverting", i + 1, schedule.steps, rows=ask.rows)
    return kind(torch.cat(found), torch.cat(noises), eta)


def reconstruct(
    model: Model,
    source: Source,
    text: Conditioning,
    guidance_scale: float,
    through: Callable[[Walk], Walk] = lambda walk: walk,
) -> Generator[Progress, None, Trajectory]:
    """What sampling makes of a source's z_T with this text and its null embeddings: the reconstruction's states.

    through: changes the steps of the run.
    """
    conditions = {"text": text, "null": source.unconditional()}
    path, guidance = type(source.states), TextGuidance(guidance_scale)
    assert issubclass(path, Trajectory), "only what was walked up can be walked down again"
    walk = through(path.free(source.steps))
    loop = denoise(model, source.z_T, conditions, source.schedule, guidance, walk=walk)
    states = yield from watched("reconstructing", loop, model)
    return path(torch.cat([source.z_T, *states]))


def at_levels(
    source: Source, clean: Float[Tensor, "n c h w"], noise: Float[Tensor, "1 c h w"]
) -> Float[Tensor, "n steps_plus_1 c h w"]:
    """Trajectories of edits that did not walk a source's steps: their clean latents, noised to each of its levels with
    one noise, as on the straight path."""
    levels = source.schedule.levels
    noised = [level.mix(clean, noise.expand_as(clean)) for level in levels[:-1]]
    return torch.stack([*noised, clean], dim=1)


def redrawn(
    model: Model,
    source: Source,
    conditions: Conditions,
    schedule: Schedule,
    guidance: Guidance,
    *,
    noise: Float[Tensor, "1 c h w"],
    free: Bool[Tensor, "1 1 h w"],
    targets: int,
    others: Mapping[str, Model] | None = None,
    begin: Float[Tensor, "n c h w"] | None = None,
) -> Generator[Progress, None, tuple[Float[Tensor, "n steps_plus_1 c h w"], int]]:
    """Noise a source's picture to the first level of a schedule, and draw it again from there, n times.

    Outside of `free` the picture is put back in every step, noised with the same noise. Returns the trajectories, and
    the rows that the UNet computed. conditions, guidance, others: as for `denoise`. begin: what is noised in the
    picture's place.
    """
    picture, rows = source.z_0.to(model.device, model.latent_dtype), 0
    known = [level.mix(picture, noise) for level in schedule.levels[:-1]] + [picture]
    begin = picture if begin is None else begin
    z = schedule.levels[0].mix(begin, noise.expand_as(begin)).expand(targets, -1, -1, -1)

    def kept(i: int, latents: Tensor, _: Tensor) -> Tensor:
        return torch.where(free, latents, known[i + 1])

    def count(step: Step) -> None:
        nonlocal rows
        rows += step.rows

    loop = denoise(model, z, conditions, schedule, guidance, others=others, after_step=kept)
    states = yield from watched("editing", loop, model, see=count)
    return torch.stack([z, *states], dim=1), rows


def recorded(
    model: Model, source: Source, wanted: Sequence[Reads], options: RecordOptions
) -> Generator[Progress, None, Source]:
    """Record what each step of an edit wants to read of its source, as far as the memory of the options goes.

    The source's row is alone in each batch, so that a recording can be made again bit for bit. Raises `SourceError` for
    another model's source and for coupled states, `NumericsError` for what half precision is too small for.
    """
    source.check(model)
    if source.states.predictions > 1:
        raise SourceError(
            f"expected a source whose steps ask the network once, got one by {typed(source.method)}, whose steps ask "
            "it several times: edit it without a recording, or invert with another method"
        )
    reads = fitting(model, source.latent_size, wanted, options)
    tensors: dict[str, Tensor] = {}
    recorder = Recorder(reads, tensors, kept_in(model, options))
    row = source.row(model)
    for i, own in enumerate(reads):
        if own:
            latents = row.states.at(i).to(model.device, model.latent_dtype)
            with torch.no_grad():
                predicted = model.predict(
                    latents, source.schedule.levels[i], row.conditioning, attend=recorder, step=i
                )
            check_finite(predicted.noise, f"step {i + 1} of {source.steps}")
            if own.prediction:
                tensors |= {f"{i}.clean": predicted.clean, f"{i}.noise": predicted.noise}
        yield Progress("recording", i + 1, source.steps, rows=int(bool(own)))
    if not all(bool(torch.isfinite(tensor).all()) for tensor in tensors.values()):
        raise NumericsError(
            f"expected finite queries and keys, got some that {recorder.dtype} is too small for: record with precision "
            "'full', or load the model in float32"
        )
    return replace(source, recording=Recording(options, reads, tensors))


def watched(
    stage: str,
    loop: Generator[Step, None, object],
    model: Model,
    *,
    done: int = 0,
    of: int = 1,
    see: Callable[[Step], object] | None = None,
) -> Generator[Progress, None, list[Float[Tensor, "n c h w"]]]:
    """Run a loop, reporting its steps as progress with previews; returns the latents after each step.

    done, of: the loops that were run before, of how many of this length. see: is called after each step.
    """
    states: list[Tensor] = []
    for step in loop:
        states.append(step.latents)
        if see is not None:
            see(step)
        preview = partial(_preview, model, step.clean[-1:])
        yield Progress(stage, done * step.total + step.index + 1, of * step.total, preview, step.rows)
    return states


def _preview(model: Model, clean: Tensor) -> Image.Image:
    return to_image(model.decode(clean)[0].cpu())
