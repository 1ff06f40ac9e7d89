"""`wordbrush generate`: a picture of a prompt."""

import wordbrush
from wordbrush.cli import outputs
from wordbrush.cli.options.flags import Whole
from wordbrush.cli.options.setup import Setup
from wordbrush.cli.options.shared import POCKET, Preview, require_text


def generate(
    prompt: str,
    /,
    *,
    out: str,
    seed: Whole = 0,
    steps: Whole | None = None,
    guidance_scale: float | None = None,
    width: Whole | None = None,
    height: Whole | None = None,
    preview: Preview = None,
    setup: Setup = POCKET,
) -> int:
    """Make a picture of a prompt.

    Parameters
    ----------
    prompt
        what to see in the picture
    out
        the PNG to write
    seed
        the same seed makes the same picture
    steps
        sampling steps (default: the model's own)
    guidance_scale
        how strongly the prompt pulls (default: the model's own)
    width
        in pixels (default: the model's own)
    height
        in pixels (default: the model's own)
    """
    path = outputs.single(out, ".png")
    preview_path = outputs.beside([path], out, "preview") if preview else None
    outputs.check([], [path], preview_path)
    require_text("the prompt", prompt)
    model = setup.load()
    from wordbrush import images, provenance
    from wordbrush.cli import origins

    with setup.terminal.watching(preview_path, every=preview or 1) as show:
        source = wordbrush.from_seed(
            model,
            prompt,
            seed=seed,
            steps=steps,
            guidance_scale=guidance_scale,
            width=width,
            height=height,
            on_progress=show,
        )
    made = origins.seeded(model, source)
    images.save_png(made.image, path, provenance.record("generate", model, made.record, made.image))
    setup.terminal.say(f"{path}  {prompt}")
    setup.terminal.finish(command="generate", out=path, prompt=prompt, seed=seed)
    return 0
