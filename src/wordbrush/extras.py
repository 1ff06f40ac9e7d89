"""Optional packages: an error for a missing one says how to install it."""

from collections.abc import Generator
from contextlib import contextmanager

from wordbrush.errors import MissingExtraError


@contextmanager
def need(extra: str, purpose: str) -> Generator[None, None, None]:
    """Import optional packages inside this block.

    extra: the name under `[project.optional-dependencies]`. purpose: the feature that needs it, as shown to the user.
    Raises `MissingExtraError` with the `pip install` line.

        with need("eval", "plots"):
            import matplotlib
    """
    try:
        yield
    except ModuleNotFoundError as error:
        raise MissingExtraError(
            f"expected the package '{error.name}', which {purpose} needs: "
            f'install it with pip install "wordbrush[{extra}]"'
        ) from error
