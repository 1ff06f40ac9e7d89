"""Whether the parts of a model fit one another, asked once, when it is put together.

What does not fit would otherwise end inside a computation, or be ignored and give wrong pictures.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from wordbrush.errors import ModelError, short

# diffusers' schedulers of DDPM's kind: their betas are the model's noise schedule, whatever their solver.
_SCHEDULERS = frozenset(
    f"{kind}Scheduler"
    for kind in (
        *(
            "DDIM",
            "DDIMInverse",
            "DDIMParallel",
            "DDPM",
            "DDPMParallel",
            "PNDM",
            "LMSDiscrete",
            "UniPCMultistep",
        ),
        *(
            "EulerDiscrete",
            "EulerAncestralDiscrete",
            "HeunDiscrete",
            "KDPM2Discrete",
            "KDPM2AncestralDiscrete",
        ),
        *("DPMSolverMultistep", "DPMSolverMultistepInverse", "DPMSolverSinglestep", "DPMSolverSDE"),
        *("DEISMultistep", "SASolver", "LCM", "TCD"),
    )
)


def require_fit(
    unet: Any,
    vae: Any,
    text_encoders: Sequence[Any],
    tokenizers: Sequence[Any],
    schedule_config: Mapping[str, Any],
    name: str,
) -> None:
    """Raise `ModelError`, saying what does not fit, if these are not the parts of one Stable Diffusion."""
    faults = (
        *_texts(text_encoders, tokenizers),
        *_latents(unet.config, vae.config),
        *_conditions(unet.config, text_encoders),
        *_schedule(schedule_config),
        *_weights([unet, vae, *text_encoders]),
    )
    if faults:
        raise ModelError(f"{name}: {faults[0]}")


def _texts(encoders: Sequence[Any], tokenizers: Sequence[Any]) -> Iterator[str]:
    if not encoders or len(encoders) != len(tokenizers):
        yield (
            f"each text encoder needs its tokenizer: got {len(encoders)} text encoders and {len(tokenizers)} tokenizers"
        )
    contexts = [int(encoder.config.max_position_embeddings) for encoder in encoders]
    if len(set(contexts)) > 1:
        yield f"expected text encoders that read equally many tokens, got {' and '.join(map(str, contexts))}"
    for encoder, tokenizer in zip(encoders, tokenizers, strict=False):
        ids, rows = tokenizer.get_vocab().values(), int(encoder.get_input_embeddings().num_embeddings)
        if len(ids) <= len(set(tokenizer.all_special_ids)):
            yield f"expected a tokenizer with a vocabulary, got one of {len(ids)} tokens: fetch its files again"
        elif max(ids) >= rows:
            yield (
                f"expected a tokenizer of at most {rows} tokens, for which the text encoder has embeddings, "
                f"got {max(ids) + 1}: use the tokenizer that belongs to it"
            )
        if tokenizer.pad_token_id is None:
            yield "expected a tokenizer with a token for padding, got none: name one in tokenizer_config.json"


def _latents(unet: Any, vae: Any) -> Iterator[str]:
    channels = int(vae.latent_channels)
    known = {
        channels: "the latents",
        2 * channels: "a picture's beside them",
        2 * channels + 1: "a mask as well",
    }
    if unet.in_channels not in known:
        choices = ", ".join(f"{count} ({what})" for count, what in known.items())
        yield (
            f"expected a UNet whose input has {choices} channels, as the autoencoder's latents have {channels}, "
            f"got {unet.in_channels}: such models are not supported"
        )
    if unet.out_channels != channels:
        yield (
            f"expected a UNet that predicts {channels} channels, as the autoencoder's latents have, "
            f"got {unet.out_channels}: such models are not supported"
        )
    for key in ("latents_mean", "latents_std"):
        if getattr(vae, key, None) is not None:
            yield f"expected latents that one number scales, got an autoencoder with {key}, which is not supported"


def _conditions(unet: Any, encoders: Sequence[Any]) -> Iterator[str]:
    for key in ("class_embed_type", "num_class_embeds", "encoder_hid_dim", "encoder_hid_dim_type"):
        if (value := getattr(unet, key, None)) is not None:
            yield f"expected a UNet that reads text only, got one with {key} = {value}, which is not supported"
    kind = getattr(unet, "addition_embed_type", None)
    if kind not in (None, "text_time"):
        yield f"expected a UNet whose addition_embed_type is text_time or null, got {kind}, which is not supported"
    wanted = 2 if kind else 1
    if len(encoders) != wanted:
        what = "the pooled text of SDXL's second text encoder" if kind else "one text encoder"
        yield f"expected {wanted} text encoder{'s'[: wanted - 1]}, as the UNet reads {what}, got {len(encoders)}"
        return
    widths = [int(encoder.config.hidden_size) for encoder in encoders]
    dims: Any = unet.cross_attention_dim  # one number, or one for each level
    for dim in (dims,) if isinstance(dims, int) else tuple[int, ...](dims):
        if dim != sum(widths):
            yield (
                f"expected a UNet that reads texts {sum(widths)} wide, as the text encoders write them, got {dim}: "
                "use the text encoders that belong to it"
            )
    if not kind:
        return
    if getattr(encoders[-1], "text_projection", None) is None:
        yield "expected the second text encoder to be a CLIPTextModelWithProjection, got one without a projection"
    pooled = int(encoders[-1].config.projection_dim)
    time, total = int(unet.addition_time_embed_dim), int(unet.projection_class_embeddings_input_dim)
    if total == pooled + 5 * time:
        yield "expected SDXL's base model, got its refiner, which only finishes pictures: use the base model"
    elif total != pooled + 6 * time:
        yield (
            f"expected a UNet whose projection_class_embeddings_input_dim is {pooled} + 6 · {time}, the pooled text "
            f"and six sizes, got {total}: use the text encoders that belong to it"
        )


def _schedule(config: Mapping[str, Any]) -> Iterator[str]:
    for key in ("_class_name", "prediction_type", "timestep_type"):
        if not isinstance(config.get(key, ""), str):
            yield f"expected {key} of the schedule to be text, got {short(config[key])}: fetch the model again"
            return
    kind = config.get("_class_name", "DDIMScheduler")
    if kind not in _SCHEDULERS:
        yield f"expected a scheduler of DDPM's kind, such as DDIMScheduler, got {kind}: such models are not supported"
    for key in ("sigma_data", "shift", "use_flow_sigmas", "use_dynamic_shifting"):
        if config.get(key):
            yield (
                f"expected the schedule of a model that was trained with betas, got {key} = {config[key]}, of another "
                "kind: such models are not supported"
            )
    if config.get("rescale_betas_zero_snr") and config.get("prediction_type", "epsilon") == "epsilon":
        yield (
            "expected a network that predicts v, as its schedule begins without any signal (rescale_betas_zero_snr), "
            "got one that predicts the noise, of which nothing follows there: correct prediction_type"
        )
    if config.get("timestep_type", "discrete") != "discrete":
        yield f"expected discrete timesteps, got {config['timestep_type']}: such models are not supported"


def _weights(modules: Sequence[Any]) -> Iterator[str]:
    for module in modules:
        if any(weight.is_meta for weight in module.parameters()):
            yield f"expected weights, got a {type(module).__name__} on the meta device, which has none: load it"
