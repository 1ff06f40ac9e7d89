import subprocess
import sys
from collections.abc import Generator

import pytest

from wordbrush.progress import Progress, drain


def count(to: int, log: list[str]) -> Generator[Progress, None, str]:
    try:
        for step in range(1, to + 1):
            yield Progress("counting", step, to)
        return f"counted to {to}"
    finally:
        log.append("left")


def test_drain_returns_the_result_and_tells_every_step():
    seen: list[tuple[str, int, int]] = []
    result = drain(count(3, []), lambda p: seen.append((p.stage, p.step, p.total)))
    assert result == "counted to 3"
    assert seen == [("counting", 1, 3), ("counting", 2, 3), ("counting", 3, 3)]


def test_drain_needs_no_listener():
    assert drain(count(0, [])) == "counted to 0"


@pytest.mark.parametrize("exception", [KeyboardInterrupt, RuntimeError])
def test_a_listener_that_raises_closes_the_generator_first(exception: type[BaseException]):
    log: list[str] = []

    def cancel(progress: Progress) -> None:
        if progress.step == 2:
            raise exception

    generator = count(5, log)
    with pytest.raises(exception):
        drain(generator, cancel)
    assert log == ["left"]
    with pytest.raises(StopIteration):
        next(generator)


def test_an_error_inside_the_computation_reaches_the_caller():
    def fails() -> Generator[Progress, None, None]:
        yield Progress("failing", 1, 2)
        raise ArithmeticError("at step 2")

    with pytest.raises(ArithmeticError, match="at step 2"):
        drain(fails())


def test_a_preview_is_computed_only_when_called():
    calls: list[int] = []

    def steps() -> Generator[Progress, None, None]:
        yield Progress("editing", 1, 1, preview=lambda: calls.append(1))  # type: ignore[arg-type]

    drain(steps(), lambda p: p)
    assert calls == []


def test_what_the_command_line_needs_for_help_does_not_import_torch():
    code = "import sys, wordbrush.errors, wordbrush.options, wordbrush.progress, wordbrush.files;"
    subprocess.run([sys.executable, "-c", code + "assert 'torch' not in sys.modules"], check=True)
