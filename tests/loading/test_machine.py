"""Devices and types: by name, checked before anything is loaded, and each part in a type that holds its numbers."""

import pytest
import torch

from wordbrush import Model, edit, generate, invert
from wordbrush.errors import ModelError, NumericsError
from wordbrush.loading.machine import autoencoder_dtype, device_of, dtype_of
from wordbrush.model.autoencoder import Autoencoder

CPU = torch.device("cpu")


@pytest.mark.parametrize("device", ["", "meta", "no", "cuda:99", "cpu:", "cpu:1", "x" * 300])
def test_a_device_that_is_not_there(device: str) -> None:
    with pytest.raises(ModelError, match="there is no device .* here; there is cpu"):
        device_of(device)


@pytest.mark.parametrize("device", ["cpu", "cpu:0", CPU])
def test_a_cpu_computes_in_float32_however_it_is_named(device: str) -> None:
    assert dtype_of(None, device_of(device)) == torch.float32


def test_another_device_computes_in_float16() -> None:
    assert dtype_of(None, torch.device("mps")) == torch.float16


def test_a_type_by_its_name() -> None:
    assert dtype_of("float16", CPU) == dtype_of(torch.float16, CPU) == torch.float16


@pytest.mark.parametrize("dtype", ["", "half", "int8", "x" * 300, torch.int64])
def test_a_type_that_no_model_computes_in(dtype: str) -> None:
    with pytest.raises(
        ModelError, match="expected dtype to be one of float32, bfloat16, float16, float64, got"
    ):
        dtype_of(dtype, CPU)


def test_an_autoencoder_stays_in_float32_unless_its_config_allows_float16() -> None:
    assert autoencoder_dtype({"force_upcast": True}, torch.float16) == torch.float32
    assert autoencoder_dtype({}, torch.float16) == torch.float32
    assert autoencoder_dtype({"force_upcast": False}, torch.float16) == torch.float16
    assert autoencoder_dtype({"force_upcast": True}, torch.bfloat16) == torch.bfloat16


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_the_built_in_model_edits_a_picture_in_half_precision(dtype: str) -> None:
    model = Model.load("pocket", dtype=dtype)
    assert model.dtype == dtype_of(dtype, CPU)
    photo = generate(model, "a cat on a beach", seed=7, steps=2)
    for method in ("straight", "direct"):
        source = invert(model, photo, "a cat on a beach", method=method, options={"steps": 2})
        assert source.trajectory.isfinite().all()
        assert edit(model, source, "a dog on a beach").trajectory.isfinite().all()


@pytest.mark.slow
def test_an_autoencoder_that_overflows_is_named() -> None:
    """The sources of trouble in float16: before, the message spoke of the guidance scale."""
    vae = Model.load("pocket").autoencoder.vae.to(torch.float16)
    picture = torch.rand(1, 3, 128, 128, generator=torch.Generator().manual_seed(0)) * 2 - 1
    with pytest.raises(
        NumericsError, match="the autoencoder returned .* in float16: load the model in float32"
    ):
        Autoencoder(vae).encode(picture)
