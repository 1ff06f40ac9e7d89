"""`wordbrush replay`: a picture record again from its record."""

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

import wordbrush
from wordbrush.cli import outputs
from wordbrush.cli.options.concepts import Named
from wordbrush.cli.options.setup import Device, Json, Setup
from wordbrush.cli.terminal import Terminal


def replay(
    picture: Path,
    /,
    *,
    out: str | None = None,
    model: Annotated[
        str | None, Parameter(help="the model's path now (default: the path in the record)")
    ] = None,
    device: Device = None,
    json: Json = False,
) -> int:
    """Make a picture again from the record in its file, and say whether every pixel is the same (if not, exit 1).

    Parameters
    ----------
    picture
        a picture that wordbrush made, in any format that it writes
    out
        a PNG to write the new picture to
    """
    terminal = Terminal(as_json=json)
    path = outputs.single(out, ".png") if out is not None else None
    with terminal.busy("starting"):
        import torch

        from wordbrush import images, provenance
    record = provenance.read_record(picture)
    files = [file.path for file in (record.source.picture, record.source.saved) if file is not None]
    concepts = [Named(each.found(picture), each.strength) for each in record.model.concepts]
    named = [*(Path(file) for file in files if file is not None), *(each.path for each in concepts)]
    outputs.check([picture, *named], [path])
    # A model is never fetched because a stranger's picture names it.
    name, fetch = (model, True) if model is not None else (record.model.found(picture), False)
    setup = Setup(name, device, record.model.dtype, tuple(map(str, concepts)), json)
    loaded = setup.load(fetch=fetch)
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(record.threads or threads)  # the last bits of a sum depend on their number
        with terminal.watching() as show:
            again = wordbrush.replay(picture, model=loaded, on_progress=show)
    finally:
        torch.set_num_threads(threads)
    if path is not None:
        images.save_png(again.image, path)
    same = not again.differences
    terminal.say(
        f"{picture}  "
        + ("every pixel is the same" if same else f"the pixels differ: {'; '.join(again.differences)}")
    )
    terminal.finish(command="replay", picture=picture, same=same, differences=again.differences, out=path)
    return 0 if same else 1
