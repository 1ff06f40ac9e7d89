"""Options that were given and do nothing for a target: a user should hear of it."""

from collections.abc import Generator

import torch

from wordbrush.attention_edit import AttentionEdit, keep
from wordbrush.editing.prompt_to_prompt.blending import BlendWords
from wordbrush.editing.prompt_to_prompt.options import Options, window_of
from wordbrush.words import Words


def idle(
    given: Options,
    options: Options,
    target: Words,
    edit: AttentionEdit,
    words: BlendWords,
    self_window: tuple[int, int],
    never_blends: bool,
    leads_away: bool,
) -> list[str]:
    """What to say of options without effect.

    given: by the user. options: as decided. edit: the target's edit in its windows. self_window: the steps that inject
    self-attention. never_blends: whether local blend starts only after the run. leads_away: whether guidance leads away
    from the negative prompt in any step.
    """
    found = [
        *_attention(given, options, target, edit, self_window),
        *_words(given, words),
        *_blending(given, options, words, never_blends),
    ]
    if given.negative_prompt and not leads_away:
        found.append(
            ("negative_prompt", "guidance leads away from nothing, at scale 1 or on the straight path")
        )
    return [f"{name} does nothing: {why}" for name, why in found]


def _attention(
    given: Options, options: Options, target: Words, edit: AttentionEdit, self_window: tuple[int, int]
) -> Generator[tuple[str, str]]:
    for option, phrases in (("reweight", given.reweight), ("word_steps", given.word_steps)):
        for phrase, value in phrases.items():
            asks = value != 1 if option == "reweight" else window_of(value) != (0, 0)
            if asks and target.has(phrase) and _is_kept(edit, target.indicator([phrase]) > 0):
                yield (
                    f"{option} of '{phrase}'",
                    "the word keeps its own attention in every step, so give it a window (cross_replace_steps)",
                )
    start, stop = self_window
    if given.self_limit is not None and start == stop:
        yield "self_limit", "no step injects self-attention (self_replace_steps)"
    if given.self_replace_steps and window_of(given.self_replace_steps)[1] > 0:
        if options.self_limit == 0:
            yield "self_replace_steps", "self_limit is 0"
        elif start == stop:
            yield "self_replace_steps", "its window is shorter than a step"


def _is_kept(edit: AttentionEdit, tokens: torch.Tensor) -> bool:
    """Whether these tokens keep their own maps, unweighted, in every step."""
    own = keep(len(tokens))
    return bool((edit.A[:, :, tokens] == own.A[:, :, tokens]).all()) and bool(
        (edit.B[:, tokens] == own.B[:, tokens]).all()
    )


def _words(given: Options, words: BlendWords) -> Generator[tuple[str, str]]:
    for option, asked, found in (
        ("local_blend", given.local_blend, words.edited),
        ("spare", given.spare, words.spared),
    ):
        if isinstance(asked, tuple) and asked and not any(found):
            yield f"{option} {', '.join(asked)}", "neither this prompt nor the source's has such a word"
    if given.spare == "things" and not any(words.spared):
        yield "spare things", "no thing stays as it is"
    if given.hold and not any(words.held):
        yield "hold", "no thing stays as it is"


def _blending(
    given: Options, options: Options, words: BlendWords, never_blends: bool
) -> Generator[tuple[str, str]]:
    is_masking = any(words.edited) or any(words.spared) or bool(options.blend_difference)
    if never_blends and is_masking:
        yield "local blend", "blend_start leaves it no step"
        return
    reasons = {
        "blend_start": (is_masking, "there is no local blend"),
        "blend_threshold": (any(words.edited), "local blend has no words"),
        "spare_threshold": (any(words.spared), "no words are spared"),
    }
    for name, (acts, why) in reasons.items():
        if getattr(given, name) is not None and not acts:
            yield name, why
