"""The server that `wordbrush study serve` runs, on a real port, with clients that do not behave."""

import socket
import sqlite3
import threading
import time
from collections.abc import Callable, Generator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager, suppress
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image

from wordbrush.evaluation.study import app as apps
from wordbrush.evaluation.study import server as servers
from wordbrush.evaluation.study import store as stores
from wordbrush.evaluation.study.app import create_app
from wordbrush.evaluation.study.design import Study
from wordbrush.evaluation.study.server import Limits, make_server
from wordbrush.evaluation.study.store import Store

from .test_app import answer, begin, checked, chosen, fields, heading

Make = Callable[..., Study]
QUICK = Limits(request=0.5, response=1.0)


@contextmanager
def serving(
    study: Study, limits: Limits = QUICK, *, send_buffer: int | None = None, **settings: Any
) -> Generator[int]:
    """The port of a server, in a thread."""
    with (
        socket.create_server(("127.0.0.1", 0)) as listener,
        Store(study.answers, study.settings.kind) as store,
    ):
        if send_buffer is not None:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, send_buffer)
        server = make_server(create_app(study, store, **settings), limits)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        try:
            yield listener.getsockname()[1]
        finally:
            server.should_exit = True
            thread.join(30)
            assert not thread.is_alive()


@contextmanager
def rater(port: int) -> Generator[Any]:
    with httpx.Client(base_url=f"http://127.0.0.1:{port}", follow_redirects=True) as client:
        yield client


def opened(port: int, sent: bytes = b"") -> socket.socket:
    """A connection on which this was sent."""
    connection = socket.create_connection(("127.0.0.1", port), timeout=10)
    connection.sendall(sent)
    return connection


def received(connection: socket.socket) -> bytes:
    """All that comes until the server closes the connection."""
    parts: list[bytes] = []
    try:
        while part := connection.recv(65536):
            parts.append(part)
    except ConnectionError:
        pass
    return b"".join(parts)


def was_closed(connection: socket.socket) -> bool:
    connection.setblocking(False)
    try:
        return connection.recv(1) == b""
    except BlockingIOError:
        return False
    except ConnectionError:
        return True


FORM = b"POST /begin HTTP/1.1\r\nHost: x\r\nContent-Type: application/x-www-form-urlencoded\r\n"


GET = b"GET /nowhere HTTP/1.1\r\nHost: x\r\n\r\n"
UNFINISHED = (
    b"",
    b"GET / HT",
    b"GET / HTTP/1.1\r\nHost: x\r\n",
    FORM + b"Content-Length: 100\r\n\r\nform_",
    FORM + b"Transfer-Encoding: chunked\r\n\r\n5\r\nform_\r\n",
    b"POST /nowhere HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\nx",
    GET,  # and no second request
    GET * 2 + b"GET",
    GET + FORM + b"Content-Length: 100\r\n\r\nform_",
)


def test_a_request_has_a_time(make: Make, capfd: pytest.CaptureFixture[str]):
    with serving(make("rating")) as port, ExitStack() as stack:
        began = time.monotonic()
        for each in [stack.enter_context(closing(opened(port, sent))) for sent in UNFINISHED]:
            received(each)
        assert 0.4 < time.monotonic() - began < 3
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("start", [b"GET / HTTP/1.1\r\nX-Slow: ", FORM + b"Content-Length: 90000\r\n\r\n"])
def test_a_byte_now_and_then_does_not_make_it_longer(make: Make, start: bytes):
    with serving(make("rating")) as port, closing(opened(port, start)) as connection:
        began = time.monotonic()
        while not was_closed(connection):
            assert time.monotonic() - began < 3
            time.sleep(0.05)
            with suppress(ConnectionError):
                connection.sendall(b"x")


@pytest.mark.slow
def test_what_is_not_read_is_not_kept(make: Make):
    study = make("rating", items=2, methods=("one",), attention_checks=0)
    pixels = np.random.default_rng(0).integers(0, 256, (500, 500, 3), dtype=np.uint8)
    for path in study.folder.glob("items/*/*.png"):
        Image.fromarray(pixels).save(path)
    with serving(study, send_buffer=16384) as port, rater(port) as browser:
        path = begin(browser).text.split('src="')[1].split('"')[0]
        assert len(browser.get(path).content) > 750_000
        with closing(socket.socket()) as connection:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 16384)
            connection.connect(("127.0.0.1", port))
            connection.sendall(f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
            time.sleep(1.6)
            assert len(received(connection)) < 500_000


@pytest.mark.parametrize(
    "limits", [Limits(per_address=20), Limits(connections=20)], ids=["per address", "in total"]
)
def test_who_waits_makes_room_for_raters(make: Make, limits: Limits):
    study = make("rating", pages_per_rater=3, attention_checks=0)
    with serving(study, limits) as port, ExitStack() as stack, rater(port) as browser:
        served = stack.enter_context(closing(opened(port, GET)))
        assert served.recv(65536).startswith(b"HTTP/1.1 404 ")
        silent = [stack.enter_context(closing(opened(port, sent))) for sent in UNFINISHED[:3] * 20]
        time.sleep(0.5)
        response = begin(browser)
        while response.url.path.startswith("/page"):
            response = answer(browser, response)
        assert heading(response) == "/thanks"
        closed = [was_closed(each) for each in silent]
        assert closed == sorted(closed, reverse=True)  # the oldest made room
        assert closed.count(False) < 20
        served.settimeout(0.1)
        with suppress(TimeoutError):  # nothing more came, and it is open
            while served.recv(65536):
                pass
            pytest.fail("who was served makes room last")


def test_a_flood_is_cut_off_at_once(make: Make, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(servers, "_GRACE", 30.0)
    with serving(make("rating"), Limits(connections=5)) as port, ExitStack() as stack:
        silent = [stack.enter_context(closing(opened(port))) for _ in range(30)]
        time.sleep(0.3)
        assert [was_closed(each) for each in silent] == [False] * 20 + [True] * 10


def test_when_all_are_busy_the_next_is_told(make: Make, monkeypatch: pytest.MonkeyPatch):
    study, begun, done = make("rating"), threading.Semaphore(0), threading.Event()
    real = Store.rater

    def slow(store: Store, key: str) -> Any:
        begun.release()
        assert done.wait(30)
        return real(store, key)

    with serving(study, Limits(connections=5)) as port, ExitStack() as stack, rater(port) as browser:
        cookie = browser.get("/").cookies.jar
        monkeypatch.setattr(Store, "rater", slow)
        header = "; ".join(f"{each.name}={each.value}" for each in cookie)
        request = f"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\nCookie: {header}\r\n\r\n".encode()
        busy = [stack.enter_context(closing(opened(port, request))) for _ in range(5)]
        for _ in busy:
            assert begun.acquire(timeout=10)
        with closing(opened(port, request)) as late:
            reply = received(late)
        assert reply.startswith(b"HTTP/1.1 503 ")
        assert b"Nothing was stored" in reply
        done.set()
        assert all(received(each).startswith(b"HTTP/1.1 200 ") for each in busy)
        assert browser.get("/").status_code == 200


def test_stopping_does_not_wait_for_half_a_request(make: Make, capfd: pytest.CaptureFixture[str]):
    with ExitStack() as stack:
        with serving(make("rating"), Limits()) as port:
            for sent in (b"", FORM + b"Content-Length: 100\r\n\r\nform_"):
                stack.enter_context(closing(opened(port, sent)))
            assert httpx.get(f"http://127.0.0.1:{port}/nowhere").status_code == 404
            began = time.monotonic()
        assert time.monotonic() - began < 3
    assert capfd.readouterr() == ("", "")


@pytest.mark.slow
def test_a_program_that_holds_the_answers_stops_nobody_who_reads(make: Make, monkeypatch: pytest.MonkeyPatch):
    for module in (apps, stores):
        monkeypatch.setattr(module, "PATIENCE", 0.8)
    study = make("rating", attention_checks=0)
    with serving(study, Limits()) as port, rater(port) as browser, ThreadPoolExecutor(60) as pool:
        page = begin(browser)
        sent = chosen(page.text, 2)
        picture = page.text.split('src="')[1].split('"')[0]
        with closing(sqlite3.connect(study.answers, isolation_level=None)) as other:
            other.execute("BEGIN EXCLUSIVE")
            began = time.monotonic()
            waiting = [pool.submit(browser.post, "/page/1", data=sent) for _ in range(60)]
            time.sleep(0.2)
            for path in ("/page/1", "/", picture):
                assert browser.get(path).status_code == 200
            assert (
                browser.post("/page/1", data={**sent, "form_token": "x"}).status_code == 403
            )  # takes no turn
            assert not all(each.done() for each in waiting)
            replies = [each.result() for each in waiting]
            assert time.monotonic() - began < 5
            other.execute("ROLLBACK")
        for reply in replies:
            assert reply.status_code == 503
            assert fields(reply.text) == {name: [value] for name, value in sent.items()}
        with Store(study.answers, "rating") as store:
            assert store.answers() == []
        assert heading(answer(browser, replies[0])).startswith("2 of")
        assert set(checked(browser.get("/page/1").text).values()) == {"3"}
