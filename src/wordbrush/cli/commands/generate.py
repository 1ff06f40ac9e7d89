"""`wordbrush generate`: a picture of a prompt."""

import wordbrush
from wordbrush.cli import outputs
from wordbrush.cli.options.flags import Preview, Whole
from wordbrush.cli.options.setup import POCKET, LongPrompt, Setup
from wordbrush.options import Solver


def generate(
    prompt: str,
    /,
    *,
    out: str,
    seed: Whole = 0,
    steps: Whole | None = None,
    guidance_scale: float | None = None,
    negative_prompt: str = "",
    solver: Solver = "ddim",
    width: Whole | None = None,
    height: Whole | None = None,
    preview: Preview = None,
    long_prompt: LongPrompt = False,
    setup: Setup = POCKET,
) -> int:
    """Make a picture of a prompt.

    Parameters
    ----------
    prompt
        what the picture shall show
    out
        the PNG to write
    seed
        the same seed makes the same picture
    steps
        sampling steps (default: the model's own)
    guidance_scale
        text guidance: how strongly the picture follows the prompt (default: the model's own)
    negative_prompt
        what guidance leads away from: what shall not be seen
    solver
        what takes the steps: dpm++ (DPM-Solver++ 2M) is of second order and needs fewer of them
    width
        in pixels (default: the model's own)
    height
        in pixels (default: the model's own)
    """
    path = outputs.single(out, ".png")
    files = outputs.planned([path], out, setup.files, preview=preview)
    outputs.require_text("the prompt", prompt)
    model = setup.load()
    if long_prompt:
        model = model.for_prompts([prompt, negative_prompt])
    from wordbrush import images

    setup.terminal.note([model.strange(prompt)])
    with setup.terminal.watching(files.preview, every=preview or 1) as show:
        image = wordbrush.generate(
            model,
            prompt,
            seed=seed,
            steps=steps,
            guidance_scale=guidance_scale,
            negative_prompt=negative_prompt,
            solver=solver,
            width=width,
            height=height,
            on_progress=show,
        )
    images.save_png(image, path)
    setup.terminal.say(f"{path}  {prompt}")
    setup.terminal.finish(command="generate", out=path, prompt=prompt, seed=seed)
    return 0
