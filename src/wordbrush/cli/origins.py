"""What an edit starts from: a picture file, which is inverted, or a saved source."""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from wordbrush import api, images, provenance
from wordbrush.errors import ImageError, OptionsError, PromptError
from wordbrush.model import Model
from wordbrush.progress import Progress
from wordbrush.source import Source

OnProgress = Callable[[Progress], object]


@dataclass(frozen=True, eq=False)
class Origin:
    """A source, the picture that it stands for, and what to write down of it."""

    source: Source
    image: Image.Image
    record: provenance.SourceRecord
    notices: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False)
class Photo:
    """A picture file as it was read, what it shows, and how to invert it."""

    path: Path
    image: Image.Image
    prompt: str
    method: str
    options: Mapping[str, Any]
    notices: tuple[str, ...]

    def origin(self, model: Model, on_progress: OnProgress) -> Origin:
        """Invert the picture. Raises `PromptError`, `OptionsError`."""
        source = api.invert(
            model,
            self.image,
            self.prompt,
            method=self.method,
            options=self.options,
            on_progress=on_progress,
        )
        height, width = model.image_size
        notices = list(self.notices)
        if self.image.width * height != self.image.height * width:
            size = f"{self.image.width} × {self.image.height}"
            notices.append(f"{self.path} ({size}) was cropped around its middle to fit {width} × {height}")
        record = provenance.source_record(
            model, source, self.options, picture=provenance.file_record(self.path)
        )
        return Origin(source, images.fit(self.image, width, height), record, tuple(notices))


@dataclass(frozen=True)
class Saved:
    """A source file. What it shows is known when it is loaded."""

    path: Path
    prompt: None = None

    def origin(self, model: Model, on_progress: OnProgress) -> Origin:
        """Load the source, which takes no steps. Raises `SourceError` if it is damaged or another model's."""
        source = Source.load(self.path, model)
        record = provenance.source_record(
            model, source, source.options, saved=provenance.file_record(self.path)
        )
        return Origin(source, source.image(model), record)


def seeded(model: Model, source: Source) -> Origin:
    """A generated picture's."""
    return Origin(source, source.image(model), provenance.source_record(model, source, source.options))


def read(
    path: Path,
    prompt: str | None,
    *,
    flag: str,
    method: str,
    options: Mapping[str, Any],
    unused: Collection[str] = (),
) -> Photo | Saved:
    """Read what was given to start from, before any model is asked.

    prompt: what it shows, as `flag` said; a picture that wordbrush made can say so itself.
    options: the inversion's. unused: those of them that nothing but an inversion would use.

    Raises `ImageError` for a file that is no picture, `PromptError` if nothing says what it shows,
    `OptionsError` for what a saved source has no use for.
    """
    if path.suffix != ".source":
        return photo(path, prompt, flag=flag, method=method, options=options)
    if superfluous := [flag] * (prompt is not None) + [f"'{name}'" for name in unused]:
        raise OptionsError(f"{path} has its prompt and its steps already: leave {', '.join(superfluous)} out")
    return Saved(path)


def photo(path: Path, prompt: str | None, *, flag: str, method: str, options: Mapping[str, Any]) -> Photo:
    """`read` for a picture file alone."""
    image = images.load(path)
    notices: list[str] = image.info["notices"]
    if prompt is None:
        prompt = _own_prompt(path)
        if prompt is None:
            raise PromptError(f'expected to be told what {path} shows, as in {flag} "a cat on a beach"')
        notices = [*notices, f'without {flag}: {path} says that it was made from "{prompt}"']
    if not prompt.strip():
        raise PromptError(f"expected {flag} to say what {path} shows, got nothing")
    return Photo(path, image, prompt, method, options, tuple(notices))


def _own_prompt(path: Path) -> str | None:
    """The prompt that a picture of ours was made from; none for other pictures."""
    try:
        made = provenance.read_record(path)
    except (ImageError, OptionsError):
        return None
    return made.targets[made.index] if made.targets else made.source.prompt
