"""What an edit starts from: a picture file, which is inverted, or a saved source."""

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from wordbrush import api, images, provenance
from wordbrush.errors import ImageError, OptionsError, PromptError
from wordbrush.masks import Mask
from wordbrush.model import Model
from wordbrush.progress import Progress, drain
from wordbrush.source import Source, own_model

OnProgress = Callable[[Progress], object]


@dataclass(frozen=True, eq=False)
class Origin:
    """A source, and the picture that an edit of it changes."""

    source: Source
    image: Image.Image
    notices: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False)
class Photo:
    """A picture file, what it shows, and how to invert it."""

    path: Path
    image: Image.Image
    prompt: str
    method: str
    options: Mapping[str, Any]
    notices: tuple[str, ...]

    def reader(self, model: Model, prompts: Iterable[str] = ()) -> Model:
        """The model with as many chunks as the picture's prompts and these others need. Raises `PromptError`."""
        return model.for_prompts([self.prompt, self.options.get("negative_prompt", ""), *prompts])

    def origin(self, model: Model, on_progress: OnProgress, mask: Mask | None = None) -> Origin:
        """Invert the picture, or a window around the mask. Raises `PromptError`, `OptionsError`, `ImageError`."""
        steps = api.invert_steps(
            model, self.path, self.prompt, method=self.method, options=self.options, mask=mask
        )
        source = drain(steps, on_progress)
        assert source.picture is not None, "the source was made of a picture"
        return Origin(source, self.image, (*self.notices, *source.picture.notices))


@dataclass(frozen=True)
class Saved:
    """A source file. Its prompt is known once it is loaded."""

    path: Path
    prompt: None = None

    def reader(self, model: Model, prompts: Iterable[str] = ()) -> Model:
        """The model with as many chunks as the source was made with. Raises `PromptError` for prompts that need more,
        `SourceError` if the source is damaged."""
        own, needed = own_model(self.path, model), model.for_prompts(prompts).chunks
        if needed > own.chunks:
            raise PromptError(
                f"expected prompts that fit the chunks of {self.path} ({own.chunks}), got one that needs {needed}: "
                "shorten it, or edit the picture instead of the source"
            )
        return own

    def origin(self, model: Model, on_progress: OnProgress, mask: Mask | None = None) -> Origin:
        """Load the source; this computes nothing. Raises `SourceError` if it is damaged or another model's."""
        source = Source.load(self.path, model)
        if source.picture is None:
            return Origin(source, source.image(model))
        return Origin(source, source.picture.image, tuple(source.picture.notices))


def read(
    path: Path,
    prompt: str | None,
    *,
    flag: str,
    method: str,
    options: Mapping[str, Any],
    unused: Collection[str] = (),
) -> Photo | Saved:
    """Read the file to start from, before a model is loaded.

    prompt: what it shows, from `flag`; a picture that wordbrush made has it in its record.
    options: the inversion's. unused: what was given and only an inversion would use (`flags.superfluous`).

    Raises `ImageError` for a file that is not a picture, `PromptError` if it is not known what it shows,
    `OptionsError` for options that a saved source does not use.
    """
    if path.suffix != ".source":
        return photo(path, prompt, flag=flag, method=method, options=options)
    if superfluous := [*[flag] * (prompt is not None), *unused]:
        raise OptionsError(f"{path} already has its prompt and its steps: leave {', '.join(superfluous)} out")
    return Saved(path)


def photo(path: Path, prompt: str | None, *, flag: str, method: str, options: Mapping[str, Any]) -> Photo:
    """`read` for a picture file alone."""
    image = images.load(path)
    notices: list[str] = image.info["notices"]
    if prompt is None:
        prompt = _own_prompt(path)
        if prompt is None:
            raise PromptError(
                f'expected a prompt that says what {path} shows, as in {flag} "a cat on a beach"'
            )
        notices = [*notices, f'without {flag}: the record in {path} says that it was made from "{prompt}"']
    if not prompt.strip():
        raise PromptError(f"expected {flag} to say what {path} shows, got nothing")
    return Photo(path, image, prompt, method, options, tuple(notices))


def _own_prompt(path: Path) -> str | None:
    """The prompt in a picture's record; None for pictures that wordbrush did not make."""
    try:
        record = provenance.read_record(path)
    except (ImageError, OptionsError):
        return None
    return record.targets[record.index] if record.targets else record.source.prompt
