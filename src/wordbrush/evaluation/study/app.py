"""The pages of a study, rendered on the server. They need no script, and no path or URL that a visitor sends is opened.

    GET  /               the introduction; a rater who has begun is redirected to their current page
    POST /begin          the rater agrees and gets their pages
    GET  /page/N         a page; POST stores its answers, then shows the next
    GET  /thanks         the end
    GET  /picture/ID     a picture under an opaque name, pixels only: no file name or metadata reveals the method

A cookie identifies the rater, and the store has their answers: reloading, closing the browser or killing the server
loses no answer that was sent.
"""

import asyncio
import hmac
import io
import logging
import re
import secrets
import sqlite3
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import lru_cache, partial
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

from wordbrush.evaluation.study import forms
from wordbrush.evaluation.study.assignment import SAME, Trial, assign, check_known, other_item
from wordbrush.evaluation.study.checks import inattentive
from wordbrush.evaluation.study.design import Item, Study
from wordbrush.evaluation.study.guesses import FORGET_AFTER, Guesses
from wordbrush.evaluation.study.store import PATIENCE, Rater, Store
from wordbrush.extras import need

with need("ui", "the user study"):
    from fastapi import Depends, FastAPI, Request
    from fastapi.concurrency import run_in_threadpool
    from jinja2 import Environment, FileSystemLoader, StrictUndefined
    from starlette.convertors import IntegerConvertor, register_url_convertor
    from starlette.exceptions import HTTPException
    from starlette.middleware.trustedhost import TrustedHostMiddleware
    from starlette.requests import ClientDisconnect
    from starlette.responses import HTMLResponse, RedirectResponse, Response

_LOG = logging.getLogger(__name__)
_HERE = Path(__file__).parent
_STATIC_FILES = {"style.css": "text/css", "keys.js": "text/javascript"}
_HALF_A_YEAR = 60 * 60 * 24 * 182
_MAX_FORM_BYTES = 100_000  # the largest form has a few thousand
_MAX_FIELDS = 1000
_KEY = re.compile(r"[\w-]{32}", re.ASCII)  # as `welcome` makes them
_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; img-src 'self'; style-src 'self'; script-src 'self'; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
    "Referrer-Policy": "same-origin",
    "X-Content-Type-Options": "nosniff",
}
_NO_COOKIE = (
    "Your browser did not send the cookie that identifies you. Allow cookies for this site, go back, reload the page "
    "and send it again."
)


class _PageNumber(IntegerConvertor):
    """A few digits; anything else is no page. Python raises an error for a number of thousands of digits."""

    regex = "[0-9]{1,4}"


register_url_convertor("page_number", _PageNumber())


def create_app(
    study: Study, store: Store, *, token: str | None = None, hosts: Sequence[str] | None = None
) -> FastAPI:
    """The app that serves a study.

    token: required in the first request as `?token=…`; afterwards a cookie shows that it was given. hosts: the host
    names that the server accepts (default: any); without a token they prevent DNS rebinding. Raises `InputError` if the
    answers belong to another study. Without its packages, this module raises `MissingExtraError` when imported.
    """
    for trials in store.trials().values():
        check_known(study, trials)
    pages = _Pages(study, store)
    app = FastAPI(
        title=study.settings.title, docs_url=None, redoc_url=None, openapi_url=None, redirect_slashes=False
    )
    app.add_api_route("/", pages.welcome)
    app.add_api_route("/begin", pages.begin, methods=["POST"])
    app.add_api_route("/page/{number:page_number}", pages.page)
    app.add_api_route("/page/{number:page_number}", pages.answer, methods=["POST"])
    app.add_api_route("/thanks", pages.thanks)
    app.add_api_route("/picture/{name}", pages.picture)
    app.add_api_route("/{name}", _file)
    app.add_exception_handler(HTTPException, pages.http_error)
    for error in (sqlite3.Error, Exception):  # the first is expected; the second is also raised, to be logged
        app.add_exception_handler(error, pages.error)
    app.add_exception_handler(ClientDisconnect, _left)
    app.middleware("http")(partial(_respond, pages, token))
    if hosts is not None:
        app.add_middleware(TrustedHostMiddleware, allowed_hosts=list(hosts))
    return app


async def _respond(
    pages: "_Pages", token: str | None, request: Request, call_next: Callable[[Request], Awaitable[Response]]
) -> Response:
    """Check the token of a request, and set the headers of its response."""
    response = await pages.early_response(request, token) or await call_next(request)
    for name, value in _HEADERS.items():
        response.headers[name] = value
    response.headers.setdefault("Cache-Control", "no-store")  # so that going back shows the stored answers
    return response


async def _form(request: Request) -> dict[str, str]:
    """The fields of the form in a request. Raises `HTTPException` if it is not a form that our pages send."""
    if request.headers.get("content-type", "").split(";")[0].strip() != "application/x-www-form-urlencoded":
        raise HTTPException(415, "It was not sent by a form of this site. Go back and reload the page.")
    body = bytearray()
    size = request.headers.get("content-length", "0")
    try:
        if int(size) <= _MAX_FORM_BYTES:
            async for part in request.stream():
                body += part
                if len(body) > _MAX_FORM_BYTES:  # it had no length, or a wrong one
                    break
            else:
                request.state.form = dict(
                    parse_qsl(body.decode(), errors="strict", max_num_fields=_MAX_FIELDS)
                )
                return request.state.form
    except ValueError as error:
        raise HTTPException(400, "The form could not be read. Go back and reload the page.") from error
    raise HTTPException(413, "The form was too large.")


Form = Depends(_form)


async def _left(request: Request, error: Exception) -> Response:
    """Whoever sends half a form and leaves has no answer, and is no error of ours."""
    return Response(status_code=408)


def _file(name: str) -> Response:
    if name == "favicon.ico":  # browsers request it on their own
        return Response(status_code=204)
    if name not in _STATIC_FILES:
        raise HTTPException(404)
    text = (_HERE / "static" / name).read_bytes()
    return Response(text, media_type=_STATIC_FILES[name], headers={"Cache-Control": "max-age=600"})


class _Pages:
    """The handlers of all addresses."""

    def __init__(self, study: Study, store: Store) -> None:
        self.study, self.store = study, store
        self.templates = Environment(
            loader=FileSystemLoader(_HERE / "templates"),
            autoescape=True,
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        items = study.items.values()
        paths = {path for item in items for path in (*item.originals, *item.pictures.values())}
        self.names = {path: self._digest(f"picture {path.relative_to(study.folder)}")[:24] for path in paths}
        self.pictures = {name: path for path, name in self.names.items()}
        # Cookies ignore ports: two studies on one machine need different names.
        suffix = self._digest("cookie")[:8]
        self.key_cookie, self.token_cookie = f"wordbrush_rater_{suffix}", f"wordbrush_token_{suffix}"
        self.guesses = Guesses()
        self.turn = asyncio.Lock()  # to write
        self.pixels_of = lru_cache(maxsize=256)(_pixels_only)

    # Access

    async def early_response(self, request: Request, token: str | None) -> Response | None:
        """The response to a request that is refused, or that has the token in its address; None for all others."""
        if token is None or request.scope["path"].removeprefix("/") in _STATIC_FILES:
            return None
        # Not the token itself: whoever guesses may guess 256 bits here, and for the token has to wait below.
        ticket = self._digest(f"token {token}")
        given = request.query_params.get("token")
        if _equal(request.cookies.get(self.token_cookie, ""), ticket):
            return None if given is None else _redirect("/")
        address = request.client.host if request.client else ""
        if given is not None and await self.guesses.may_try(address):
            if _equal(self._digest(f"token {given}"), ticket):
                response = _redirect("/")  # removes the token from the address and the browser history
                self._set_cookie(request, response, self.token_cookie, ticket)
                return response
            self.guesses.was_wrong(address)
        if given is not None and self.guesses.is_slow(address):
            return self._message(
                request,
                429,
                "Too many wrong links.",
                "Many incomplete or wrong links were opened from your network. Wait a minute, then open the complete "
                "link that you were given.",
                {"Retry-After": str(round(FORGET_AFTER))},
            )
        return self._message(
            request,
            401,
            "This study is by invitation.",
            "Please open the complete link that you were given; it ends in “?token=…”.",
        )

    def _key(self, request: Request) -> str | None:
        """The key in the rater's cookie; None if there is none that this site gave."""
        key = request.cookies.get(self.key_cookie, "")
        return key if _KEY.fullmatch(key) else None

    def _rater(self, request: Request) -> Rater | None:
        key = self._key(request)
        return self.store.rater(key) if key else None

    def _set_cookie(self, request: Request, response: Response, name: str, value: str) -> None:
        # Lax: following a link sends the cookie, submitting a form on another site does not.
        response.set_cookie(
            name,
            value,
            max_age=_HALF_A_YEAR,
            httponly=True,
            samesite="lax",
            secure=request.scope["scheme"] == "https",
        )

    def _digest(self, text: str) -> str:
        return hmac.digest(self.store.secret, text.encode(), "sha256").hex()

    def _form_token(self, key: str) -> str:
        return self._digest(f"form {key}")

    def _check_form(self, request: Request, form: Mapping[str, str]) -> str:
        """The rater's key. Raises `HTTPException` unless the form was made for this rater."""
        key = self._key(request)
        if key is None:
            raise HTTPException(400, _NO_COOKIE)
        if not _equal(form.get("form_token", ""), self._form_token(key)):
            raise HTTPException(
                403, "This form was not made for you, or is too old. Go back and reload the page."
            )
        return key

    # Pages

    def welcome(self, request: Request) -> Response:
        """The introduction; nothing is stored yet."""
        rater = self._rater(request)
        if rater is not None:
            return _redirect(self._current_path(rater))
        key = self._key(request) or secrets.token_urlsafe(24)
        settings = self.study.settings
        pages = min(settings.pages_per_rater, len(self.study.units)) + settings.attention_checks
        response = self._page(
            request,
            "welcome.html",
            pages=pages,
            instructions=[part for part in settings.instructions.split("\n\n") if part.strip()],
            contact=settings.contact,
            kind=settings.kind,
            form_token=self._form_token(key),
        )
        self._set_cookie(request, response, self.key_cookie, key)
        return response

    async def begin(self, request: Request, form: dict[str, str] = Form) -> Response:
        """Assign pages to the rater. Units of inattentive raters are assigned again: the report leaves them out."""
        key = self._check_form(request, form)
        discounted = await run_in_threadpool(lambda: inattentive(self.study, self.store.answers()))
        return await self._in_turn(request, self._begin, key, discounted)

    async def answer(self, request: Request, number: int, form: dict[str, str] = Form) -> Response:
        """Store a page's answers, then redirect to the next page: the answers are on the disk before it is shown."""
        self._check_form(request, form)
        return await self._in_turn(request, self._answer, number, form)

    async def _in_turn(self, request: Request, handler: Callable[..., Response], *args: object) -> Response:
        """Call a handler that writes, one after another: while they wait, they keep no thread from those who read."""
        try:
            async with asyncio.timeout(PATIENCE):
                await self.turn.acquire()
        except TimeoutError:
            return self._unsaved(request)
        try:
            return await run_in_threadpool(handler, request, *args)
        finally:
            self.turn.release()

    def _begin(self, request: Request, key: str, discounted: set[int]) -> Response:
        rater = self.store.admit(key, partial(assign, self.study), discounted)
        if rater is None:
            return self._message(
                request, 200, "Thank you for coming.", "All questions have been answered by now."
            )
        return _redirect(self._current_path(rater))

    def page(self, request: Request, number: int) -> Response:
        """The current page, or one that was answered before."""
        rater = self._rater(request)
        if rater is None:
            return _redirect("/")
        answered = self.store.answered(rater.number)
        if not 1 <= number <= min(self._first_unanswered(rater, answered), len(rater.trials)):
            return _redirect(self._current_path(rater))
        trial = rater.trials[number - 1]
        form = forms.fill(self.study.settings.kind, trial, answered.get(number, {}))
        return self._trial_page(request, rater, number, form, [])

    def _answer(self, request: Request, number: int, form: Mapping[str, str]) -> Response:
        rater = self._rater(request)
        if rater is None:
            return _redirect("/")
        answered = self.store.answered(rater.number)
        if not 1 <= number <= min(self._first_unanswered(rater, answered), len(rater.trials)):
            return _redirect(self._current_path(rater))
        settings, trial = self.study.settings, rater.trials[number - 1]
        answers, problems = forms.read(settings.kind, settings.questions, trial, form)
        if problems:
            return self._trial_page(request, rater, number, form, problems)
        self.store.record(rater.number, number, answers)
        return _redirect(self._current_path(rater))

    def thanks(self, request: Request) -> Response:
        """The last page, for raters who have answered all others."""
        rater = self._rater(request)
        path = "/" if rater is None else self._current_path(rater)
        if rater is None or path != "/thanks":
            return _redirect(path)
        return self._page(request, "thanks.html", last=len(rater.trials), contact=self.study.settings.contact)

    def picture(self, request: Request, name: str) -> Response:
        """The pixels of a picture."""
        if name not in self.pictures:
            raise HTTPException(404)
        headers = {"Cache-Control": "private, max-age=86400"}
        return Response(self.pixels_of(self.pictures[name]), media_type="image/png", headers=headers)

    async def http_error(self, request: Request, error: Exception) -> Response:
        """A page that shows the error."""
        assert isinstance(error, HTTPException)
        if error.status_code in (404, 405):
            return self._message(request, error.status_code, "There is no such page.", "")
        return self._message(request, error.status_code, "That did not work.", error.detail)

    async def error(self, request: Request, error: Exception) -> Response:
        """A page that says that nothing was stored: another program holds the file, the disk is full, or it is our
        mistake.
        """
        if isinstance(error, sqlite3.Error):
            _LOG.error("cannot use %s: %s", self.store.path, error)
        if hasattr(request.state, "form"):
            return self._unsaved(request)
        return self._message(
            request, 503, "Please wait a moment.", "Then reload this page. Your earlier answers are safe."
        )

    def _unsaved(self, request: Request) -> Response:
        """A page that keeps what was sent, to send it again."""
        path = request.scope["path"]
        return self._page(request, "unsaved.html", status=503, path=path, form=request.state.form)

    # Parts of pages

    def _first_unanswered(self, rater: Rater, answered: Mapping[int, Mapping[str, str]]) -> int:
        """The number of the first page with an unanswered question; the number of pages + 1 if there is none."""
        questions = {question.id for question in self.study.settings.questions}
        pages = range(1, len(rater.trials) + 1)
        unanswered = (page for page in pages if questions - answered.get(page, {}).keys())
        return next(unanswered, len(rater.trials) + 1)

    def _current_path(self, rater: Rater) -> str:
        number = self._first_unanswered(rater, self.store.answered(rater.number))
        return "/thanks" if number > len(rater.trials) else f"/page/{number}"

    def _trial_page(
        self,
        request: Request,
        rater: Rater,
        number: int,
        form: Mapping[str, str],
        problems: Sequence[str],
    ) -> Response:
        settings, trial = self.study.settings, rater.trials[number - 1]
        item = self.study.items[trial.item]
        about = {question.about for question in settings.questions}
        label = "The original" if item.has_source else "Reference"
        originals = [(path, label) for path in item.originals] if "source" in about else []
        pictures = [
            (
                self._picture_path(item, trial, shown),
                "The edited picture" if settings.kind == "rating" else f"Picture {forms.letter(i)}",
            )
            for i, shown in enumerate(trial.shown)
        ]
        views = [
            {"name": self.names[path], "label": label, "number": i}
            for i, (path, label) in enumerate([*originals, *pictures], 1)
        ]
        return self._page(
            request,
            "trial.html",
            status=422 if problems else 200,
            kind=settings.kind,
            number=number,
            total=len(rater.trials),
            prompt=item.prompt if "words" in about else "",
            originals=views[: len(originals)],
            pictures=views[len(originals) :],
            questions=[
                {"text": question.text, "groups": forms.groups(settings.kind, question, trial)}
                for question in settings.questions
            ],
            form=form,
            problems=problems,
            form_token=self._form_token(request.cookies[self.key_cookie]),
        )

    def _picture_path(self, item: Item, trial: Trial, shown: str) -> Path:
        if (other := other_item(shown)) is not None:
            return self.study.items[other].originals[0]
        return item.originals[0] if shown == SAME else item.pictures[shown]

    def _message(
        self,
        request: Request,
        status: int,
        heading: str,
        text: str,
        headers: Mapping[str, str] | None = None,
    ) -> Response:
        response = self._page(request, "message.html", status=status, heading=heading, text=text)
        response.headers.update(headers or {})
        return response

    def _page(self, request: Request, template: str, *, status: int = 200, **values: Any) -> Response:
        text = self.templates.get_template(template).render(title=self.study.settings.title, **values)
        return HTMLResponse(text, status)


def _pixels_only(path: Path) -> bytes:
    """A picture as PNG without metadata: wordbrush's own metadata would reveal the method."""
    from PIL import Image

    from wordbrush import images

    picture = images.load(path)
    file = io.BytesIO()
    Image.frombytes(picture.mode, picture.size, picture.tobytes()).save(file, format="PNG")
    return file.getvalue()


def _equal(given: str, expected: str) -> bool:
    """Compare in constant time."""
    return hmac.compare_digest(given.encode(), expected.encode())


def _redirect(path: str) -> Response:
    return RedirectResponse(path, 303)
