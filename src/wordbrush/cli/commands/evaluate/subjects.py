"""`wordbrush evaluate subjects`: a folder of generated subjects, scored by the protocols of three papers; or ways to
teach subjects of the built-in world, compared."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Parameter, validators

from wordbrush.cli.commands.evaluate.judging import Judging
from wordbrush.cli.options import several
from wordbrush.cli.options.flags import Whole
from wordbrush.cli.options.setup import Device, Json, Setup
from wordbrush.cli.terminal import Terminal
from wordbrush.errors import OptionsError, OutputError

if TYPE_CHECKING:
    from wordbrush.evaluation.subjects.pocket.making import Bench

Protocol = Literal["dreambooth", "custom-diffusion", "textual-inversion"]
Subset = Annotated[Whole, Parameter(metavar="N", validator=validators.Number(gte=2, lte=100_000))]
SHIPPED = Judging()
Folder = Annotated[
    Path | None,
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
FromPocket = Annotated[
    Literal["reported", "choosing"] | None,
    Parameter(
        help="instead of a folder: teach subjects of the built-in world, whose truth is known, and compare; reported: "
        "those of the figures; choosing: those to choose settings by"
    ),
]
Ways = Annotated[
    list[str] | None,
    Parameter(help="a way to teach them, repeatable: a training's name, or a variant's (default: all)"),
]
Subjects = Annotated[
    list[str] | None,
    Parameter(help="one of these subjects, repeatable (default: all, those made before included)"),
]
Few = Annotated[Whole | None, Parameter(metavar="N", validator=validators.Number(gte=1, lte=1000))]
Pictures = Annotated[Few, Parameter(help="pictures of each prompt (default: 2)")]
Steps = Annotated[Few, Parameter(help="sampling steps (default: 16)")]
Quick = Annotated[bool, Parameter(help="short trainings and few steps, to try it: no figures to report")]
StudyFolder = Annotated[
    Path | None, Parameter(metavar="FOLDER", help="also write a forced-choice study of the pictures there")
]


def subjects(
    folder: Folder = None,
    /,
    *,
    out: Out,
    protocol: Protocols = None,
    judging: Judging = SHIPPED,
    text: Text = "token-free",
    self_pairs: SelfPairs = "excluded",
    kid_subset: KidSubset = 50,
    from_pocket: FromPocket = None,
    method: Ways = None,
    subject: Subjects = None,
    pictures: Pictures = None,
    steps: Steps = None,
    quick: Quick = False,
    study: StudyFolder = None,
    device: Device = None,
    json: Json = False,
) -> int:
    """Score generated pictures of subjects by DreamBooth's, Custom Diffusion's and Textual Inversion's protocols.

    The papers use the CLIP openai/clip-vit-base-patch32 and the encoder facebook/dino-vits16. With --from-pocket,
    trainings are compared on subjects of the built-in world: every row of the papers' tables beside ours.
    """
    terminal = Terminal(as_json=json)
    if (folder is None) == (from_pocket is None):
        raise OptionsError("expected a folder of subjects or --from-pocket, one of the two")
    place = several.results_folder(out, judging.lpips_weights)
    if from_pocket is not None:
        _require_unused(
            "--from-pocket has rules of its own",
            {
                "--protocol": protocol,
                "--text": text != "token-free",
                "--self-pairs": self_pairs != "excluded",
                "--kid-subset": kid_subset != 50,
            },
        )
        if study is not None and (study / "study.toml").exists():
            raise OutputError(f"{study} already contains a study: choose another folder")
        with terminal.busy("starting"):
            several.require("matplotlib", "a plot")
            several.require("torchmetrics", "KID")
            from dataclasses import replace

            from wordbrush.evaluation.subjects.pocket import variants, world
            from wordbrush.evaluation.subjects.pocket.making import QUICK, Bench, Counts
        own = {"pictures": pictures, "steps": steps}
        counts = replace(
            QUICK if quick else Counts(), **{name: n for name, n in own.items() if n is not None}
        )
        ways, everyone = variants.chosen(method), world.subjects(from_pocket)
        chosen = world.subjects(from_pocket, subject or ())
        model = Setup(device=device, json=json).load()
        bench = Bench(model, place, everyone, ways, counts, chosen)
        return _compared(terminal, bench, judging, device, study)
    given = {"--method": method, "--subject": subject, "--pictures": pictures, "--steps": steps}
    _require_unused("only --from-pocket makes pictures", {**given, "--quick": quick, "--study": study})
    with terminal.busy("starting"):
        from wordbrush.evaluation.subjects import format, report
        from wordbrush.evaluation.subjects.protocols import PROTOCOLS, Rules
        from wordbrush.evaluation.subjects.run import evaluate
        from wordbrush.progress import drain
    assert folder is not None
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


def _require_unused(why: str, given: dict[str, object]) -> None:
    if used := [flag for flag, value in given.items() if value]:
        raise OptionsError(f"{why}: leave {', '.join(used)} out")


def _compared(
    terminal: Terminal, bench: "Bench", judging: Judging, device: str | None, study: Path | None
) -> int:
    """Make what is missing, and write the tables of what is there."""
    from wordbrush.evaluation.subjects.pocket import gallery, making, report, scores, two
    from wordbrush.files import sole
    from wordbrush.progress import drain

    with terminal.watching() as show:
        elsewhere = drain(making.make(bench, [*making.parts(bench), *two.parts(bench)]), show)
    if elsewhere:
        terminal.note(
            [f"others are making {len(elsewhere)} parts: give the same command once more when they are done"]
        )
    with terminal.busy("loading the judges"):
        judges = judging.load(device, reader=True)
    try:
        with sole(bench.folder / ".scores.lock"), terminal.watching() as show:
            found = drain(scores.score(bench, judges), show)
            files = [*report.write(found, bench.folder), *gallery.write(bench, bench.folder / "gallery")]
    except BlockingIOError as error:
        raise OutputError(
            f"another process is scoring {bench.folder}: give the same command once more when it is done"
        ) from error
    if study is not None:
        gallery.write_choices(bench, study)
        files.append(study / "study.toml")
    terminal.say(report.text(found))
    terminal.say("\n".join(map(str, files)))
    terminal.finish(
        command="evaluate subjects", out=bench.folder, files=files, scores=found.rows, missing=elsewhere
    )
    return 0
