"""The default: Prompt-to-Prompt by what the words change, which the model looks at and draws again where it failed.

What the two captions ask for decides windows, guidance, mask and blend (`prompt_to_prompt.defaults`). Whether a thing
appears at all is then a matter of the noise that it is drawn with: nothing in the source says where it goes. So what is
added is looked at when it is drawn. The model says how much worse the source's caption explains the edit than the
target's (`likelihood`); where that is not enough, the edit is drawn again with another noise, and the one that the
target explains best is kept.

No other method was better at its cost for any kind of change that was tried (docs/methods/auto.md). Nothing but the
model itself reads the edit, and no judge of the bench. Sources that are not on the straight path have a noise of their
own, and get Prompt-to-Prompt as it is.
"""

import math
import time
from collections.abc import Generator, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from wordbrush.changes import Change, Kind
from wordbrush.editing import COMPARED, Dial
from wordbrush.editing.auto.likelihood import ROWS, gain
from wordbrush.editing.auto.options import Options
from wordbrush.editing.prompt_to_prompt import defaults
from wordbrush.editing.prompt_to_prompt import method as prompt_to_prompt
from wordbrush.model import Model
from wordbrush.progress import Progress, staged
from wordbrush.request import EditRequest, Need
from wordbrush.result import Result
from wordbrush.sampling import initial_latents
from wordbrush.source import Source
from wordbrush.states import StraightPath

NEEDS: frozenset[Need] = prompt_to_prompt.NEEDS

STRENGTH: Dial = prompt_to_prompt.STRENGTH

TRIES: Mapping[Kind, int] = {"add": 4}
"""Noises to draw with at most, for the kinds of change where more than one helps (docs/methods/auto.md)."""

UNSEEN = 0.05
"""How much worse the source's caption explains nearly every edit that shows its change."""


def plan(model: Model, request: EditRequest) -> list[prompt_to_prompt.Plan]:
    """What Prompt-to-Prompt plans. Raises `PromptError` like it."""
    options: Options = request.options
    return prompt_to_prompt.plan(model, replace(request, options=options.for_drawing()))


def edit(model: Model, request: EditRequest) -> Generator[Progress, None, list[Result]]:
    """Edit a source into each of the target prompts; one result per target, in order.

    Raises `PromptError` like `plan`, `SourceError` if the source is another model's.
    """
    source, options = request.started(model), request.options
    began, plain = time.perf_counter(), replace(request, options=options.for_drawing())
    targets = [
        _Target(prompt, _tries(model, source, options, planned.change))
        for prompt, planned in zip(request.targets, plan(model, request), strict=True)
    ]
    rows = 0
    for attempt in range(max(target.tries for target in targets)):
        left = [target for target in targets if attempt < target.tries and target.best < options.sure]
        if not left:
            break
        prompts = tuple(target.prompt for target in left)
        again = replace(plain, source=_with_noise(model, source, attempt), targets=prompts)
        drawing = prompt_to_prompt.edit(model, again)
        results = yield from staged(drawing, partial(_stage, attempt))
        rows += results[0].report.unet_rows
        for target, result in zip(left, results, strict=True):
            seen = -math.inf
            if target.tries > 1:
                z_0 = result.trajectory[-1:]
                seen = yield from gain(model, z_0, source.prompt, target.prompt, source.schedule)
                rows += ROWS
            target.drawn.append((seen, attempt, result))
    seconds = round(time.perf_counter() - began, 3)
    return [target.chosen(source, options, rows, seconds) for target in targets]


@dataclass(frozen=True, eq=False)
class _Target:
    """One target. tries: the noises to draw with at most, of which more than one are looked at.

    drawn: the edits, each with how much worse the source's caption explains it, and the number of its noise.
    """

    prompt: str
    tries: int
    drawn: list[tuple[float, int, Result]] = field(default_factory=list[tuple[float, int, Result]])

    @property
    def best(self) -> float:
        """How well the best edit so far is seen."""
        return max((seen for seen, _, _ in self.drawn), default=-math.inf)

    def chosen(self, source: Source, options: Options, rows: int, seconds: float) -> Result:
        """The edit that is seen best, with the report of all of them. It is an edit of the source as it was given."""
        seen, attempt, result = max(self.drawn, key=lambda each: each[0])
        report, notices = result.report, list(result.report.notices)
        details: dict[str, Any] = {"method": COMPARED, **report.details}
        if self.tries > 1:
            details |= {
                "tried": len(self.drawn),
                "noise_seed": _seed(source, attempt),
                "seen": round(seen, 3),
            }
            if seen < UNSEEN:
                notices.append(
                    "the model does not see the change in what it drew: try more noises (tries), other words, or a "
                    "mask that says where"
                )
        elif (options.tries or 1) > 1 and not isinstance(source.states, StraightPath):
            notices.append(
                "tries does nothing here: the source has a path of its own, and no noise to choose; invert with "
                "straight"
            )
        report = replace(report, unet_rows=rows, seconds=seconds, notices=tuple(notices), details=details)
        return replace(result, source=source, report=report)


def _tries(model: Model, source: Source, options: Options, change: Change) -> int:
    """The noises to draw with at most: more than one where what is drawn is looked at. A weaker edit is not expected to
    be seen."""
    if not isinstance(source.states, StraightPath) or change.kind == "nothing" or options.start > 0:
        return 1
    return options.tries or (TRIES.get(change.kind, 1) if model.name == defaults.MEASURED else 1)


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


def _stage(attempt: int, stage: str) -> str:
    """Which noise an edit is drawn with, from the second on."""
    return f"{stage}, noise {attempt + 1}" if attempt else stage
