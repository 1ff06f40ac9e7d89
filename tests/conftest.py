"""Tiny random models in the shapes of Stable Diffusion 1, 2 (v-prediction) and XL: everything but the knowledge."""

import json
import os

os.environ.setdefault("OMP_WAIT_POLICY", "passive")

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

from clips import write
from heeding import heed_signals
from wordbrush.model import POCKET, Model
from wordbrush.progress import drain
from wordbrush.sampling import sample
from wordbrush.source import Source

torch.set_num_threads(1)

SD_SCHEDULE = {
    "num_train_timesteps": 1000,
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "steps_offset": 1,
    "set_alpha_to_one": False,
    "prediction_type": "epsilon",
}


@pytest.fixture(autouse=True)
def signals() -> None:
    heed_signals()


@pytest.fixture(scope="session")
def tokenizer() -> CLIPTokenizer:
    return CLIPTokenizer.from_pretrained(POCKET / "tokenizer")


@pytest.fixture(scope="session")
def small_clip(tmp_path_factory: pytest.TempPathFactory, tokenizer: CLIPTokenizer) -> str:
    """The folder of a tiny random CLIP."""
    return str(write(tmp_path_factory.mktemp("small clip"), tokenizer))


def text_encoder(kind: type, tokenizer: CLIPTokenizer, width: int) -> torch.nn.Module:
    config = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=width,
        intermediate_size=2 * width,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=32,
        projection_dim=width,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return kind(config)


def vae(channels: int) -> AutoencoderKL:
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        block_out_channels=(8, 16),
        latent_channels=channels,
        norm_num_groups=4,
        sample_size=32,
    )


def unet(**overrides: object) -> UNet2DConditionModel:
    settings: dict[str, object] = {
        "sample_size": 16,
        "in_channels": 4,
        "out_channels": 4,
        "down_block_types": ("CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
        "block_out_channels": (16, 32, 32),
        "layers_per_block": 1,
        "cross_attention_dim": 24,
        "attention_head_dim": 2,
        "norm_num_groups": 8,
    }
    model = UNet2DConditionModel(**{**settings, **overrides})
    # Random projections make nearly flat maps, which no edit would change: sharpen them.
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if ".to_q." in name or ".to_k." in name:
                weight *= 3
    return model


def sd1(tokenizer: CLIPTokenizer) -> Model:
    encoder = text_encoder(CLIPTextModel, tokenizer, 24)
    return Model(
        unet=unet(),
        vae=vae(4),
        text_encoders=[encoder],
        tokenizers=[tokenizer],
        schedule_config=SD_SCHEDULE,
        name="tiny SD1",
    )


def sd2(tokenizer: CLIPTokenizer) -> Model:
    encoder = text_encoder(CLIPTextModel, tokenizer, 24)
    config = {**SD_SCHEDULE, "prediction_type": "v_prediction"}
    return Model(
        unet=unet(attention_head_dim=(2, 4, 4), use_linear_projection=True, upcast_attention=True),
        vae=vae(4),
        text_encoders=[encoder],
        tokenizers=[tokenizer],
        schedule_config=config,
        name="tiny SD2",
    )


def sdxl(tokenizer: CLIPTokenizer) -> Model:
    encoders = [
        text_encoder(CLIPTextModel, tokenizer, 24),
        text_encoder(CLIPTextModelWithProjection, tokenizer, 32),
    ]
    return Model(
        unet=unet(
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
            block_out_channels=(16, 32),
            transformer_layers_per_block=(1, 2),
            attention_head_dim=(2, 4),
            use_linear_projection=True,
            cross_attention_dim=56,
            addition_embed_type="text_time",
            addition_time_embed_dim=8,
            projection_class_embeddings_input_dim=32 + 6 * 8,
        ),
        vae=vae(4),
        text_encoders=encoders,
        tokenizers=[tokenizer, tokenizer],
        schedule_config=SD_SCHEDULE,
        name="tiny SDXL",
        zero_empty_prompt=True,
    )


SHAPES: dict[str, Callable[[CLIPTokenizer], Model]] = {"sd1": sd1, "sd2": sd2, "sdxl": sdxl}


@pytest.fixture(scope="session")
def tiny(tokenizer: CLIPTokenizer) -> Callable[..., Model]:
    """tiny("sd1"), tiny("sd2"), tiny("sdxl"), optionally in float64: the same weights at each call."""
    kept: dict[tuple[str, torch.dtype], Model] = {}

    def make(shape: str = "sd1", dtype: torch.dtype = torch.float32) -> Model:
        if (shape, dtype) not in kept:
            with torch.random.fork_rng():
                torch.manual_seed(0)
                model = SHAPES[shape](tokenizer)
            for module in (model.denoiser.unet, model.autoencoder.vae, *model.text.encoders):
                module.to(dtype)
            kept[shape, dtype] = model
        return kept[shape, dtype]

    return make


@pytest.fixture(scope="session")
def seeded(tiny: Callable[..., Model]) -> Callable[..., Source]:
    """seeded("sd1", "a cat on a beach", steps=6…): a source from seed 7 in float64, made once."""
    kept: dict[tuple[object, ...], Source] = {}

    def make(
        shape: str = "sd1",
        prompt: str = "a cat on a beach",
        *,
        steps: int = 6,
        guidance_scale: float = 5.0,
        latent_size: tuple[int, int] = (16, 16),
    ) -> Source:
        key = (shape, prompt, steps, guidance_scale, latent_size)
        if key not in kept:
            model = tiny(shape, torch.float64)
            height, width = (side * model.downscale for side in latent_size)
            loop = sample(
                model, prompt, 7, steps=steps, guidance_scale=guidance_scale, height=height, width=width
            )
            kept[key] = drain(loop)
        return kept[key]

    return make


@pytest.fixture(scope="session")
def saved() -> Callable[[Model, Path], Path]:
    """saved(model, path): the model as a diffusers folder, as the hub has them."""

    def save(model: Model, path: Path) -> Path:
        index: dict[str, object] = {
            "_class_name": "StableDiffusionPipeline",
            "unet": ["diffusers", "UNet2DConditionModel"],
            "vae": ["diffusers", "AutoencoderKL"],
            "scheduler": ["diffusers", "PNDMScheduler"],
            "safety_checker": [None, None],
        }
        model.denoiser.unet.save_pretrained(path / "unet")
        model.autoencoder.vae.save_pretrained(path / "vae")
        for suffix, encoder, tokens in zip(
            ("", "_2"), model.text.encoders, model.text.tokenizers, strict=False
        ):
            encoder.save_pretrained(path / f"text_encoder{suffix}")
            tokens.save_pretrained(path / f"tokenizer{suffix}")
            index[f"text_encoder{suffix}"] = ["transformers", type(encoder).__name__]
            index[f"tokenizer{suffix}"] = ["transformers", "CLIPTokenizer"]
        if len(model.text.encoders) > 1:
            index["force_zeros_for_empty_prompt"] = True
        (path / "scheduler").mkdir()
        (path / "scheduler" / "scheduler_config.json").write_text(json.dumps(model.schedule_config))
        (path / "model_index.json").write_text(json.dumps(index))
        return path

    return save
