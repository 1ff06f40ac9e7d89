"""A limit on the time that something takes."""

import signal
from collections.abc import Generator
from contextlib import contextmanager


class TooLong(BaseException):
    """Not an `Exception`, which `main` would catch."""


@contextmanager
def limited(seconds: float) -> Generator[None]:
    def stop(*_: object) -> None:
        raise TooLong(f"after {seconds} seconds")

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
