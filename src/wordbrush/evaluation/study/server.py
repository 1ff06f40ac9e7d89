"""The server below the pages: no client keeps a connection for itself.

A client that sends nothing, or half a request, or does not read what it asked for, is cut off when its time is up; and
when there are too many connections, those that wait for their clients make room.
"""

import asyncio
from dataclasses import dataclass
from functools import partial

from wordbrush.extras import need

with need("ui", "the user study"):
    import h11
    import uvicorn
    from fastapi import FastAPI
    from starlette.responses import PlainTextResponse
    from uvicorn.protocols.http.h11_impl import H11Protocol

_BUSY = PlainTextResponse(
    "Too many visitors at once. Nothing was stored: please send it again in a moment.",
    503,
    {"Connection": "close", "Retry-After": "5"},
)
_GRACE = 0.25  # seconds before a new connection is counted
_FLOOD = 4  # times the limit, counted or not: beyond, files could no longer be opened


@dataclass(frozen=True)
class Limits:
    """What one client, and all of them together, may take."""

    request: float = 10.0
    """Seconds for a request, from the connection or the last response to its last byte."""
    response: float = 120.0
    """Seconds for a response, until the client has received it."""
    connections: int = 200
    per_address: int = 100


def make_server(app: FastAPI, limits: Limits | None = None) -> uvicorn.Server:
    """A server of the app: `run(sockets=[listener])` serves until Ctrl-C.

    Without its packages, this module raises `MissingExtraError` when imported.
    """
    config = uvicorn.Config(
        app,
        http=partial(_Connection, limits or Limits()),  # type: ignore[arg-type]  # it is only called
        ws="none",  # no page has web sockets, and they would leave the time limits behind
        log_level="error",  # the warnings are about what clients sent: anyone could fill the log
        access_log=False,  # do not log raters' addresses
        server_header=False,
        backlog=256,  # accepted at once
        timeout_graceful_shutdown=5,
    )
    return uvicorn.Server(config)


class _Connection(H11Protocol):
    """A connection that ends when its client takes too long, or makes room for another."""

    _since: float  # when its phase began
    _is_settled = False

    def __init__(self, limits: Limits, *args: object, **kwargs: object) -> None:
        super().__init__(*args, **kwargs)  # type: ignore[arg-type]
        self._limits = limits

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._enter_phase()
        self._watch()
        if any(sum(not each._is_waiting for each in crowd) >= limit for crowd, limit in self._crowds()):
            self.app = _BUSY
        if len(self.connections) > _FLOOD * self._limits.connections:
            transport.abort()
        self.loop.call_later(_GRACE, self._settle)

    def _settle(self) -> None:
        """Count from now on: an honest client has sent its request by now.

        Those that wait longest make room; those that have had a response, only after all others.
        """
        self._is_settled = True
        for crowd, limit in self._crowds():
            settled = [each for each in crowd if each._is_settled]
            waiting = [each for each in settled if each._is_waiting]
            if waiting and len(settled) > limit:
                min(waiting, key=lambda each: (each._was_served, each._since)).transport.abort()

    def _crowds(self) -> "tuple[tuple[list[_Connection], int], ...]":
        """The connections from this address, and all of them, each with the limit."""
        everyone: list[_Connection] = [
            each for each in self.connections if isinstance(each, _Connection) and not each._is_gone
        ]
        neighbours = [each for each in everyone if each._address == self._address]
        return (neighbours, self._limits.per_address), (everyone, self._limits.connections)

    def connection_lost(self, exc: Exception | None) -> None:
        self._timer.cancel()
        super().connection_lost(exc)

    def shutdown(self) -> None:
        """Close when the server stops; a response that has begun is finished, half a request is not waited for."""
        if self._is_waiting:
            self.transport.abort()
        else:
            super().shutdown()

    @property
    def _address(self) -> str | None:
        return self.client[0] if self.client else None

    @property
    def _is_waiting(self) -> bool:
        """Whether the client has received everything, and the rest of a request, or another one, has to come."""
        return (
            self.conn.their_state in (h11.IDLE, h11.SEND_BODY) and not self.transport.get_write_buffer_size()
        )

    @property
    def _was_served(self) -> bool:
        return bool(self.cycle and self.cycle.response_complete)

    @property
    def _is_gone(self) -> bool:
        """Whether nothing is left but to forget the connection."""
        return self.transport.is_closing() and not self.transport.get_write_buffer_size()

    def _enter_phase(self) -> None:
        self._phase = (self.cycle, self._is_waiting)
        self._since = self.loop.time()

    def _watch(self) -> None:
        """Look at the phase from time to time, rather than at each event: however it began, it ends."""
        limit = self._limits.request if self._is_waiting else self._limits.response
        if self._phase != (self.cycle, self._is_waiting):
            self._enter_phase()
        elif self.loop.time() - self._since > limit:
            self.transport.abort()
        self._timer = self.loop.call_later(self._limits.request / 10, self._watch)
