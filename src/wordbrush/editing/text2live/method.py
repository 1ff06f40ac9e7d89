"""Text2LIVE (Bar-Tal et al. 2022, "Text2LIVE: Text-Driven Layered Image and Video Editing"), for pictures.

A small network that is trained on this picture alone paints a layer, colours C and opacity α, and the edit is

    I_o = α C + (1 − α) I_s                                                              (section 3)

No diffusion and no autoencoder: every pixel that the layer does not cover is the picture's own. What it learns is that
a CLIP finds the target's words in I_o, and the change of the words in its change (`losses.composition`); the layer's
own words in the layer over a green screen (eq. 4); that parts are like one another as they were (`losses.structure`);
that little is covered (`losses.sparsity`); and in the beginning that the layer is where CLIP finds the thing that
changes (section 3.1, `losses.relevance`). The network sees the picture in random crops, mirrored by chance, and CLIP
sees random views of what comes (section 3.2).

The words are the captions'. T is the target's, T_ROI the source's, and the layer's are those of the things that the
change is about (`changes`), or `layer_text`; without any, the target's.

Deviations. Where the picture is to be painted first is found by a window, not by attention; for an addition nowhere,
for a change of everything everywhere. The optimiser is Adam with a falling rate, not MADGRAD. The texts have no
templates around them. The green screen is in words that the built-in CLIP knows.
"""

import hashlib
import time
from collections.abc import Generator as Iterating
from collections.abc import Mapping

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from wordbrush.backbones import Clip
from wordbrush.changes import read
from wordbrush.clip_guidance import POCKET, Views, cosine_distance, guide, looked_at
from wordbrush.editing import Dial
from wordbrush.editing.text2live.generator import Generator
from wordbrush.editing.text2live.losses import composition, relevance, sparsity, structure
from wordbrush.editing.text2live.options import MEASURED, PUBLISHED, Options
from wordbrush.fit import generator
from wordbrush.model import Model
from wordbrush.options import FitOptions, filled, parse
from wordbrush.progress import Progress
from wordbrush.request import EditRequest, Need
from wordbrush.result import Report, Result
from wordbrush.sampling import at_levels, initial_latents
from wordbrush.source import Source
from wordbrush.training.one_picture import Kept, Learned, Learner, learned
from wordbrush.words import Alignment

NEEDS: frozenset[Need] = frozenset({"source"})

STRENGTH = Dial(option="opacity", source=0.0, full=1.0)

SEEN = Views(smallest=0.85, mirrored=True)
"""How the network sees the picture: crops of at least so much of it."""
VIEWS = Views(smallest=0.8, shift=0.1, turn=10.0, tilt=0.2)
"""How CLIP sees what comes."""
_GREEN = (-1.0, 1.0, -1.0)
_CHECKPOINT_EVERY = 50
_LEARNING = ("composition_weight", "screen_weight", "structure_weight", "sparsity_weight", "bootstrap_weight")


def plan(model: Model, request: EditRequest) -> list[Alignment]:
    """The targets, read beside the source. Raises `PromptError` for what the model or CLIP cannot read, `ModelError`
    for a CLIP that is not there."""
    options: Options = request.options
    alignments = request.alignments(model)
    clip = guide(model, options.guide_clip)
    for alignment in alignments:
        clip.texts([*_texts(clip, alignment, options).values()])
    return alignments


def edit(model: Model, request: EditRequest) -> Iterating[Progress, None, list[Result]]:
    """Paint a layer over a source for each of the target prompts, one after another; one result per target, in order.

    Raises `PromptError` and `ModelError` like `plan`, `SourceError` if the source is another model's, `NumericsError`
    where a loss is no number, `OutputError` for a folder that cannot be written.
    """
    source, targets = request.started(model), plan(model, request)
    options: Options = filled(request.options, {**PUBLISHED, **MEASURED.get(model.name, {})})
    clip = guide(model, options.guide_clip)
    height, width = source.size(model)
    own = (
        source.decoded(model)[None] if source.picture is None else source.picture.seen(height, width)
    ).float()
    own = own.to(model.device)
    mask = torch.ones(1, 1, height, width) if request.mask is None else request.mask
    mask = mask.to(own)
    free = request.free(source)
    noise = initial_latents(model, options.tuning_seed, height, width)
    results: list[Result] = []
    for alignment in targets:
        began, target = time.perf_counter(), alignment.target.prompt
        painted, notices, covered = own, list[str](), 0.0
        if options.opacity == 0:
            notices.append("the picture is the source: an opacity of 0 shows nothing of the layer")
        else:
            found = yield from _layer(model, source, clip, alignment, own, mask, options)
            alpha = options.opacity * found.tensors["alpha"].to(own)
            painted = alpha * found.tensors["colour"].to(own) + (1 - alpha) * own
            covered, notices = float(alpha.mean()), [*found.notices]
        with torch.no_grad():
            z = model.encode_image(painted)
        seconds = round(time.perf_counter() - began, 3)
        details = {"clip": clip.name, "layer": _texts(clip, alignment, options)["screen"]}
        report = Report(alignment.describe(), covered, 1.0, 0, seconds, tuple(notices), details)
        (trajectory,) = at_levels(source, z, noise)
        results.append(
            Result(target, report, source, trajectory, model, free[0, 0], decoded=painted[0].cpu())
        )
    return results


def _texts(clip: Clip, alignment: Alignment, options: Options) -> dict[str, str]:
    """T, T_ROI, T_screen, and the words that are looked for in the picture ("" for none)."""
    parts = read(alignment).parts
    things = " ".join(word.text for part in parts for word in part.target)
    layer = options.layer_text or (f"a {things}" if things else alignment.target.prompt)
    # The built-in CLIP has never heard of a screen, and its world has plain backgrounds.
    behind = "on a green background" if clip.name == POCKET else "over a green screen"
    before = " ".join(word.text for part in parts for word in part.source)
    return {
        "target": alignment.target.prompt,
        "source": alignment.source.prompt,
        "screen": f"{layer} {behind}",
        "thing": f"a {before}" if before else alignment.source.prompt,
    }


def _where(
    clip: Clip, alignment: Alignment, picture: Float[Tensor, "1 3 h w"], thing: Float[Tensor, "1 d"]
) -> Float[Tensor, "1 1 h w"]:
    """Where the layer is to be at first."""
    change = read(alignment)
    if not change.is_local:
        return torch.ones_like(picture[:, :1])
    if not any(part.source for part in change.parts):
        return torch.zeros_like(picture[:, :1])
    return relevance(clip, picture, thing)


def _layer(
    model: Model,
    source: Source,
    clip: Clip,
    alignment: Alignment,
    picture: Float[Tensor, "1 3 h w"],
    mask: Float[Tensor, "1 1 h w"],
    options: Options,
) -> Iterating[Progress, None, Learned]:
    """The layer over a picture: its "colour", and "alpha" inside of the mask."""
    told = {
        "steps": options.layer_steps,
        "learning_rate": options.layer_rate,
        "batch_size": options.layer_views,
        "schedule": "cosine",
        "seed": options.tuning_seed,
        "weight_decay": 0.0,
        "checkpoint_every": _CHECKPOINT_EVERY,
    }
    settings = parse(FitOptions, told)
    texts = _texts(clip, alignment, options)
    decided = {
        "texts": texts,
        "clip": clip.hash,
        "channels": options.layer_channels,
        "mask": hashlib.sha256(mask.cpu().numpy().tobytes()).hexdigest(),
        "until": options.bootstrap_until,
        **{name: getattr(options, name) for name in _LEARNING},
    }

    def attach() -> Learner:
        assert options.layer_channels is not None
        size = (picture.shape[-2], picture.shape[-1])
        network = Generator(options.layer_channels, size, settings.seed).to(picture.device)
        rows = clip.texts([*texts.values()]).to(picture.device)
        words = {name: rows[k : k + 1] for k, name in enumerate(texts)}
        where = _where(clip, alignment, picture, words["thing"]) * mask
        until = options.bootstrap_until * settings.steps

        def loss(number: int) -> tuple[Tensor, int]:
            random = generator(settings.seed, "views", number)
            crop = SEEN.grids(1, size, size, random)
            shown = looked_at(torch.cat([picture, mask, where], 1), crop)
            own, inside, wanted = shown[:, :3], shown[:, 3:4], shown[:, 4:]
            colour, alpha = network(own)
            alpha = alpha * inside
            weight = options.bootstrap_weight * max(0.0, 1 - number / until) if until else 0.0
            value = _criterion(clip, own, colour, alpha, words, settings.batch_size, random, options)
            return value + weight * F.mse_loss(alpha, wanted), 0  # no row of the UNet

        @torch.no_grad()
        def kept(found: Mapping[str, Tensor]) -> Kept:
            colour, alpha = torch.func.functional_call(network, dict(found), (picture,))
            return {"colour": colour, "alpha": alpha * mask}

        parameters: dict[str, nn.Parameter] = dict(network.named_parameters())
        return Learner(parameters, loss, kept)

    return (yield from learned(model, source, "painting", decided, settings, attach, options.tuned_in))


def _criterion(
    clip: Clip,
    own: Float[Tensor, "1 3 h w"],
    colour: Float[Tensor, "1 3 h w"],
    alpha: Float[Tensor, "1 1 h w"],
    words: Mapping[str, Float[Tensor, "1 d"]],
    views: int,
    random: torch.Generator,
    options: Options,
) -> Tensor:
    """L_comp + λ_g L_screen + λ_s L_structure + λ_r L_reg (eq. 1)."""
    assert options.sparsity_weight is not None
    green = torch.tensor(_GREEN).to(own)[None, :, None, None]
    composed, screened = (alpha * colour + (1 - alpha) * behind for behind in (own, green))
    grids = VIEWS.grids(views, (own.shape[-2], own.shape[-1]), (clip.size, clip.size), random)
    with torch.no_grad():
        before, parts_before = clip.seen(looked_at(own, grids))
    seen, parts = clip.seen(looked_at(torch.cat([composed, screened]), grids))
    made, layer = seen[:views], seen[views:]
    return (
        options.composition_weight * composition(made, before, words["target"], words["source"])
        + options.screen_weight * cosine_distance(layer, words["screen"]).mean()
        + options.structure_weight * structure(parts[:views], parts_before)
        + options.sparsity_weight * sparsity(alpha)
    )
