"""One orderly stop for Ctrl-C, `kill` and a terminal that closes, even during imports and when repeated."""

import signal
import time
from collections.abc import Generator
from contextlib import contextmanager

_PATIENCE = 2.0  # seconds
_SIGNALS = [
    getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)
]  # Windows has no SIGHUP


class Stopped(BaseException):
    """Unwinds the command. Not a `KeyboardInterrupt`: once C code has seen one, Python exits even if it is caught.

    A command whose work goes on when it is typed again raises another one that says so.
    """


class Stop:
    """Whether the command was asked to stop, and by which signal."""

    def __init__(self) -> None:
        self.signum: int | None = None
        self._since = 0.0

    @property
    def code(self) -> int:
        """The exit code by which a shell knows the signal."""
        return 128 + (self.signum or signal.SIGINT)

    def ask(self, signum: int, _: object) -> None:
        """Handle a signal.

        A second Ctrl-C shortly after the first (a double press, or a shell that passes it on) must not interrupt the
        cleanup. After that time the first was lost, and the signal stops the command again.
        """
        now = time.monotonic()
        if self.signum is None or now - self._since > _PATIENCE:
            self.signum, self._since = signum, now
            raise Stopped


@contextmanager
def listening() -> Generator[Stop, None, None]:
    """Handle the signals while the block runs."""
    stop = Stop()
    # An ignored signal stays ignored: shells start background jobs that way.
    handled = [each for each in _SIGNALS if signal.getsignal(each) is not signal.SIG_IGN]
    before = {each: signal.signal(each, stop.ask) for each in handled}
    try:
        yield stop
    finally:
        for each, handler in before.items():
            # After a stop only the message is left to print.
            signal.signal(each, handler if stop.signum is None else signal.SIG_IGN)
