"""The options of the automatic choice: Prompt-to-Prompt's, and how hard it tries."""

from pydantic import Field

from wordbrush.editing.prompt_to_prompt.options import Options as PromptToPrompt


class Options(PromptToPrompt):
    """All of Prompt-to-Prompt's: what is given is never overruled."""

    tries: int | None = Field(
        None,
        ge=1,
        le=16,
        description="noises to draw with at most, while the model does not see the change in what was drawn (default: "
        "by what changes; straight path only)",
    )
    sure: float = Field(
        0.5,
        ge=0,
        le=100,
        description="how much worse the source's caption must explain the edit than the target's, as a share of the "
        "error, for no other noise to be tried",
    )

    def for_drawing(self) -> PromptToPrompt:
        """What Prompt-to-Prompt gets."""
        return PromptToPrompt(**self.model_dump(include=set(PromptToPrompt.model_fields)))
