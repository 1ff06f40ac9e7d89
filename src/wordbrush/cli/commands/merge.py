"""`wordbrush merge`: several learned concepts as one."""

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from wordbrush.cli import outputs
from wordbrush.cli.options.setup import POCKET, Setup
from wordbrush.errors import ConceptError
from wordbrush.progress import drain


def merge(
    *files: Path,
    out: str,
    captions: Annotated[
        Path | None,
        Parameter(
            help="a text file of captions of many different pictures, one a line, which shall mean what they did "
            "(default: those of the built-in model's world; for other models there are none)"
        ),
    ] = None,
    target: Annotated[
        tuple[str, ...],
        Parameter(
            help="a prompt in which a learned word shall mean exactly what it does in its concept; repeat it for more "
            '(default: each concept\'s own prompt, "photo of a <my-cat> cat", and "<my-cat> cat")',
            negative=(),
            show_default=False,
        ),
    ] = (),
    setup: Setup = POCKET,
) -> int:
    """Merge learned concepts of Custom Diffusion into one, without training.

    Each word keeps its meaning, and everything else changes as little as that allows.

    Parameters
    ----------
    files
        the concepts, each with words of its own
    out
        the .concept file to write
    """
    terminal = setup.terminal
    path = outputs.single(out, ".concept")
    outputs.check([*files, captions], [path])
    if len(files) < 2:
        raise ConceptError(f"expected the files of two concepts to merge, or of more, got {len(files)}")
    with terminal.busy("starting"):
        from wordbrush.concept import exchange, merging
    texts = None if captions is None else merging.captions_in(captions)
    model = setup.load()
    concepts = [exchange.read(each, model) for each in files]
    with terminal.watching() as show:
        merged = drain(merging.merge(model, concepts, texts, target), show)
    merged.concept.save(path)
    prompt = merged.concept.prompt
    use = setup.use(prompt, path)
    terminal.say(f"{path}  {prompt}")
    terminal.rows(
        {
            "words": f"their keys and values are each concept's own up to {merged.error:.1g}",
            "other text": f"{merged.captions} captions change by {merged.changed:.2%}; by the concepts alone "
            f"{' and '.join(f'{each:.2%}' for each in merged.alone)}",
        }
    )
    terminal.say(use)
    terminal.note(merged.notices)
    terminal.finish(
        command="merge",
        concepts=list(files),
        out=path,
        prompt=prompt,
        use=use,
        targets=merged.targets,
        captions=merged.captions,
        rank=merged.rank,
        width=merged.width,
        error=merged.error,
        changed=merged.changed,
        alone=merged.alone,
        notices=merged.notices,
    )
    return 0
