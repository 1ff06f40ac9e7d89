"""Editing methods: from a `Source` and prompts to pictures. One file a method, one line each in this table."""

from wordbrush.methods import Method

METHODS = {
    "prompt_to_prompt": Method(
        "wordbrush.editing.prompt_to_prompt",
        "cross-attention edits: swap, add or reweight words, keep the layout",
    ),
}
