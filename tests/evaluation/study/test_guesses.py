"""Whoever guesses is slow; nobody else is."""

import asyncio
import time

import pytest

from wordbrush.evaluation.study import guesses as module
from wordbrush.evaluation.study.guesses import FREE, Guesses


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "DELAY", 0.1)


def guessed(address: str, times: int = FREE) -> Guesses:
    guesses = Guesses()
    for _ in range(times):
        guesses.was_wrong(address)
    return guesses


def seconds(guesses: Guesses, address: str) -> float:
    began = time.monotonic()
    assert asyncio.run(guesses.may_try(address))
    return time.monotonic() - began


def test_only_who_guesses_often_is_slow():
    assert not guessed("10.0.0.1", FREE - 1).is_slow("10.0.0.1")
    guesses = guessed("10.0.0.1")
    assert guesses.is_slow("10.0.0.1")
    assert seconds(guesses, "10.0.0.1") >= 0.1
    assert not guesses.is_slow("10.0.0.2")
    assert seconds(guesses, "10.0.0.2") < 0.1


def test_it_is_forgotten(monkeypatch: pytest.MonkeyPatch):
    guesses = guessed("10.0.0.1")
    now = time.monotonic()
    monkeypatch.setattr(module, "monotonic", lambda: now + 59)
    assert guesses.is_slow("10.0.0.1")
    monkeypatch.setattr(module, "monotonic", lambda: now + 61)
    assert not guesses.is_slow("10.0.0.1")


def test_a_network_of_ipv6_is_one_address():
    guesses = guessed("2001:db8:1:2:3::4")
    assert guesses.is_slow("2001:db8:1:2:ffff::1")
    assert not guesses.is_slow("2001:db8:1:3:3::4")


def test_guessing_at_once_is_no_faster():
    async def many(guesses: Guesses) -> list[bool]:
        return await asyncio.gather(*(guesses.may_try("10.0.0.1") for _ in range(50)))

    guesses = guessed("10.0.0.1")
    assert asyncio.run(many(guesses)).count(True) == 4
    assert seconds(guesses, "10.0.0.1") >= 0.1  # and later the next ones wait, too
    assert not guesses._waiting


def test_what_a_proxy_says_takes_little_memory(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(module, "_REMEMBERED", 100)
    guesses = guessed("no address" * 10_000)
    assert guesses.is_slow("no address" * 10_000)
    for i in range(500):
        guesses.was_wrong(f"{i}" + "x" * 1000)
    assert len(guesses._wrong) == 100
    assert max(map(len, guesses._wrong)) < 100
