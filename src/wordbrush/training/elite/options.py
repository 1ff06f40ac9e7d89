"""The options of ELITE; nothing here imports torch."""

from pydantic import Field

from wordbrush.options import MaybeSaid, Options, Said


class EliteOptions(Options):
    """What to call the thing, and how much of it is kept."""

    token: Said = Field("<my-thing>", description="the new word, '<my-cat>'")
    init: MaybeSaid = Field(
        "",
        description="a known word for the thing, 'cat', which the new one means at strength 0 (default: it is applied "
        "at strength 1 alone)",
    )
    words: int = Field(
        1, ge=1, le=16, description="vectors of the word, of those that the mappers make: pocket's make three"
    )
    local: float = Field(
        0.8, ge=0, le=2, description="how much of the thing's parts is seen where its word is; 0: none"
    )
    mappers: MaybeSaid = Field(
        "", description="folder of mapping networks trained for the model (default: pocket's own)"
    )
