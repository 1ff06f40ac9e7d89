"""`wordbrush evaluate subjects`: a folder of generated subjects, scored by the protocols of three papers."""

from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter, validators

from wordbrush.cli.commands.evaluate.judging import Judging
from wordbrush.cli.options import several
from wordbrush.cli.options.flags import Whole
from wordbrush.cli.options.setup import Device, Json
from wordbrush.cli.terminal import Terminal

Protocol = Literal["dreambooth", "custom-diffusion", "textual-inversion"]
Subset = Annotated[Whole, Parameter(metavar="N", validator=validators.Number(gte=2, lte=100_000))]
SHIPPED = Judging()
Folder = Annotated[
    Path,
    Parameter(
        help="real pictures, generated pictures and their prompts; docs/evaluation/subjects.md describes the layout"
    ),
]
Out = Annotated[
    str,
    Parameter(
        help="the folder (FOLDER/) for results.jsonl and the tables; a run that was stopped goes on there"
    ),
]
Protocols = Annotated[list[Protocol] | None, Parameter(help="one of them, repeatable (default: all three)")]
Text = Annotated[
    Literal["token-free", "with-token"], Parameter(help="whether CLIP reads the prompts without their token")
]
SelfPairs = Annotated[
    Literal["excluded", "included"],
    Parameter(
        help="whether each real picture is also compared with itself where real pictures replace generated ones"
    ),
]
KidSubset = Annotated[Subset, Parameter(help="pictures in a subset of the kernel distance")]


def subjects(
    folder: Folder,
    /,
    *,
    out: Out,
    protocol: Protocols = None,
    judging: Judging = SHIPPED,
    text: Text = "token-free",
    self_pairs: SelfPairs = "excluded",
    kid_subset: KidSubset = 50,
    device: Device = None,
    json: Json = False,
) -> int:
    """Score generated pictures of subjects by DreamBooth's, Custom Diffusion's and Textual Inversion's protocols.

    The papers use the CLIP openai/clip-vit-base-patch32 and the encoder facebook/dino-vits16.
    """
    terminal = Terminal(as_json=json)
    place = several.results_folder(out, judging.lpips_weights)
    with terminal.busy("starting"):
        from wordbrush.evaluation.subjects import format, report
        from wordbrush.evaluation.subjects.protocols import PROTOCOLS, Rules
        from wordbrush.evaluation.subjects.run import evaluate
        from wordbrush.progress import drain
    read = format.read(folder)
    with terminal.busy("loading the judges"):
        judges = judging.load(device)
    protocols, rules = tuple(dict.fromkeys(protocol or PROTOCOLS)), Rules(text, self_pairs, kid_subset)
    with terminal.watching() as show:
        results = drain(evaluate(read, judges, place, protocols=protocols, rules=rules), show)
    files = report.write(results, place)
    terminal.say(report.text(results))
    terminal.note(results.notices)
    terminal.say("\n".join(map(str, files)))
    terminal.finish(
        command="evaluate subjects",
        folder=folder,
        out=place,
        files=files,
        rows=[row for rows in results.rows.values() for row in rows],
        notices=results.notices,
    )
    return 0
