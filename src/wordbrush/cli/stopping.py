"""One orderly stop, however early and however often it is asked for."""

import signal
import time
from collections.abc import Generator
from contextlib import contextmanager

_PATIENCE = 2.0  # seconds


class Stopped(BaseException):
    """Unwinds the command. No `KeyboardInterrupt`: once C code has seen one, Python dies of it whoever catches it."""


class Stop:
    """Whether, and by which signal, the command was asked to stop."""

    def __init__(self) -> None:
        self.signum: int | None = None
        self._since = 0.0

    @property
    def code(self) -> int:
        """The exit code that tells a shell which signal it was."""
        return 128 + (self.signum or signal.SIGINT)

    def ask(self, signum: int, _: object) -> None:
        """Handle a signal.

        A second Ctrl-C shortly after the first, from a nervous finger or a shell that passes it on, must not cut
        the tidying short. Later than that, the first was lost somewhere, and whoever asks again is heard again.
        """
        now = time.monotonic()
        if self.signum is None or now - self._since > _PATIENCE:
            self.signum, self._since = signum, now
            raise Stopped


@contextmanager
def listening() -> Generator[Stop, None, None]:
    """Take Ctrl-C and `kill` as a wish to stop, for as long as the block runs."""
    stop = Stop()
    # A signal that is ignored stays so: that is how a shell starts what runs in the background.
    heard = [each for each in (signal.SIGINT, signal.SIGTERM) if signal.getsignal(each) is not signal.SIG_IGN]
    before = {each: signal.signal(each, stop.ask) for each in heard}
    try:
        yield stop
    finally:
        for each, handler in before.items():
            # After a stop all that is left is to say so and to leave.
            signal.signal(each, handler if stop.signum is None else signal.SIG_IGN)
