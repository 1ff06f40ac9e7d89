"""The pages, through fastapi's test client."""

import io
import re
import sqlite3
import time
from collections.abc import Callable, Iterator
from html import unescape
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient
from PIL import Image

from wordbrush.errors import InputError
from wordbrush.evaluation.study import guesses
from wordbrush.evaluation.study.app import create_app
from wordbrush.evaluation.study.assignment import SAME
from wordbrush.evaluation.study.design import Settings, Study, load
from wordbrush.evaluation.study.store import Store

from .conftest import METHODS, picture

Make = Callable[..., Study]
Client = Callable[..., TestClient]


@pytest.fixture
def client() -> Iterator[Client]:
    """client(study, …) → a browser of its own, on a server that has just been started."""
    opened: list[Store] = []

    def client(study: Study, cookies: Any = None, **settings: Any) -> TestClient:
        store = Store(study.answers, study.settings.kind)
        opened.append(store)
        return TestClient(create_app(study, store, **settings), cookies=cookies)

    yield client
    for store in opened:
        store.close()


def fields(page: str) -> dict[str, list[str]]:
    """The radio buttons and hidden fields of a page: name → values."""
    found: dict[str, list[str]] = {}
    for name, value in re.findall(r'<input type="\w+" name="([^"]+)" value="([^"]+)"', page):
        found.setdefault(unescape(name), []).append(unescape(value))
    return found


def checked(page: str) -> dict[str, str]:
    return dict(re.findall(r'name="([^"]+)" value="([^"]+)" required checked', page))


def begin(browser: TestClient) -> Any:
    page = browser.get("/").text
    return browser.post("/begin", data={"form_token": fields(page)["form_token"][0]})


def chosen(page: str, place: int = 0) -> dict[str, str]:
    """A filled form: in each group the button at `place`; in a ranking the pictures in their order."""
    filled = fields(page)
    data = {name: values[min(place, len(values) - 1)] for name, values in filled.items()}
    ranked = [name for name in filled if "." in name]
    for question in {name.split(".")[0] for name in ranked}:
        mine = [name for name in ranked if name.startswith(f"{question}.")]
        data |= {name: str(i) for i, name in enumerate(mine, 1)}
    return data


def answer(browser: TestClient, response: Any, place: int = 0) -> Any:
    return browser.post(response.url.path, data=chosen(response.text, place))


def heading(response: Any) -> str:
    found = re.search(r"<strong>(.*?)</strong>", response.text)
    return found[1] if found else response.url.path


# The way through --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["rating", "choice", "ranking"])
def test_from_the_first_page_to_the_last(make: Make, client: Client, kind: str):
    study = make(kind, pages_per_rater=4, attention_checks=1)
    browser = client(study)
    assert "5 pages" in browser.get("/").text
    response = begin(browser)
    seen = [heading(response)]
    while response.url.path.startswith("/page"):
        response = answer(browser, response)
        seen.append(heading(response))
    assert seen == ["1 of 5", "2 of 5", "3 of 5", "4 of 5", "5 of 5", "/thanks"]
    with Store(study.answers, kind) as store:
        answers = store.answers()
        assert len(answers) == 5 * len(study.settings.questions)
        assert sum(each.trial.is_check for each in answers) == len(study.settings.questions)
    assert browser.get("/").url.path == "/thanks"


def test_what_the_rater_chose_is_what_is_stored(make: Make, client: Client):
    study = make("choice", pages_per_rater=6, attention_checks=0, seed=4)
    browser = client(study)
    response = begin(browser)
    with Store(study.answers, "choice") as store:
        (trials,) = store.trials().values()
        for _ in trials:
            response = browser.post(
                response.url.path, data={**chosen(response.text), "subject": "B", "prompt": "undecided"}
            )
        assert [each.answer for each in store.answers() if each.question == "subject"] == [
            trial.shown[1] for trial in trials
        ]
        assert {each.answer for each in store.answers() if each.question == "prompt"} == {"undecided"}


def test_the_place_survives_reload_browser_and_server(make: Make, client: Client):
    study = make("rating", pages_per_rater=5)
    first = client(study)
    response = answer(first, begin(first))
    assert heading(first.get(response.url.path)) == "2 of 7"
    cookie = next(cookie for cookie in first.cookies.jar if "rater" in cookie.name)
    assert cookie.expires is not None  # it outlives the browser
    assert cookie.has_nonstandard_attr("HttpOnly")
    assert cookie.get_nonstandard_attr("SameSite") == "lax"
    second = client(load(study.folder), cookies=dict(first.cookies))
    assert heading(second.get("/")) == "2 of 7"
    assert heading(answer(second, second.get("/"))) == "3 of 7"


def test_going_back_shows_what_is_stored_and_replaces_it(make: Make, client: Client):
    study = make("rating", pages_per_rater=5, attention_checks=0)
    browser = client(study)
    answer(browser, answer(browser, begin(browser), 1), 3)
    page = browser.get("/page/1")
    assert checked(page.text) == {"background": "2", "text": "2", "realism": "2"}
    assert heading(answer(browser, page, 4)) == "3 of 5"
    assert checked(browser.get("/page/1").text) == {"background": "5", "text": "5", "realism": "5"}
    with Store(study.answers, "rating") as store:
        assert len(store.answers()) == 2 * 3


def test_sending_twice_stores_once(make: Make, client: Client):
    study = make("rating", pages_per_rater=5, attention_checks=0)
    browser = client(study)
    page = begin(browser)
    assert heading(answer(browser, page)) == heading(answer(browser, page)) == "2 of 5"
    token = {"form_token": fields(page.text)["form_token"][0]}
    assert heading(browser.post("/begin", data=token)) == "2 of 5"
    with Store(study.answers, "rating") as store:
        assert len(store.answers()) == 3
        assert len(store.trials()) == 1


def test_no_page_is_skipped(make: Make, client: Client):
    study = make("rating", pages_per_rater=5, attention_checks=0)
    browser = client(study)
    assert browser.get("/page/1").url.path == "/"
    page = begin(browser)
    for path in ("/page/2", "/page/99", "/page/0", "/thanks", "/"):
        assert browser.get(path).url.path == "/page/1"
    assert browser.post("/page/3", data=chosen(page.text)).url.path == "/page/1"
    with Store(study.answers, "rating") as store:
        assert store.answers() == []


@pytest.mark.parametrize("kind", ["rating", "choice", "ranking"])
def test_what_is_missing_is_asked_for_and_the_rest_kept(make: Make, client: Client, kind: str):
    study = make(kind, attention_checks=0)
    browser = client(study)
    page = begin(browser)
    filled = chosen(page.text)
    left_out = next(name for name in filled if name != "form_token")
    kept = {name: value for name, value in filled.items() if name != left_out}
    again = browser.post("/page/1", data=kept)
    assert again.status_code == 422
    assert "Please answer: " in again.text
    assert 'role="alert"' in again.text
    assert checked(again.text) == {name: value for name, value in kept.items() if name != "form_token"}
    with Store(study.answers, kind) as store:
        assert store.answers() == []


def test_places_are_given_once(make: Make, client: Client):
    study = make("ranking", attention_checks=0)
    browser = client(study)
    page = begin(browser)
    again = browser.post("/page/1", data={**chosen(page.text), "subject.A": "2"})
    assert again.status_code == 422
    assert "its own place" in again.text


def test_a_study_that_has_its_answers_lets_nobody_in(make: Make, client: Client):
    study = make("ranking", items=2, raters_per_item=1, attention_checks=0)
    first, second = client(study), client(study)
    begin(first)
    assert "have been answered by now" in begin(second).text
    assert second.get("/page/1").url.path == "/"


def test_what_an_inattentive_rater_judged_is_given_again(make: Make, client: Client):
    study = make("choice", items=2, raters_per_item=1, pages_per_rater=25, attention_checks=1)
    careless, early, late = (client(study) for _ in range(3))
    response = begin(careless)
    with Store(study.answers, "choice") as store:
        (trials,) = store.trials().values()
    assert "have been answered by now" in begin(early).text
    for trial in trials:
        wrong = "AB"[1 - trial.shown.index(SAME)] if trial.is_check else "A"
        response = careless.post(response.url.path, data={**chosen(response.text), "subject": wrong})
    assert heading(response) == "/thanks"
    assert heading(begin(late)) == f"1 of {len(trials)}"
    assert "have been answered by now" in begin(early).text


def test_raters_see_different_orders(make: Make, client: Client):
    study = make("choice", items=8)
    for _ in range(3):
        begin(client(study))
    with Store(study.answers, "choice") as store:
        assert len(set(store.trials().values())) == 3


# What is shown ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["rating", "choice", "ranking"])
def test_nothing_sent_names_a_method_an_item_or_a_file(make: Make, client: Client, kind: str):
    study = make(kind, items=4, references=kind != "rating" and 2)
    browser = client(study)
    response, sent = begin(browser), b""
    pictures: set[str] = set()
    for _ in range(100):
        sent += response.content + repr(response.headers).encode()
        pictures |= set(re.findall(r'src="(/picture/[^"]+)"', response.text))
        if not response.url.path.startswith("/page"):
            break
        response = answer(browser, response)
    assert len(pictures) > 4
    for path in pictures:
        got = browser.get(path)
        assert got.headers["content-type"] == "image/png"
        sent += got.content + path.encode() + repr(got.headers).encode()
        image = Image.open(io.BytesIO(got.content))
        image.load()
        assert image.info == {}
    for secret in (*METHODS, "item-", "source.png", "reference-", ":same", ":other", str(study.folder)):
        assert secret.encode() not in sent


def test_the_pictures_are_those_of_the_page(make: Make, client: Client):
    study = make("choice", items=5, pages_per_rater=9, attention_checks=2, seed=2)
    browser = client(study)
    response = begin(browser)
    with Store(study.answers, "choice") as store:
        (trials,) = store.trials().values()
    assert any(trial.is_check for trial in trials)
    for trial in trials:
        sources = re.findall(r'<figure>\s*<a [^>]*><img src="([^"]+)"', response.text)
        shown = [Image.open(io.BytesIO(browser.get(path).content)) for path in sources]
        item = int(trial.item.removeprefix("item-"))
        expected = [
            picture(item, "source")
            if name == SAME
            else picture(int(name.removeprefix(":other:item-")), "source")
            if name.startswith(":")
            else picture(item, name)
            for name in (SAME, *trial.shown)
        ]
        assert [each.tobytes() for each in shown] == [each.tobytes() for each in expected]
        assert f"number {item}" in response.text
        response = answer(browser, response)


def test_only_what_the_questions_are_about_is_shown(make: Make, client: Client):
    about_words = client(make("choice", questions=["prompt"], attention_checks=0))
    page = begin(about_words).text
    assert "The words" in page
    assert page.count("<figure>") == 2
    about_source = client(make("choice", questions=["subject"]))
    page = begin(about_source).text
    assert "The words" not in page
    assert page.count("<figure>") == 3


def test_prompts_are_text_and_never_markup(make: Make, client: Client):
    page = begin(client(make("rating"))).text
    assert "&lt;b&gt;next&lt;/b&gt;" in page
    assert "<b>" not in page


def test_instructions_and_contact(make: Make, client: Client):
    study = make("rating", instructions="Look <closely>.\n\nTake your time.", contact="Ann & Bob")
    page = client(study).get("/").text
    assert "<p>Look &lt;closely&gt;.</p>" in page
    assert "<p>Take your time.</p>" in page
    assert "Ann &amp; Bob" in page


@pytest.mark.parametrize("kind", ["rating", "choice", "ranking"])
def test_the_pages_are_accessible_and_need_no_script(make: Make, client: Client, kind: str):
    browser = client(make(kind))
    for page in (browser.get("/").text, begin(browser).text):
        assert '<html lang="en">' in page
        assert '<meta name="viewport" content="width=device-width, initial-scale=1">' in page
        assert page.count("<h1") == 1
        assert all(' alt="' in tag for tag in re.findall(r"<img [^>]+>", page))
        assert page.count("<fieldset") == page.count("<legend>")
        assert page.count('type="radio"') == page.count("<label>")
        assert len(re.findall(r"<script", page)) == page.count('<script src="/keys.js" defer></script>')
        assert not re.search(r'(?:src|href|action)="(?:https?:)?//', page)
        assert not re.search(r' (?:style|on\w+)="', page)
    targets = set(re.findall(r'href="#([\w-]+)"', page))
    assert targets <= set(re.findall(r'id="([\w-]+)"', page))


# Keeping others out -----------------------------------------------------------------------------------------


def test_headers(make: Make, client: Client):
    browser = client(make("rating"))
    for path in ("/", "/style.css", "/keys.js", "/nowhere"):
        headers = browser.get(path).headers
        assert "default-src 'none'" in headers["content-security-policy"]
        assert "unsafe" not in headers["content-security-policy"]
        assert headers["x-content-type-options"] == "nosniff"
    assert browser.get("/").headers["cache-control"] == "no-store"
    assert browser.get("/style.css").headers["content-type"].startswith("text/css")


ELSEWHERE = (
    "/nowhere",
    "/page/x",
    "/page/-1",
    "/page/1/",
    "/page/1.0",
    "/page/%D9%A1",
    "/page/1%00",
    "/page/" + "9" * 5000,
    "/page/" + "0" * 5000 + "1",
    "/picture/%00",
    "/picture/%ff%fe",
    "/picture/" + "9" * 5000,
    "/%00",
    "/%ed%a0%80",
    "/picture/source.png",
    "/picture/..%2f..%2fstudy.toml",
    "/..%2fapp.py",
    "/app.py",
    "/docs",
    "/openapi.json",
    "/answers.sqlite",
)


def test_there_is_nothing_else(make: Make, client: Client):
    browser = client(make("rating"))
    begin(browser)
    for path in ELSEWHERE:
        response = browser.get(path)
        assert response.status_code == 404, path
        assert "There is no such page." in response.text


def test_a_form_from_elsewhere_is_refused(make: Make, client: Client):
    study = make("rating")
    browser, stranger = client(study), client(study)
    page = begin(browser)
    begin(stranger)
    for filled in ({}, {"form_token": "x"}, {"form_token": chosen(stranger.get("/").text)["form_token"]}):
        response = browser.post("/page/1", data={**chosen(page.text), "form_token": "", **filled})
        assert response.status_code == 403
        assert "not made for you" in response.text
    with Store(study.answers, "rating") as store:
        assert store.answers() == []


def test_without_cookies_one_is_told(make: Make, client: Client):
    browser = client(make("rating"))
    token = fields(browser.get("/").text)["form_token"][0]
    browser.cookies.clear()
    response = browser.post("/begin", data={"form_token": token})
    assert response.status_code == 400
    assert "Allow cookies" in response.text


FORM = "application/x-www-form-urlencoded"


def test_a_form_has_a_size_and_a_type(make: Make, client: Client):
    browser = client(make("rating"))
    begin(browser)
    forms: list[tuple[int, Any, str]] = [
        (413, b"x" * 200_000, FORM),
        (413, iter([b"background=1&" * 5000] * 3), FORM),  # without a length
        (400, b"a=1&" * 2000, FORM),
        (400, b"form_token=%ff", FORM),
        (400, b"form_token=\xff", FORM),
        (415, b"form_token=x", "text/plain"),
        (415, b"form_token=x", ""),
        (415, b'{"form_token": 1}', "application/json"),
        (415, b"--x\r\n\r\n--x--", "multipart/form-data; boundary=x"),
        (403, b"form_token=%00&%00=" + b"9" * 5000, FORM + "; charset=none"),
    ]
    for status, content, kind in forms:
        response = browser.post("/page/1", content=content, headers={"content-type": kind})
        assert response.status_code == status
        assert "That did not work." in response.text


@pytest.mark.parametrize("kind", ["rating", "choice", "ranking"])
def test_a_value_that_no_button_has_is_no_answer(make: Make, client: Client, kind: str):
    study = make(kind, attention_checks=0)
    browser = client(study)
    filled = chosen(begin(browser).text)
    for value in ("0", "6", "-1", "9" * 5000, "1\0", "\u0661", "1.0", " 1", "1\n", ""):
        data = dict.fromkeys(filled, value) | {"form_token": filled["form_token"]}
        response = browser.post("/page/1", data=data)
        assert response.status_code == 422
        assert "Please answer: " in response.text
    with Store(study.answers, kind) as store:
        assert store.answers() == []


@pytest.mark.parametrize(("status", "length"), [(413, "100001"), (400, "9" * 5000), (400, "\u00b2")])
def test_a_form_is_refused_by_its_length_alone(make: Make, client: Client, status: int, length: str):
    def content() -> Iterator[bytes]:
        yield b"form_token="
        pytest.fail("the rest is not waited for")

    headers = {"content-type": FORM, "content-length": length.encode("latin-1")}
    response = client(make("rating")).post("/begin", content=content(), headers=headers)
    assert response.status_code == status


def test_a_key_that_was_not_given_is_replaced(make: Make, client: Client):
    browser = client(make("rating"))
    name = next(iter(dict(browser.get("/").cookies)))
    for key in ("x" * 31, "x" * 15_000, "\\377" * 32, '"' + "\\012" * 32 + '"', "é" * 32):
        browser.cookies.clear()
        headers = {"cookie": f"{name}={key}".encode("latin-1")}
        assert browser.get("/page/1", headers=headers).url.path == "/"
        browser.cookies.clear()
        response = browser.get("/", headers=headers)
        assert re.fullmatch(r"[\w-]{32}", response.cookies[name])


def test_a_host_that_is_none_opens_nothing(make: Make, client: Client):
    browser = client(make("rating"), token="open-sesame")
    for host in ("[", "[::1", "a" * 5000, b"a\xe2\x84\x80b", "", "x/style.css?"):
        browser.cookies.clear()
        for path in ("/", "/page/1/", "/?token=" + "x" * 5000):
            response = browser.get(path, headers={"host": host}, follow_redirects=False)
            assert response.status_code == 401
        response = browser.get("/?token=open-sesame", headers={"host": host}, follow_redirects=False)
        assert (response.status_code, response.headers["location"]) == (303, "/")


def test_the_token_opens_the_door_once_and_stays_in_a_cookie(make: Make, client: Client):
    study = make("rating")
    browser = client(study, token="open-sesame")
    for path in ("/", "/?token=open-sesam", "/?token=", "/page/1", "/thanks", "/picture/x", "/?token=%ff"):
        response = browser.get(path)
        assert response.status_code == 401
        assert "by invitation" in response.text
        assert "set-cookie" not in response.headers
    assert browser.post("/begin", data={}).status_code == 401
    assert browser.get("/style.css").status_code == 200
    response = browser.get("/?token=open-sesame")
    assert (response.status_code, response.url.path, response.url.query) == (200, "/", b"")
    assert heading(begin(browser)) == "1 of 20"
    assert client(study, token="another-one", cookies=dict(browser.cookies)).get("/").status_code == 401


def test_guessing_tokens_is_slow_and_shuts_nobody_out(
    make: Make, client: Client, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(guesses, "DELAY", 0.1)
    browser = client(make("rating"), token="open-sesame")
    browser.get("/?token=open-sesame")
    begin(browser)
    mine = dict(browser.cookies)
    browser.cookies.clear()
    replies = [browser.get(f"/?token=guess-{i:04}") for i in range(15)]
    assert [each.status_code for each in replies] == [401] * 9 + [429] * 6
    assert "Too many wrong links." in replies[-1].text
    assert replies[-1].headers["retry-after"] == "60"
    assert browser.get("/").status_code == 401  # without a token nothing is guessed
    with monkeypatch.context() as patched:
        patched.setattr(guesses, "DELAY", 60.0)
        began = time.monotonic()
        cookies = "; ".join(map("=".join, mine.items()))
        assert heading(browser.get("/page/1", headers={"cookie": cookies})) == "1 of 20"
        assert time.monotonic() - began < 30  # who is in is not slow
    browser.cookies.clear()
    assert "I agree, begin" in browser.get("/?token=open-sesame").text


def test_the_cookie_does_not_have_the_token(make: Make, client: Client):
    browser = client(make("rating"), token="open-sesame")
    response = browser.get("/?token=open-sesame", follow_redirects=False)
    assert "open-sesame" not in str(response.headers)
    ((name, ticket),) = dict(browser.cookies).items()
    assert len(ticket) == 64
    assert browser.get("/?token=open-sesame").url.query == b""
    browser.cookies.clear()
    assert browser.get("/", headers={"cookie": f"{name}=open-sesame"}).status_code == 401


def test_the_token_leads_nowhere_else(make: Make, client: Client):
    browser = client(make("rating"), token="open-sesame")
    response = browser.get("//example.org/?token=open-sesame", follow_redirects=False)
    assert response.headers.get("location", "/") == "/"


def test_other_names_are_not_answered(make: Make, client: Client):
    study = make("rating")
    browser = client(study, hosts=["127.0.0.1", "[::1]"])
    assert browser.get("http://[::1]:8000/").status_code == 200
    assert browser.get("http://127.0.0.1:8000/").status_code == 200
    assert browser.get("http://evil.example/").status_code == 400


# When things go wrong ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("broken", ["record", "rater", "answered"])
def test_an_answer_that_could_not_be_stored_is_kept_on_the_page(
    make: Make, client: Client, monkeypatch: pytest.MonkeyPatch, broken: str
):
    browser = client(make("rating"))
    sent = chosen(begin(browser).text, 3)

    def full(*_: object) -> None:
        raise sqlite3.OperationalError("database or disk is full")

    with monkeypatch.context() as patched:
        patched.setattr(Store, broken, full)
        response = browser.post("/page/1", data=sent)
    assert response.status_code == 503
    assert "Not saved yet" in response.text
    assert '<form method="post" action="/page/1">' in response.text
    assert fields(response.text) == {name: [value] for name, value in sent.items()}
    assert heading(browser.get("/")).startswith("1 of")
    assert heading(answer(browser, response)).startswith("2 of")
    assert set(checked(browser.get("/page/1").text).values()) == {"4"}


def test_who_could_not_begin_tries_again(make: Make, client: Client, monkeypatch: pytest.MonkeyPatch):
    browser = client(make("rating"))

    def locked(*_: object) -> None:
        raise sqlite3.OperationalError("database is locked")

    with monkeypatch.context() as patched:
        patched.setattr(Store, "admit", locked)
        response = begin(browser)
    assert (response.status_code, response.url.path) == (503, "/begin")
    assert heading(answer(browser, response)).startswith("1 of")


def test_a_page_that_cannot_be_read(make: Make, client: Client, monkeypatch: pytest.MonkeyPatch):
    browser = client(make("rating"))
    begin(browser)
    with monkeypatch.context() as patched:
        patched.setattr(Store, "rater", lambda *_: (_ for _ in ()).throw(sqlite3.DatabaseError("malformed")))
        response = browser.get("/page/1")
    assert response.status_code == 503
    assert "reload this page" in response.text
    assert browser.get("/page/1").status_code == 200


def test_an_error_of_ours_loses_nothing_either(make: Make, client: Client, monkeypatch: pytest.MonkeyPatch):
    study = make("rating")
    browser = client(study)
    page = begin(browser)
    sent = chosen(page.text, 3)
    careful = TestClient(browser.app, cookies=dict(browser.cookies), raise_server_exceptions=False)
    with monkeypatch.context() as patched:
        patched.setattr(Store, "record", lambda *_: 1 / 0)
        response = careful.post("/page/1", data=sent)
    assert response.status_code == 503
    assert fields(response.text) == {name: [value] for name, value in sent.items()}
    for path in study.folder.glob("items/*/*.png"):
        path.unlink()
    response = careful.get(page.text.split('src="')[1].split('"')[0])
    assert response.status_code == 503
    assert "Please wait a moment." in response.text


def test_answers_whose_file_is_gone_are_not_acknowledged(make: Make, client: Client, tmp_path: Path):
    study = make("rating")
    browser = client(study)
    page = begin(browser)
    study.answers.rename(tmp_path / "away.sqlite")
    response = answer(browser, page)
    assert response.status_code == 503
    assert "Not saved yet" in response.text
    (tmp_path / "away.sqlite").rename(study.answers)
    assert heading(answer(browser, response)).startswith("2 of")


def test_answers_of_a_study_that_has_changed(make: Make, client: Client, tmp_path: Path):
    study = make("rating")
    begin(client(study))
    (study.folder / "items" / "item-1").rename(tmp_path / "elsewhere")
    with pytest.raises(InputError, match="has a page with .*item-1"):
        client(load(study.folder))


def test_a_question_more_is_asked_of_who_was_done(make: Make, client: Client):
    study = make("rating", items=3, questions=["background"], pages_per_rater=3, attention_checks=0)
    browser = client(study)
    response = begin(browser)
    for _ in count():
        response = answer(browser, response)
        if response.url.path == "/thanks":
            break
    settings = Settings.model_validate({**study.settings.model_dump(), "questions": ["background", "text"]})
    longer = client(Study(study.folder, settings, study.items), cookies=dict(browser.cookies))
    assert heading(longer.get("/")) == "1 of 3"
    assert checked(longer.get("/").text).keys() == {"background"}
