"""The nightly tier: hundreds of tries of each kind, and a fixed share of them for CI. See docs/reliability.md."""

import os
from collections import defaultdict

import pytest

SHARE = int(os.environ.get("WORDBRUSH_NIGHTLY_SHARE", "1"))
"""One try of so many; 10 in CI."""


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Keep every so many-th try of each test: always the same ones, spread over what a test tries."""
    tests: defaultdict[str, list[pytest.Item]] = defaultdict(list)
    for item in items:
        if item.get_closest_marker("nightly"):
            tests[item.nodeid.partition("[")[0]].append(item)
    left_out = {id(item) for each in tests.values() for i, item in enumerate(each) if i % SHARE}
    config.hook.pytest_deselected(items=[item for item in items if id(item) in left_out])
    items[:] = [item for item in items if id(item) not in left_out]
