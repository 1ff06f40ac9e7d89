"""A small study in a folder, as another tool would write it."""

from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from wordbrush.evaluation.study.design import NewItem, Settings, Study, write_study

METHODS = ("prompt-to-prompt", "text2live", "vqgan-clip")


def picture(*name: object, size: int = 32) -> Image.Image:
    """A picture of its own for each name; its PNG says which method made it, as wordbrush's do."""
    seed = list(repr(name).encode())
    pixels = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    return Image.fromarray(pixels).resize((size, size), Image.Resampling.NEAREST)


@pytest.fixture
def make(tmp_path: Path) -> Callable[..., Study]:
    """make("rating", items=4, seed=1, …) → a study in a folder of its own; every picture names its method inside."""

    made = count()

    def make(kind: str, *, items: int = 6, references: int = 0, **settings: Any) -> Study:
        methods = settings.pop("methods", METHODS)
        chosen = Settings.model_validate(
            {"title": "Which edit?", "kind": kind, "methods": methods, **settings}
        )
        new = [
            NewItem(
                name=f"item-{i}",
                prompt=f"a tiger number {i} <b>next</b> to a mirror",
                pictures={method: picture(i, method) for method in methods},
                source=None if references else picture(i, "source"),
                references=tuple(picture(i, "reference", r) for r in range(references)),
            )
            for i in range(items)
        ]
        study = write_study(tmp_path / f"study-{next(made)}", chosen, new)
        for item in study.items.values():
            for method, path in item.pictures.items():
                text = PngImagePlugin.PngInfo()
                text.add_text("wordbrush", f'{{"method": "{method}"}}')
                Image.open(path).save(path, pnginfo=text)
        return study

    return make
