"""The pages of a study, made on the server: they need no script, and take no file and no address from anybody.

    GET  /               what it is about; who has begun already goes on where they were
    POST /begin          the rater agrees and gets their pages
    GET  /page/N         a page; POST stores its answers, then shows the next
    GET  /thanks         the end
    GET  /picture/ID     a picture by an opaque name, as bare pixels: no file name, no text inside says who made it

Who a rater is stands in a cookie, and what they answered in the store: reloading, closing the browser and killing the
server lose nothing that was sent.
"""

import hmac
import io
import secrets
import sqlite3
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

from wordbrush.evaluation.study import forms
from wordbrush.evaluation.study.assignment import SAME, Trial, assign, check_known, other_item
from wordbrush.evaluation.study.checks import inattentive
from wordbrush.evaluation.study.design import Item, Study
from wordbrush.evaluation.study.store import Rater, Store
from wordbrush.extras import need

with need("ui", "the user study"):
    import python_multipart  # noqa: F401  # pyright: ignore[reportUnusedImport]  # needed once a form comes in
    from fastapi import Depends, FastAPI, Request
    from jinja2 import Environment, FileSystemLoader, StrictUndefined
    from starlette.exceptions import HTTPException
    from starlette.middleware.trustedhost import TrustedHostMiddleware
    from starlette.responses import HTMLResponse, RedirectResponse, Response

_HERE = Path(__file__).parent
_FILES = {"style.css": "text/css", "keys.js": "text/javascript"}
_HALF_A_YEAR = 60 * 60 * 24 * 182
_LONGEST = 100_000  # bytes of a form; the largest has some thousands
_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; img-src 'self'; style-src 'self'; script-src 'self'; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
    "Referrer-Policy": "same-origin",
    "X-Content-Type-Options": "nosniff",
}
_NO_COOKIE = (
    "Your browser did not send back the cookie that keeps your place. Allow cookies for this site, go back, "
)


def create_app(
    study: Study, store: Store, *, token: str | None = None, hosts: Sequence[str] | None = None
) -> FastAPI:
    """The app that serves a study.

    token: what the first request has to carry as `?token=…`; a cookie keeps it afterwards. hosts: the names under
    which the server answers (default: any); where there is no token they keep another site's page, whose name was
    made to point here, from reading along. Raises `InputError` if the answers are another study's, and
    `MissingExtraError`.
    """
    for trials in store.trials().values():
        check_known(study, trials)
    pages = _Pages(study, store)
    app = FastAPI(title=study.settings.title, docs_url=None, redoc_url=None, openapi_url=None)
    app.add_api_route("/", pages.welcome)
    app.add_api_route("/begin", pages.begin, methods=["POST"])
    app.add_api_route("/page/{number:int}", pages.page)
    app.add_api_route("/page/{number:int}", pages.answer, methods=["POST"])
    app.add_api_route("/thanks", pages.thanks)
    app.add_api_route("/picture/{name}", pages.picture)
    app.add_api_route("/{name}", _file)
    app.add_exception_handler(HTTPException, pages.failed)
    app.add_exception_handler(sqlite3.Error, pages.not_stored)
    app.middleware("http")(partial(_guarded, pages, token))
    if hosts is not None:
        app.add_middleware(TrustedHostMiddleware, allowed_hosts=list(hosts))
    return app


async def _guarded(
    pages: "_Pages", token: str | None, request: Request, go_on: Callable[[Request], Awaitable[Response]]
) -> Response:
    """What holds for every request: the token, the size, the headers."""
    response = pages.refusal(request, token) or await go_on(request)
    for name, value in _HEADERS.items():
        response.headers[name] = value
    response.headers.setdefault("Cache-Control", "no-store")  # going back shows what is stored
    return response


async def _filled(request: Request) -> dict[str, str]:
    """The fields of the form that was sent."""
    async with request.form(max_files=0, max_fields=1000) as form:
        return {name: value for name, value in form.items() if isinstance(value, str)}


Filled = Depends(_filled)


def _file(name: str) -> Response:
    if name == "favicon.ico":  # browsers ask unbidden
        return Response(status_code=204)
    if name not in _FILES:
        raise HTTPException(404)
    text = (_HERE / "static" / name).read_bytes()
    return Response(text, media_type=_FILES[name], headers={"Cache-Control": "max-age=600"})


class _Pages:
    """What each address answers."""

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
        self.named = {path: self._sign(f"picture {path.relative_to(study.folder)}")[:24] for path in paths}
        self.pictures = {name: path for path, name in self.named.items()}
        # Cookies know no ports: two studies on one machine must not take each other's.
        suffix = self._sign("cookie")[:8]
        self.key_cookie, self.token_cookie = f"wordbrush_rater_{suffix}", f"wordbrush_token_{suffix}"
        self.bare = lru_cache(maxsize=256)(_bare_png)

    # Who is there

    def refusal(self, request: Request, token: str | None) -> Response | None:
        """Why a request is not answered, if it is not; or the way on, for one that brings the token."""
        if request.method == "POST":
            length = request.headers.get("content-length", "")
            if not length.isdecimal() or int(length) > _LONGEST:
                return self._message(request, 413, "That was too long.", "The form could not be read.")
        if token is None or request.url.path.removeprefix("/") in _FILES:
            return None
        if _same(request.query_params.get("token", ""), token):
            response = _see("/")  # the token leaves the address, and with it the history
            self._keep(request, response, self.token_cookie, token)
            return response
        if _same(request.cookies.get(self.token_cookie, ""), token):
            return None
        return self._message(
            request,
            401,
            "This study is by invitation.",
            "Please open the whole link that you were given: it ends in “?token=…”.",
        )

    def _rater(self, request: Request) -> Rater | None:
        key = request.cookies.get(self.key_cookie)
        return self.store.rater(key) if key else None

    def _keep(self, request: Request, response: Response, name: str, value: str) -> None:
        # Lax: who comes by a link in a letter goes on where they were; a form on another site brings no cookie.
        response.set_cookie(
            name,
            value,
            max_age=_HALF_A_YEAR,
            httponly=True,
            samesite="lax",
            secure=request.url.scheme == "https",
        )

    def _sign(self, text: str) -> str:
        return hmac.digest(self.store.secret, text.encode(), "sha256").hex()

    def _form_token(self, key: str) -> str:
        return self._sign(f"form {key}")

    def _check_form(self, request: Request, filled: Mapping[str, str]) -> str:
        """The rater's key, if the form is one that was made for them."""
        key = request.cookies.get(self.key_cookie)
        if not key:
            raise HTTPException(400, _NO_COOKIE + "reload the page and send it again.")
        if not _same(filled.get("form_token", ""), self._form_token(key)):
            raise HTTPException(
                403, "This form was not made for you, or is too old. Go back and reload the page."
            )
        return key

    # The pages

    def welcome(self, request: Request) -> Response:
        """What it is about, before anything is stored."""
        rater = self._rater(request)
        if rater is not None:
            return _see(self._place(rater))
        key = request.cookies.get(self.key_cookie) or secrets.token_urlsafe(24)
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
        self._keep(request, response, self.key_cookie, key)
        return response

    def begin(self, request: Request, filled: dict[str, str] = Filled) -> Response:
        """The rater has agreed. What inattentive raters have is given again: the report leaves them out."""
        key = self._check_form(request, filled)
        failed = inattentive(self.study, self.store.answers())
        rater = self.store.admit(key, partial(assign, self.study), discounted=failed)
        if rater is None:
            return self._message(
                request, 200, "Thank you for coming.", "All questions have been answered by now."
            )
        return _see(self._place(rater))

    def page(self, request: Request, number: int) -> Response:
        """A page that is to be answered, or was."""
        rater = self._rater(request)
        if rater is None:
            return _see("/")
        answered = self.store.answered(rater.number)
        if not 1 <= number <= min(self._next(rater, answered), len(rater.trials)):
            return _see(self._place(rater))
        trial = rater.trials[number - 1]
        filled = forms.fill(self.study.settings.kind, trial, answered.get(number, {}))
        return self._trial(request, rater, number, filled, [])

    def answer(self, request: Request, number: int, filled: dict[str, str] = Filled) -> Response:
        """Store a page's answers, then go on: when the next page is there, they are on the disk."""
        self._check_form(request, filled)
        rater = self._rater(request)
        if rater is None:
            return _see("/")
        if not 1 <= number <= min(self._next(rater, self.store.answered(rater.number)), len(rater.trials)):
            return _see(self._place(rater))
        settings, trial = self.study.settings, rater.trials[number - 1]
        answers, problems = forms.read(settings.kind, settings.questions, trial, filled)
        if problems:
            return self._trial(request, rater, number, filled, problems)
        self.store.record(rater.number, number, answers)
        return _see(self._place(rater))

    def thanks(self, request: Request) -> Response:
        """The end, for who has come to it."""
        rater = self._rater(request)
        place = "/" if rater is None else self._place(rater)
        if rater is None or place != "/thanks":
            return _see(place)
        return self._page(request, "thanks.html", last=len(rater.trials), contact=self.study.settings.contact)

    def picture(self, request: Request, name: str) -> Response:
        """The pixels of a picture."""
        if name not in self.pictures:
            raise HTTPException(404)
        kept = {"Cache-Control": "private, max-age=86400"}
        return Response(self.bare(self.pictures[name]), media_type="image/png", headers=kept)

    async def failed(self, request: Request, error: Exception) -> Response:
        """Say what went wrong."""
        assert isinstance(error, HTTPException)
        title = {404: "There is no such page.", 405: "There is no such page."}.get(
            error.status_code, "That did not work."
        )
        text = "" if error.status_code in (404, 405) else error.detail
        return self._message(request, error.status_code, title, text)

    async def not_stored(self, request: Request, error: Exception) -> Response:
        """The disk is full, or worse: the rater must not go on as if nothing had happened."""
        return self._message(
            request,
            503,
            "Your answer could not be stored.",
            "Please go back and send it again in a moment. All that you answered before is safe.",
        )

    # What they are made of

    def _next(self, rater: Rater, answered: Mapping[int, Mapping[str, str]]) -> int:
        """The first page with a question that is not answered; one more than there are, at the end."""
        asked = {question.id for question in self.study.settings.questions}
        pages = range(1, len(rater.trials) + 1)
        return next((page for page in pages if asked - answered.get(page, {}).keys()), len(rater.trials) + 1)

    def _place(self, rater: Rater) -> str:
        number = self._next(rater, self.store.answered(rater.number))
        return "/thanks" if number > len(rater.trials) else f"/page/{number}"

    def _trial(
        self,
        request: Request,
        rater: Rater,
        number: int,
        filled: Mapping[str, str],
        problems: Sequence[str],
    ) -> Response:
        settings, trial = self.study.settings, rater.trials[number - 1]
        item = self.study.items[trial.item]
        about = {question.about for question in settings.questions}
        first = "The original" if item.has_source else "Reference"
        originals = [(path, first) for path in item.originals] if "source" in about else []
        pictures = [
            (
                self._path(item, trial, shown),
                "The edited picture" if settings.kind == "rating" else f"Picture {forms.letter(i)}",
            )
            for i, shown in enumerate(trial.shown)
        ]
        views = [
            {"name": self.named[path], "label": label, "place": place}
            for place, (path, label) in enumerate([*originals, *pictures], 1)
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
            filled=filled,
            problems=problems,
            form_token=self._form_token(request.cookies[self.key_cookie]),
        )

    def _path(self, item: Item, trial: Trial, shown: str) -> Path:
        if (other := other_item(shown)) is not None:
            return self.study.items[other].originals[0]
        return item.originals[0] if shown == SAME else item.pictures[shown]

    def _message(self, request: Request, status: int, heading: str, text: str) -> Response:
        return self._page(request, "message.html", status=status, heading=heading, text=text)

    def _page(self, request: Request, template: str, *, status: int = 200, **values: Any) -> Response:
        text = self.templates.get_template(template).render(title=self.study.settings.title, **values)
        return HTMLResponse(text, status)


def _bare_png(path: Path) -> bytes:
    """A picture's pixels alone: what wordbrush writes into a PNG would name the method."""
    from PIL import Image

    from wordbrush import images

    picture = images.load(path)
    file = io.BytesIO()
    Image.frombytes(picture.mode, picture.size, picture.tobytes()).save(file, format="PNG")
    return file.getvalue()


def _same(given: str, expected: str) -> bool:
    """Compare in a time that does not tell how much of it is right."""
    return hmac.compare_digest(given.encode(), expected.encode())


def _see(path: str) -> Response:
    return RedirectResponse(path, 303)
