"""Hub ids: from the cache, fetched, or neither."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
from huggingface_hub.errors import LocalEntryNotFoundError

from wordbrush.errors import ModelError
from wordbrush.model import Model

Tiny = Callable[..., Model]
Saved = Callable[[Model, Path], Path]


class Hub:
    """In place of `snapshot_download`: remembers what was asked of it."""

    def __init__(self, folder: Path, is_cached: bool) -> None:
        self.folder, self.is_cached, self.asked = folder, is_cached, list[bool]()

    def __call__(self, name: str, *, allow_patterns: list[str], local_files_only: bool = False) -> str:
        self.asked.append(not local_files_only)
        if local_files_only and not self.is_cached:
            raise LocalEntryNotFoundError("not in the cache")
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
