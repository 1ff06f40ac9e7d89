"""The default: Prompt-to-Prompt by what the words change, which the model looks at and draws again where it failed.

What the two captions ask for decides windows, guidance, mask and blend (`prompt_to_prompt.defaults`). Whether a thing
appears at all, or in its new size, is then a matter of the noise that it is drawn with: nothing in the source says
where it goes. So these kinds of change (`TRIES`) are looked at when they are drawn. The model says how much worse the
source's caption explains the edit than the target's (`likelihood`); where that is not enough, the edit is drawn again
with another noise, and the one that the target explains best is kept.

Nothing but the model itself reads the edit, and no judge of the bench. Sources that are not on the straight path have
a noise of their own, and get Prompt-to-Prompt as it is.
"""

import math
import time
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from wordbrush.changes import Change, Kind
from wordbrush.editing import Dial
from wordbrush.editing.auto.likelihood import ROWS, gain
from wordbrush.editing.auto.options import Options
from wordbrush.editing.prompt_to_prompt import defaults
from wordbrush.editing.prompt_to_prompt import method as prompt_to_prompt
from wordbrush.model import Model
from wordbrush.progress import Progress
from wordbrush.request import EditRequest, Need
from wordbrush.result import Result
from wordbrush.sampling import initial_latents
from wordbrush.source import Source
from wordbrush.states import StraightPath

NEEDS: frozenset[Need] = prompt_to_prompt.NEEDS

STRENGTH: Dial = prompt_to_prompt.STRENGTH

TRIES: Mapping[Kind, int] = {"add": 4, "resize": 3}
"""Noises to draw with at most, for the kinds of change that may not appear (docs/benchmarks/defaults.md)."""

UNSEEN = 0.05
"""How much worse the source's caption explains nearly every edit that shows its change."""


def plan(model: Model, request: EditRequest) -> list[prompt_to_prompt.Plan]:
    """What Prompt-to-Prompt plans. Raises `PromptError` like it."""
    return prompt_to_prompt.plan(model, _drawing(request))


def edit(model: Model, request: EditRequest) -> Generator[Progress, None, list[Result]]:
    """Edit a source into each of the target prompts; one result per target, in order.

    Raises `PromptError` like `plan`, `SourceError` if the source is another model's.
    """
    source, options = request.started(model), request.options
    began = time.perf_counter()
    drawing = _drawing(request)
    tries = [_tries(model, source, options, planned.change) for planned in plan(model, request)]
    drawn: list[list[_Drawn]] = [[] for _ in request.targets]
    rows = 0
    for attempt in range(max(tries)):
        left = [
            i for i, count in enumerate(tries) if attempt < count and not _is_seen(drawn[i], options.sure)
        ]
        if not left:
            break
        targets = tuple(request.targets[i] for i in left)
        with_noise = replace(drawing, source=_with_noise(model, source, attempt), targets=targets)
        results = yield from _told(prompt_to_prompt.edit(model, with_noise), attempt)
        rows += results[0].report.unet_rows
        for i, result in zip(left, results, strict=True):
            seen = math.nan
            if tries[i] > 1:
                z_0 = result.trajectory[-1:]
                seen = yield from gain(model, z_0, source.prompt, result.prompt, source.schedule)
                rows += ROWS
            drawn[i].append(_Drawn(result, attempt, seen))
    seconds = round(time.perf_counter() - began, 3)
    return [_chosen(each, source, options, rows, seconds) for each in drawn]


@dataclass(frozen=True, eq=False)
class _Drawn:
    """One edit. attempt: the number of its noise, 0 the source's. seen: how much worse the source's caption explains
    it; not a number where nobody asked."""

    result: Result
    attempt: int
    seen: float


def _drawing(request: EditRequest) -> EditRequest:
    options: Options = request.options
    return replace(request, options=options.for_drawing())


def _tries(model: Model, source: Source, options: Options, change: Change) -> int:
    """The noises to draw with at most. A weaker edit is not expected to be seen."""
    if change.kind == "nothing" or options.start > 0 or not isinstance(source.states, StraightPath):
        return 1
    if options.tries is not None:
        return options.tries
    return TRIES.get(change.kind, 1) if model.name == defaults.MEASURED else 1


def _is_seen(drawn: Sequence[_Drawn], sure: float) -> bool:
    return any(each.seen >= sure for each in drawn)


def _with_noise(model: Model, source: Source, attempt: int) -> Source:
    """The source on the straight path of another noise, that of the seed which is so much larger; 0 is its own."""
    if attempt == 0:
        return source
    assert isinstance(source.states, StraightPath), "only the straight path has a noise to choose"
    noise = initial_latents(model, _seed(source, attempt), *source.size(model))
    # What was recorded was recorded with the source's noise.
    states = replace(source.states, noise=noise.to(source.states.noise))
    return replace(source, states=states, recording=None)


def _seed(source: Source, attempt: int) -> int:
    """Seeds go round, as they have an end."""
    return (int(source.options.get("noise_seed", 0)) + attempt) % 2**63


def _told(
    steps: Generator[Progress, None, list[Result]], attempt: int
) -> Generator[Progress, None, list[Result]]:
    """Say which noise an edit is drawn with."""
    try:
        while True:
            try:
                progress = next(steps)
            except StopIteration as end:
                return end.value
            yield replace(progress, stage=f"{progress.stage}, noise {attempt + 1}") if attempt else progress
    finally:
        steps.close()


def _chosen(drawn: Sequence[_Drawn], source: Source, options: Options, rows: int, seconds: float) -> Result:
    """The edit that the target explains best, with the report of all of them."""
    best = max(drawn, key=lambda each: each.seen) if len(drawn) > 1 else drawn[0]
    report = best.result.report
    details: dict[str, Any] = {"method": "prompt_to_prompt", **report.details}
    notices = list(report.notices)
    if not math.isnan(best.seen):
        details |= {
            "tried": len(drawn),
            "noise_seed": _seed(source, best.attempt),
            "seen": round(best.seen, 3),
        }
        if best.seen < UNSEEN:
            notices.append(
                "the model does not see the change in what it drew: try more noises (tries), other words, or a mask "
                "that says where"
            )
    elif (
        options.tries is not None
        and options.tries > 1
        and options.start == 0
        and details["change"] != "nothing"
    ):
        notices.append(
            "tries does nothing here: the source has a path of its own, and no noise to choose; invert with straight"
        )
    report = replace(report, unet_rows=rows, seconds=seconds, notices=tuple(notices), details=details)
    return replace(best.result, source=source, report=report)
