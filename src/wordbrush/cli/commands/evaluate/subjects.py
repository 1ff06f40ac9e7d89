"""`wordbrush evaluate subjects`: a folder of generated subjects, scored as three papers score theirs."""

from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter, validators

from wordbrush.cli import outputs
from wordbrush.cli.options.flags import Whole
from wordbrush.cli.options.setup import Device, Json
from wordbrush.cli.terminal import Terminal
from wordbrush.errors import OptionsError

Protocol = Literal["dreambooth", "custom-diffusion", "textual-inversion"]
Checkpoint = Annotated[str, Parameter(metavar="NAME")]
Subset = Annotated[Whole, Parameter(metavar="N", validator=validators.Number(gte=2))]


def subjects(
    folder: Path,
    /,
    *,
    out: str,
    protocol: list[Protocol] | None = None,
    clip: Checkpoint = "pocket",
    encoder: Checkpoint = "pocket",
    lpips: Literal["alex", "vgg", "squeeze"] | None = None,
    lpips_weights: Annotated[Path | None, Parameter(metavar="FILE")] = None,
    text: Literal["token-free", "with-token"] = "token-free",
    self_pairs: Literal["excluded", "included"] = "excluded",
    kid_subset: Subset = 50,
    device: Device = None,
    json: Json = False,
) -> int:
    """Score generated pictures of subjects by DreamBooth's, Custom Diffusion's and Textual Inversion's protocols.

    Parameters
    ----------
    folder
        real pictures, generated pictures and their prompts; docs/evaluation/subjects.md says how they lie
    out
        the folder (FOLDER/) for results.jsonl and the tables; a run that was stopped goes on there
    protocol
        one of them, repeatable (default: all three)
    clip
        pocket (built in), a hub id or a folder; papers: openai/clip-vit-base-patch32
    encoder
        in DINO's role: pocket (built in), a hub id or a folder; the paper: facebook/dino-vits16
    lpips
        measure DIV as LPIPS on this network instead of by the encoder's own distance
    lpips_weights
        that network's weights, as torchvision publishes them
    text
        whether CLIP reads the prompts without their token
    self_pairs
        whether real pictures count as like themselves where they stand in for generated ones
    kid_subset
        pictures in a subset of the kernel distance
    """
    terminal = Terminal(as_json=json)
    if not out.strip():
        raise OptionsError("expected --out to say where the results go, got nothing")
    if (lpips is None) != (lpips_weights is None):
        raise OptionsError("expected --lpips NET and --lpips-weights FILE together, got one of them")
    place = Path(out)
    outputs.check([lpips_weights], [place / "results.jsonl"])
    with terminal.busy("starting"):
        from wordbrush.evaluation.judges.backbones import load_clip, load_encoder
        from wordbrush.evaluation.metrics.perceptual import PocketDistance, load_lpips
        from wordbrush.evaluation.subjects import format as subjects_format
        from wordbrush.evaluation.subjects import report as subjects_report
        from wordbrush.evaluation.subjects.protocols import PROTOCOLS, Judges, Rules
        from wordbrush.evaluation.subjects.run import evaluate
        from wordbrush.progress import drain
    read = subjects_format.read(folder)
    with terminal.busy("loading the judges"):
        eyes = load_encoder(encoder, device)
        distance = (
            load_lpips(lpips, lpips_weights, device=device)
            if lpips and lpips_weights
            else PocketDistance(eyes)
        )
        judges = Judges(load_clip(clip, device), eyes, distance)
    steps = evaluate(
        read,
        judges,
        place,
        protocols=tuple(dict.fromkeys(protocol or PROTOCOLS)),
        rules=Rules(text, self_pairs, kid_subset),
    )
    with terminal.watching() as show:
        results = drain(steps, show)
    written = subjects_report.write(results, place)
    terminal.say(subjects_report.text(results))
    terminal.note(results.notices)
    terminal.say("\n".join(map(str, written)))
    terminal.finish(
        command="evaluate subjects",
        folder=folder,
        out=place,
        files=written,
        rows=[row for rows in results.rows.values() for row in rows],
        notices=results.notices,
    )
    return 0
