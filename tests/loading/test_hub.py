"""Hub ids: from the cache, fetched, or neither."""

from collections.abc import Callable
from fnmatch import fnmatch
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import huggingface_hub
import pytest
from huggingface_hub.errors import DryRunError, LocalEntryNotFoundError

from wordbrush.errors import ModelError
from wordbrush.model import Model

Tiny = Callable[..., Model]
Saved = Callable[[Model, Path], Path]


class Hub:
    """In place of `snapshot_download`: remembers what was asked of it, and refuses a snapshot of which a file that is
    asked for is not in the cache, as the hub's library does."""

    def __init__(self, folder: Path, is_cached: bool) -> None:
        self.folder, self.is_cached, self.asked = folder, is_cached, list[bool]()
        self.variants, self.fetched, self.is_reached = list[str](), list[str](), True

    def __call__(
        self, name: str, *, allow_patterns: list[str], local_files_only: bool = False, dry_run: bool = False
    ) -> str | list[SimpleNamespace]:
        if not dry_run:
            self.asked.append(not local_files_only)
        there = [
            path.relative_to(self.folder).as_posix() for path in self.folder.rglob("*") if path.is_file()
        ]
        wanted = [
            file
            for file in sorted({*there, *self.variants})
            if any(fnmatch(file, pattern) for pattern in allow_patterns)
        ]
        if local_files_only and (not self.is_cached or not {*wanted} <= {*there}):
            raise LocalEntryNotFoundError("not in the cache")
        if not local_files_only and not self.is_reached:
            raise DryRunError("cannot be accessed") from OSError("no network")
        if dry_run:
            return [SimpleNamespace(filename=file) for file in wanted]
        self.fetched = wanted
        return str(self.folder)


@pytest.fixture
def hub(tiny: Tiny, saved: Saved, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[bool], Hub]:
    folder = saved(tiny("sd1"), tmp_path / "model")

    def of(is_cached: bool) -> Hub:
        found: Any = Hub(folder, is_cached)
        monkeypatch.setattr(huggingface_hub, "snapshot_download", found)
        return found

    return of


@pytest.mark.parametrize(
    ("is_cached", "fetch", "asked"),
    [(True, True, [False]), (True, False, [False]), (False, True, [False, True])],
)
def test_the_cache_comes_first(
    is_cached: bool, fetch: bool, asked: list[bool], hub: Callable[[bool], Hub], tiny: Tiny
) -> None:
    there = hub(is_cached)
    model = Model.load("somebody/model", device="cpu", fetch=fetch)
    assert model.hash == tiny("sd1").hash and model.name == "somebody/model" and there.asked == asked


def test_nothing_is_fetched_where_that_is_not_wanted(hub: Callable[[bool], Hub]) -> None:
    there = hub(False)
    said = "no model 'somebody/model' on this machine, and nothing is fetched here"
    with pytest.raises(ModelError, match=said):
        Model.load("somebody/model", device="cpu", fetch=False)
    assert there.asked == [False]


def test_a_slip_of_the_keys_asks_nobody(hub: Callable[[bool], Hub]) -> None:
    there = hub(False)
    with pytest.raises(ModelError, match="no model 'pockt'; did you mean 'pocket'?"):
        Model.load("pockt", device="cpu", fetch=False)
    assert there.asked == []


VARIANTS = [
    *("unet/diffusion_pytorch_model.fp16.safetensors", "unet/diffusion_pytorch_model.non_ema.safetensors"),
    *("vae/diffusion_pytorch_model.fp16.safetensors", "text_encoder/model.fp16.safetensors"),
    "text_encoder/pytorch_model.bin",
]


def test_only_the_weights_that_are_loaded_are_fetched(hub: Callable[[bool], Hub]) -> None:
    there = hub(False)
    there.variants = VARIANTS
    Model.load("somebody/model", device="cpu")
    assert {file for file in there.fetched if file.endswith((".safetensors", ".bin"))} == {
        "unet/diffusion_pytorch_model.safetensors",
        "vae/diffusion_pytorch_model.safetensors",
        "text_encoder/model.safetensors",
    }
    assert {"model_index.json", "scheduler/scheduler_config.json", "unet/config.json"} < {*there.fetched}


def test_a_variant_is_fetched_where_there_is_nothing_else(hub: Callable[[bool], Hub]) -> None:
    there = hub(False)
    plain = there.folder / "unet" / "diffusion_pytorch_model.safetensors"
    plain.rename(plain.with_name("diffusion_pytorch_model.fp16.safetensors"))
    Model.load("somebody/model", device="cpu")
    assert "unet/diffusion_pytorch_model.fp16.safetensors" in there.fetched


def test_a_model_in_the_cache_needs_no_other_variants(hub: Callable[[bool], Hub]) -> None:
    there = hub(True)
    there.variants, there.is_reached = VARIANTS, False
    assert Model.load("somebody/model", device="cpu").name == "somebody/model"


def test_a_fetch_that_was_stopped_goes_on(hub: Callable[[bool], Hub]) -> None:
    there = hub(True)
    (there.folder / "unet" / "diffusion_pytorch_model.safetensors").unlink()
    for there.is_reached in (True, False):  # this hub has no more of it, and what is missing is named
        with pytest.raises(ModelError, match="expected the weights of unet as safetensors"):
            Model.load("somebody/model", device="cpu")
    assert there.asked == [False, True, False]


def test_a_hub_that_cannot_be_reached(hub: Callable[[bool], Hub]) -> None:
    hub(False).is_reached = False
    with pytest.raises(ModelError, match="no such folder or file, and the hub could not be reached$"):
        Model.load("somebody/model", device="cpu")


def test_a_file_that_is_missing_is_no_hub_id(hub: Callable[[bool], Hub]) -> None:
    there = hub(False)
    with pytest.raises(
        ModelError, match="expected a model's file, but there is none at models/sd.safetensors"
    ):
        Model.load("models/sd.safetensors", device="cpu")
    assert there.asked == []
