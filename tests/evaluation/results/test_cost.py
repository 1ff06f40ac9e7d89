"""Rows of the UNet's batch: what the loops report is what the UNet computes."""

from collections.abc import Callable, Generator
from typing import Any

import pytest
import torch

from reference import counting
from wordbrush import from_seed
from wordbrush.evaluation.contender import Contender
from wordbrush.evaluation.results.cost import Cost, measured, warm_up
from wordbrush.images import to_image
from wordbrush.model import Model
from wordbrush.progress import Progress, drain

CAT, DOG = "a cat on a beach", "a dog on a beach"
NEVER = {
    "null_optimizer": "adam",
    "inner_steps": 3,
    "learning_rate": 1e-9,
    "early_stop": 0.0,
    "early_stop_growth": 0.0,
}
OWN: dict[str, dict[str, Any]] = {"null_text": NEVER, "edict": {"skip": 0.0}, "edit_friendly": {"skip": 0.0}}
Tiny = Callable[..., Model]


def rows(cost: Cost) -> tuple[int, int]:
    return cost.rows, cost.with_gradient


def photo() -> Any:
    return to_image(torch.rand(3, 32, 32, generator=torch.Generator().manual_seed(4)) * 2 - 1)


@pytest.mark.parametrize("target", [DOG, "a cat on a beach at night", "a beach"])
@pytest.mark.parametrize("guidance_scale", [1.0, 4.0])
def test_an_edit_costs_what_it_reports_and_what_the_unet_computes(
    tiny: Tiny, target: str, guidance_scale: float
) -> None:
    model = tiny()
    source = from_seed(model, CAT, steps=5, guidance_scale=guidance_scale, width=32, height=32)
    contender = Contender("prompt_to_prompt", "direct")
    with counting(model) as passed:
        results, cost = drain(measured(model, contender.edit(model, source, [target, CAT])))
    assert rows(cost) == (results[0].report.unet_rows, 0) == (passed.rows, passed.with_gradient)
    assert cost.seconds > 0 and cost.processor_seconds > 0


@pytest.mark.slow
def test_an_inversion_costs_what_the_unet_computes(tiny: Tiny) -> None:
    model = tiny()
    options = {"steps": 4, "guidance_scale": 3.0}
    expected = {
        "direct": (4, 0),
        "ddim": (4 + 2 * 4, 0),
        "negative_prompt": (4 + 4, 0),
        # Up, and for each step one conditional row, three that are optimised, and the one that lands.
        # (A rate this small never comes near enough to stop early.)
        "null_text": (4 + 4 * (1 + 3 + 1), 4 * 3),
        "edict": (4 * 2 * 2, 0),
        "edit_friendly": (4 * 2, 0),
        "regularised": (4 + 2 * 4, 0),
        "fixed_point": (4 * 3 + 2 * 4, 0),
        "renoise": (4 * 3 + 2 * 4, 0),
    }
    costs: list[Cost] = []
    for inversion, counted in expected.items():
        own = options | OWN.get(inversion, {})
        contender = Contender("prompt_to_prompt", inversion, {}, own)
        with counting(model) as passed:
            _, cost = drain(measured(model, contender.invert(model, photo(), CAT)))
        assert rows(cost) == counted == (passed.rows, passed.with_gradient)
        costs.append(cost)
    assert rows(costs[0] + costs[3]) == (4 + 24, 12)


def test_null_text_that_stops_early_counts_what_it_did(tiny: Tiny) -> None:
    model = tiny()
    options = {"steps": 4, "guidance_scale": 3.0, "early_stop": 1e9, "null_optimizer": "adam"}
    contender = Contender("prompt_to_prompt", "null_text", {}, options)
    with counting(model) as passed:
        _, cost = drain(measured(model, contender.invert(model, photo(), CAT)))
    assert rows(cost) == (passed.rows, passed.with_gradient) == (4 + 4 * 3, 4)


def test_two_computations_in_turn_are_counted_apart(tiny: Tiny) -> None:
    """A hook on the shared UNet would mix them."""
    model = tiny()
    runs = [
        measured(model, Contender("prompt_to_prompt", way, {}, {"steps": 4}).invert(model, photo(), CAT))
        for way in ("direct", "negative_prompt")
    ]
    costs: list[Cost | None] = [None, None]
    while None in costs:
        for i, run in enumerate(runs):
            if costs[i] is None:
                try:
                    next(run)
                except StopIteration as end:
                    costs[i] = end.value[1]
    assert [rows(cost) for cost in costs if cost is not None] == [(4, 0), (8, 0)]


def test_a_computation_that_fails_or_is_given_up_is_closed(tiny: Tiny) -> None:
    closed: list[str] = []

    def failing() -> Generator[Progress, None, None]:
        try:
            yield Progress("working", 1, 2, rows=3)
            raise RuntimeError("stop")
        finally:
            closed.append("closed")

    with pytest.raises(RuntimeError, match="stop"):
        drain(measured(tiny(), failing()))
    left = measured(tiny(), failing())
    next(left)
    left.close()
    assert closed == ["closed", "closed"]


def test_warming_up_leaves_the_model_as_it_was(tiny: Tiny) -> None:
    model = tiny()
    before = model.hash
    warm_up(model)
    assert model.hash == before
