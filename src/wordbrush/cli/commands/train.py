"""`wordbrush train`: pictures to a concept, by one of the trainings; and rare words to train with."""

import os
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import App, Parameter, validators

from wordbrush import training
from wordbrush.cli import outputs
from wordbrush.cli.commands.elite import elite
from wordbrush.cli.options import flags
from wordbrush.cli.options.flags import Count, Given, OptionFile, Preview, Whole
from wordbrush.cli.options.setup import POCKET, Setup
from wordbrush.cli.stopping import Stopped
from wordbrush.cli.terminal import Heard, Terminal, listening_to
from wordbrush.errors import OptionsError
from wordbrush.methods import typed
from wordbrush.progress import Progress, drain

if TYPE_CHECKING:
    from wordbrush.training.run import Plan, Trained

Seed = Annotated[Whole, Parameter(help="decides which are drawn", validator=validators.Number(gte=0))]
Length = Annotated[Whole, Parameter(help="letters at most", validator=validators.Number(gte=1, lte=20))]
Work = Annotated[
    str | None,
    Parameter(
        metavar="FOLDER",
        help="for checkpoints, the log and samples; a training that was stopped goes on there "
        "(default: NAME.training beside the output)",
    ),
]


def application(tokens: Sequence[str]) -> App:
    """The commands under `wordbrush train`: one for each training, and `rare-tokens`."""
    app = App(name="train", help="Teach a model a thing or a style, from a few pictures of it.")
    for name, method in training.METHODS.items():
        # The help of other commands does not need their options.
        kinds = {"Training": method.options()} if "train" in tokens[:1] else {}
        app.command(flags.with_flags(_command(name), **kinds), name=typed(name))
    kinds = {"Training": training.AT_ONCE["elite"].options()} if "train" in tokens[:1] else {}
    app.command(flags.with_flags(elite, **kinds))
    app.command(rare_tokens)
    return app


def _command(method: str) -> Callable[..., int]:
    def train(
        folder: Path,
        /,
        *further: Path,
        out: str,
        option_file: OptionFile = None,
        preview: Preview = None,
        work: Work = None,
        setup: Setup = POCKET,
        given: Given,
    ) -> int:
        path = outputs.single(out, ".concept")
        folders = [folder, *further]
        place = _place(work, path, folders)
        preview_path = outputs.beside([path], out, "preview") if preview else None
        outputs.check([option_file], [path, place / "log.jsonl", place / "strip.png"], preview_path)
        (options,) = flags.shared(given, option_file, training.METHODS[method].options())
        with setup.terminal.busy("starting"):
            from wordbrush.fit import shared_out
            from wordbrush.training import pictures
            from wordbrush.training.run import finish, held, planned, run
        with shared_out() as share, ExitStack() as ending:
            if share.is_first:
                ending.enter_context(held(place))
            else:  # the first of several processes prints
                ending.enter_context(listening_to(Heard(lambda progress: None)))
            terminal = setup.terminal
            found = pictures.read(folders if further else folder)
            plan = planned(setup.load(), found, method, options)
            terminal.note(plan.notices)
            with terminal.watching(preview_path, every=preview or 1) as show:
                teller = _Teller(terminal, show)
                try:
                    trained = drain(run(plan, place, share), teller)
                except Stopped:
                    raise Stopped(teller.kept(plan.options.checkpoint_every)) from None
            if share.is_first:
                trained.concept.save(path)
                finish(plan, place)
            _tell(terminal, setup, plan, trained, path, place)
        return 0

    summary = training.METHODS[method].summary
    train.__doc__ = f"""{summary[:1].upper()}{summary[1:]}.

    If it is stopped or killed, the same command goes on where it was.

    Parameters
    ----------
    folder
        3 to 5 pictures of the same thing, in different places
    further
        of other things, a folder each, for methods that learn several at once
    out
        the .concept file to write
    """
    return train


def _place(work: str | None, path: Path, folders: Sequence[Path]) -> Path:
    """The folder for a training's own files. Raises `OptionsError`."""
    if work is not None and not work.strip():
        raise OptionsError("expected --work to name a folder, got nothing")
    place = path.with_suffix(".training") if work is None else Path(work)
    if os.path.realpath(place) in map(os.path.realpath, folders):
        raise OptionsError(
            f"expected --work to be another folder than the pictures', got {place}: samples would be learned from"
        )
    return place


@dataclass
class _Teller:
    """Shows how far a training is, and says from where it goes on."""

    terminal: Terminal
    show: Callable[[Progress], object]
    last: Progress | None = field(default=None, init=False)
    begun: int = field(default=0, init=False)

    def __call__(self, progress: Progress) -> None:
        is_first = self.last is None or self.last.stage != "training"
        if progress.stage == "training" and progress.rows == 0 and is_first:
            self.begun = progress.step
            self.terminal.note([progress.says])
        self.last = progress
        self.show(progress)

    def kept(self, every: int) -> str:
        """What to say of a training that was stopped. every: steps between checkpoints."""
        if self.last is None or self.last.stage != "training":
            return "before the first step; the same command begins again, with the pictures that are made"
        step, total = self.last.step, self.last.total
        if checkpoint := max(self.begun, total if step == total else step // every * every):
            return (
                f"at step {step} of {total}; the last checkpoint (step {checkpoint}) is kept, and the same command "
                "goes on from there"
            )
        return f"at step {step} of {total}, before the first checkpoint; the same command begins again"


def _tell(
    terminal: Terminal, setup: Setup, plan: "Plan", trained: "Trained", path: Path, place: Path
) -> None:
    """Say what was made, and how to use it."""
    prompt = trained.concept.prompt
    use = setup.use(prompt, path)
    terminal.say(f"{path}  {prompt}")
    terminal.say(f"{place / 'strip.png'}  how it was learned")
    terminal.say(use)
    terminal.note(trained.notices)
    terminal.finish(
        command="train",
        method=plan.method,
        out=path,
        prompt=prompt,
        use=use,
        work=place,
        log=place / "log.jsonl",
        strip=place / "strip.png",
        losses=trained.losses,
        notices=[*plan.notices, *trained.notices],
    )


def rare_tokens(*, count: Count = 20, seed: Seed = 0, length: Length = 3, setup: Setup = POCKET) -> int:
    """Draw words that mean little to the model, for the prompts of dreambooth, lora, svdiff and cones.

    Parameters
    ----------
    count
        how many
    """
    terminal = setup.terminal
    with terminal.busy("starting"):
        from wordbrush.training.rare_tokens import drawn
    found = drawn(setup.load(), count, seed, length)
    if len(found) < count:
        terminal.note([f"{setup.model} has {len(found)} such words, not {count}: all of them are here"])
    terminal.rows({f"{each.text:<{length}}  {each.id:>6}": f"a {each.text} cat" for each in found})
    tokens: list[dict[str, Any]] = [{"token": each.text, "id": each.id} for each in found]
    terminal.finish(command="train rare-tokens", tokens=tokens)
    return 0
