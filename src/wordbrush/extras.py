"""Optional packages: what asks for one that is missing says how to get it."""

from collections.abc import Generator
from contextlib import contextmanager

from wordbrush.errors import MissingExtraError


@contextmanager
def need(extra: str, purpose: str) -> Generator[None, None, None]:
    """Import optional packages inside of this block.

    extra: the name under `[project.optional-dependencies]`. purpose: what needs it, as a user would say it.
    Raises `MissingExtraError` with the line that installs it.

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
