"""Pictures to learn from, and tiny models by name."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from training.helping import pictures
from wordbrush.model import Model


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return pictures(tmp_path_factory.mktemp("pictures"))


@pytest.fixture(scope="session")
def base(tiny: Callable[..., Model]) -> Callable[..., Model]:
    """base("sd1"…) or base("pocket"), in a type."""
    kept: dict[torch.dtype, Model] = {}

    def make(shape: str = "sd1", dtype: torch.dtype = torch.float32) -> Model:
        if shape != "pocket":
            return tiny(shape, dtype)
        if dtype not in kept:
            kept[dtype] = Model.load("pocket", device="cpu", dtype=dtype)
        return kept[dtype]

    return make


@pytest.fixture(autouse=True)
def short_samples(monkeypatch: pytest.MonkeyPatch) -> None:
    """Samples of one step: what they look like is not tested with tiny models."""
    monkeypatch.setattr("wordbrush.training.run._SAMPLE_STEPS", 1)
