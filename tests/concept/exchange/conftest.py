"""The tools whose files are read and written, on tiny models: pipelines of diffusers with weights of their own."""

import copy
import warnings
from collections.abc import Callable, Generator
from typing import Any

import pytest
from diffusers import DDIMScheduler, StableDiffusionPipeline, StableDiffusionXLPipeline
from diffusers.models.attention_processor import AttnProcessor
from lycoris import LycorisNetwork

from wordbrush.model import Model


@pytest.fixture(autouse=True)
def tolerant(monkeypatch: pytest.MonkeyPatch) -> Generator[None, None, None]:
    """The tools warn of what they do themselves; transformers wants a version of peft that is not out."""
    monkeypatch.setattr("transformers.integrations.peft.MIN_PEFT_VERSION", "0.21.0")
    for name in ("ENABLE_CONV", "TARGET_REPLACE_MODULE", "LORA_PREFIX"):
        monkeypatch.setattr(LycorisNetwork, name, getattr(LycorisNetwork, name))  # presets stay in the class
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@pytest.fixture
def pipeline(tiny: Callable[..., Model]) -> Callable[[str], Any]:
    """pipeline("sd1"): a pipeline of diffusers with a copy of the tiny model's parts, and its own attention."""

    def make(shape: str) -> Any:
        model = tiny(shape)
        unet = copy.deepcopy(model.denoiser.unet)
        unet.set_attn_processor(AttnProcessor())
        parts: dict[str, Any] = {
            "unet": unet,
            "vae": copy.deepcopy(model.autoencoder.vae),
            "scheduler": DDIMScheduler.from_config(model.schedule_config),
            "text_encoder": copy.deepcopy(model.text.encoders[0]),
            "tokenizer": copy.deepcopy(model.text.tokenizers[0]),
        }
        if shape == "sdxl":
            parts["text_encoder_2"] = copy.deepcopy(model.text.encoders[1])
            parts["tokenizer_2"] = copy.deepcopy(model.text.tokenizers[1])
            return StableDiffusionXLPipeline(**parts)
        return StableDiffusionPipeline(
            **parts, safety_checker=None, feature_extractor=None, requires_safety_checker=False
        )

    return make
