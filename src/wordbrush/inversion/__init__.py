"""Inversions: from a real picture to a `Source`. One file a method; this table is all that knows their names."""

from wordbrush.methods import Method

METHODS = {
    "direct": Method(
        "wordbrush.inversion.direct", "source pinned to the unguided DDIM path: exact, one row a step"
    ),
    "ddim": Method(
        "wordbrush.inversion.ddim", "the baseline: unguided up, guided down; drifts with guidance"
    ),
    "negative_prompt": Method(
        "wordbrush.inversion.negative_prompt",
        "the source's prompt stands for no text: as good as unguided DDIM",
    ),
    "null_text": Method(
        "wordbrush.inversion.null_text",
        "optimises a null embedding for each step: faithful under guidance, slow",
    ),
}
