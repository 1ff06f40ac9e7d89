"""The tries: for each flag of each command, bad values by the flag's type. Data, and how a try is made of it."""

from collections.abc import Iterator
from dataclasses import dataclass
from fnmatch import fnmatch

from nightly.world import CAT, DOG, LONG
from wordbrush.cli.app import application

ONE = ("--steps", "1")
ALONE = ("--method", "prompt-to-prompt", "--inversion", "direct")
TAUGHT = ("--class-prompt", "a cat", "--class-pictures", "1")
SWEPT = ("--option", "strength", "--values", "0.5")
COMMANDS: dict[str, tuple[str, ...]] = {
    "generate": (CAT, *ONE, "--out", "out/cat.png"),
    "edit": ("photo.png", "--source", CAT, "--target", DOG, *ONE, "--out", "out/dog.png"),
    "sweep": ("photo.png", "--source", CAT, "--target", DOG, *ONE, *SWEPT, "--out", "out/strip.png"),
    "invert": ("photo.png", "--prompt", CAT, *ONE, "--out", "out/photo.source"),
    "heatmap": ("photo.png", "--prompt", CAT, "--word", "cat", *ONE, "--out", "out/heat.png"),
    "replay": ("made.png", "--out", "out/again.png"),
    "batch": ("jobs.jsonl", "--out", "out"),
    "methods": ("direct",),
    "models": (),
    "concepts": ("my-cat.concept",),
    "compare": ("photo.png", "--source", CAT, "--target", DOG, *ALONE, *ONE, "--out", "out"),
    "evaluate bench": ("--count", "1", *ALONE, *ONE, "--out", "out"),
    "evaluate pie": ("pie", "--count", "1", *ALONE, *ONE, "--out", "out"),
    "evaluate subjects": ("subjects", "--out", "out"),
    "evaluate directional": (*("cases.jsonl", "--sweep", "guidance_scale=1", *ALONE, *ONE, "--out", "out"),),
    "study serve": ("study", "--port", "0"),
    "study report": ("study", "--plot", "out/bars.png"),
    "study export": ("study", "--out", "out/answers.csv"),
    "train textual-inversion": (
        "real/cat",
        "--token",
        "<cat>",
        "--init",
        "cat",
        *ONE,
        "--out",
        "out/cat.concept",
    ),
    "train dreambooth": (
        "subjects/real/cat",
        "--prompt",
        "a sks cat",
        *TAUGHT,
        *ONE,
        "--out",
        "out/cat.concept",
    ),
    "train lora": ("subjects/real/cat", "--prompt", "a sks cat", *TAUGHT, *ONE, "--out", "out/cat.concept"),
    "train custom-diffusion": (
        *("subjects/real/cat", "--token", "<cat>", *TAUGHT, *ONE, "--out", "out/cat.concept"),
    ),
    "train svdiff": (
        "subjects/real/cat",
        "--prompt",
        "a sks cat",
        *TAUGHT,
        *ONE,
        "--out",
        "out/cat.concept",
    ),
    "train cones": ("subjects/real/cat", "--prompt", "a sks cat", *TAUGHT, *ONE, "--out", "out/cat.concept"),
    "train elite": ("--picture", "photo.png", "--mask", "photo.png", "--out", "out/cat.concept"),
    "train rare-tokens": (),
    "merge": ("my-dog.concept", "my-vase.concept", "--out", "out/both.concept"),
    "convert": ("my-cat.concept", "--out", "out/cat.concept"),
}
"""Each command with arguments that are right; a try makes one of them wrong."""

ALSO = {
    "--mask": ("--truth", "photo.png"),
    "train elite --mask": (),
    "--lpips-weights": ("--lpips", "alex"),
    "--record-memory": ("--record",),
    "evaluate pie --lpips-weights": ("--lpips-network", "alex"),
}
"""What a flag needs beside it to be read at all."""

TYPES = {
    "whole": "--repeats --shrink --room --decoder-steps --seed --steps --width --height --preview --count "
    "--from-pocket --pocket --kid-subset --noise-seed --self-limit --inner-steps --port --record-memory "
    "--warmup-steps --batch-size --accumulate --checkpoint-every --sample-every --class-pictures --pictures --rank "
    "--vectors --length --progressive --words --timestep-shift --redraw-seed --mask-draws --mask-seed --mask-grow "
    "--rounds --rolls --roll-seed --iterations --renoise-steps --average-from --average-late --tuning-steps "
    "--tuning-batch --tuning-seed --embedding-steps --tries --ablation-seed "
    "--guided-steps --augmentations --samples --latent-steps --cutouts --layer-steps --layer-channels "
    "--layer-views",
    "number": "--decoder-rate --preservation-ratio --guidance-scale --blend-start --blend-threshold "
    "--blend-difference --spare-threshold --hold --finish --start --strength --mask-threshold --learning-rate "
    "--early-stop --early-stop-growth --most-alike --weight-decay --max-norm --ema --snr-gamma --flip "
    "--prior-weight --alpha --text-learning-rate --threshold --limit --word-learning-rate --norm-learning-rate "
    "--cut-mix --unmix --compress --local --eta --skip --mixing --source-guidance-scale --cross-control "
    "--self-control --fresh-noise --pseudo-guidance --noise-limit --difference-threshold --mask-noise --mask-clamp "
    "--direction-scale --attention-guidance --attention-until --autocorrelation --divergence --tolerance "
    "--interpolation --embedding-rate --tuning-rate --picture-weight --until --patches --mutual-start "
    "--mutual-place --foreground-threshold --feature-steps --feature-place --attention-steps --attention-place "
    "--sure --edit-guidance-scale --edit-threshold --edit-warmup --proximal-quantile "
    "--inversion-guidance --inversion-guidance-start "
    "--clip-weight --range-weight --background-weight --latent-share --latent-rate --smallest-cutout "
    "--cutout-noise --init-weight --opacity --layer-rate --composition-weight --screen-weight --structure-weight "
    "--sparsity-weight --bootstrap-weight --bootstrap-until",
    "window": "--cross-replace-steps --self-replace-steps",
    "pairs": "--word-steps --reweight --word-guidance --word-thresholds --word-warmups",
    "words": "--local-blend --spare --word --blend-words --mask-words --keep-words --foreground --add --remove",
    "prompt": "PROMPT --target --source --prompt --negative-prompt --label --class-prompt --sample-prompt --init "
    "--templates --side-by-side --source-sentences --target-sentences --ablation-caption textual-inversion:--token "
    "custom-diffusion:--token elite:--token --rare-words convert:--token "
    "--layer-text",
    "choice": "NAME --begin-from --paste-level --null-optimizer --sentences --held-maps --dtype --protocol --preset "
    "--lpips --text --self-pairs --word-edit --full-masks --lpips-network --option --method --inversion --kind "
    "--forced-border --cut-masks --whole-canvas --structure-0-to-255 --rightmost-panel --shard --schedule "
    "--optimizer --crop --precision --layers --checkpointing --tensorboard --train-text-encoder --train-word "
    "--encoding --own-mask --mask-reference --sizes --to --subject subjects:--from-pocket dreambooth:--keep "
    "--negative-schedule --solver --figure --concept-text --implicit-masks --solver-order "
    "--proximal --proximal-rule --ablation "
    "--blend",
    "switch": "--allow-pickle --json --sheet --keep-inattentive --long-prompt --retry-failed --record "
    "--drop-metadata --quick --save-mask --true-masks",
    "picture": "PICTURE --truth --mask --picture",
    "toml": "--option-file",
    "folder": "FOLDER FURTHER --edited --root --class-folder --mappers",
    "lines": "CASES JOBS --captions",
    "size": "--size",
    "weights": "--lpips-weights --direction",
    "model": "--model --clip --encoder --guide-clip",
    "device": "--device",
    "concept": "--concept FILES CONCEPT",
    "png": "--plot --out concepts:--preview",
    "place": "--keep batch:--out compare:--out bench:--out pie:--out subjects:--out directional:--out --work "
    "--study --tuned-in",
    "learned": "textual-inversion:--out dreambooth:--out lora:--out custom-diffusion:--out svdiff:--out cones:--out "
    "elite:--out convert:--out merge:--out",
    "source": "invert:--out",
    "csv": "export:--out",
    "sweep": "--sweep --values",
    "host": "--host",
    "token": "--token",
}
"""Types of values, and the flags of each; `command:--flag` where a command's flag is of another type."""

_NUMBERS = {
    "below 0": "-1",
    "0": "0",
    "nan": "nan",
    "inf": "inf",
    "-inf": "-inf",
    "beyond": "1e400",
    "5000 digits": "9" * 5000,
    "text": "many",
    "empty": "",
    "truth": "True",
    "spaces": "  ",
    "other digits": "١",
    "underscore": "0_1",
    "hexadecimal": "0x1",
    "fraction": "1/2",
    "comma": "0,5",
    "zero byte": "1\0",
}
_PATHS = {
    "missing": "none{}",
    "folder": "folder{}",
    "pipe": "fifo{}",
    "/dev/zero": "zero{}",
    "/dev/full": "full{}",
    "circle of links": "circle{}",
    "dangling link": "dangling{}",
    "long name": LONG + "{}",
    "long path": "p/" * 3000 + "{}",
    "zero byte": "a\0b{}",
    "no text": "\udcff{}",
    "unreadable": "unreadable{}",
    "empty": "",
    "spaces": "  ",
    "address": "https://example.org/a{}",
    "below a file": "file/a{}",
    "pattern": "*{}",
    "home": "~nobody/a{}",
}


def _paths(suffix: str) -> dict[str, str]:
    return {label: path.format(suffix) for label, path in _PATHS.items()}


def _outputs(suffix: str) -> dict[str, str]:
    others = ("missing", "pattern", "home", "unreadable", "no text", "address")  # good names for a new file
    return {
        **{label: path for label, path in _paths(suffix).items() if label not in others},
        "no text": f"\udcff{suffix}",
        "no permission": f"/proc/a{suffix}",
        "new folder without permission": f"/proc/new/a{suffix}",
        "link to an input": "to-photo" + suffix,
        "an input": "photo.png",
        "the same input": "./folder/../photo.png",
        "wrong suffix": "out/cat.jpg",
        "no suffix": "out/cat",
        "suffix alone": "out/" + suffix,
        "dash": "-",
        "this folder": ".",
    }


VALUES: dict[str, dict[str, str]] = {
    "whole": {**_NUMBERS, "decimals": "1.5", "exponent": "1e3", "plus": "+1", "beyond 64 bits": str(2**64)},
    "number": {**_NUMBERS, "above 100": "101", "exponent": "1e3"},
    "window": {**_NUMBERS, "backwards": "0.8,0.2", "three": "0,0.5,1", "above 1": "1.5", "commas": ",,"},
    "pairs": {
        **_NUMBERS,
        "unknown word": "unicorn=1",
        "no value": "dog=",
        "no word": "=1",
        "nan of a word": "dog=nan",
        "inf of a word": "dog=inf",
        "beyond of a word": "dog=1e400",
        "text of a word": "dog=much",
        "many of a word": "dog=1,2,3",
        "equals": "dog==1",
        "long": "dog=" + "1" * 5000,
    },
    "words": {
        "unknown": "unicorn",
        "empty": "",
        "spaces": "  ",
        "commas": ",",
        "long": "dog" * 30_000,
        "punctuation": "?!",
        "emoji": "🐕",
        "zero byte": "dog\0",
        "no text": "dog\udcff",
        "part of a word": "ca",
        "backwards": "beach a on",
    },
    "prompt": {
        "empty": "",
        "spaces": "  \t ",
        "punctuation": "...",
        "100 kB": "a cat " * 17_000,
        "one long word": "c" * 20_000,
        "emoji": "a 🐈 on a 🏖️",
        "only emoji": "🐈",
        "right to left": "قطة على الشاطئ",
        "mixed directions": "a cat \u202eno taeb\u202c beach",
        "control characters": "a cat\x07\x1b[31m on a beach",
        "line breaks": "a cat\r\non a beach",
        "zero byte": "a cat\0 on a beach",
        "weights": "a (cat:1.5) on a [beach]",
        "more weights": "a ((cat))++ on <lora:beach:1> BREAK",
        "no text": "a cat\udcff",
        "a surrogate": "a cat\ud83d",
        "combining marks": "a c" + "\u0301" * 1000 + "at on a beach",
        "no characters": "\u200b\u200d\ufeff",
    },
    "choice": {
        "unknown": "no-such-choice",
        "empty": "",
        "spaces": " ",
        "number": "1",
        "long": "x" * 100_000,
        "list": "float32,float16",
        "emoji": "🐈",
        "path": "../../etc/passwd",
        "zero byte": "a\0",
        "no text": "\udcff",
        "underscores": "__class__",
    },
    "switch": {"text": "perhaps", "number": "2", "empty": "", "long": "x" * 100_000},
    "picture": {
        **_paths(".png"),
        "no bytes": "empty.png",
        "text": "text.png",
        "cut short": "cut.png",
        "bomb": "bomb.png",
        "40 MP in a row": "wide.png",
        "wrong suffix": "wrong.png",
        "1 × 1": "one.png",
        "CMYK": "cmyk.jpg",
        "16 bits": "sixteen.png",
        "floats": "float.tif",
        "animated GIF": "animated.gif",
        "animated WebP": "animated.webp",
        "no record": "plain.png",
        "options": "options.toml",
        "source of text": "file.source",
        "missing source": "none.source",
        "pipe as a source": "fifo.source",
        "device as a source": "zero.source",
        "folder as a source": "folder.source",
        "unreadable source": "unreadable.source",
    },
    "toml": {
        **_paths(".toml"),
        **{
            name: f"{name}.toml"
            for name in "deep dotted twice kinds unknown huge nan truth date zeros large latin".split()
        },
        "nothing": "empty.toml",
        "picture": "photo.png",
        "JSON": "kinds.jsonl",
    },
    "folder": {
        **_paths(""),
        "file": "photo.png",
        **{
            f"{name} listing": name
            for name in "empty deep list word kinds unknown twice outside missing text half huge".split()
        },
    },
    "lines": {
        **_paths(".jsonl"),
        **{
            name: f"{name}.jsonl"
            for name in "deep list word kinds unknown twice outside missing text half huge".split()
        },
        "nothing": "empty.jsonl",
        "picture": "photo.png",
    },
    "weights": {**_paths(".safetensors"), "bytes": "bytes.safetensors", "pickle": "pickle.ckpt"},
    "model": {
        **_paths(""),
        "misspelt": "pockt",
        "file": "photo.png",
        "bytes": "bytes.safetensors",
        "text": "file.safetensors",
        "pipe as weights": "fifo.safetensors",
        "device as weights": "zero.safetensors",
        "pickle": "pickle.ckpt",
        "hub id": "no/such-model",
        "upwards": "../../..",
        **{f"{name} index": name for name in ("deep", "list", "word", "kinds", "unknown", "huge")},
    },
    "concept": {
        **_paths(".concept"),
        "no number": "my-cat.concept=much",
        "no strength": "my-cat.concept=",
        "nan": "my-cat.concept=nan",
        "inf": "my-cat.concept=inf",
        "beyond": "my-cat.concept=1e400",
        "above 10": "my-cat.concept=11",
        "below -10": "my-cat.concept=-1e3",
        "strength alone": "=1",
        "text": "file.concept",
        "bytes": "bytes.concept",
        "cut short": "cut.concept",
        "turned": "turned.concept",
        "newer": "newer.concept",
        "source": "photo.source",
        "picture": "photo.png",
        "pickle": "pickle.ckpt",
        "another model's": "away.concept",
        "folder with a strength": "folder=1",
    },
    "device": {
        "unknown": "abacus",
        "empty": "",
        "spaces": " ",
        "absent": "cuda",
        "number": "0",
        "second CPU": "cpu:1",
        "below 0": "cpu:-1",
        "no place": "meta",
        "long": "x" * 100_000,
        "many digits": "cuda:" + "9" * 5000,
        "capitals": "CPU",
        "zero byte": "cpu\0",
        "list": "cpu,cuda",
    },
    "png": _outputs(".png"),
    "source": _outputs(".source"),
    "csv": _outputs(".csv"),
    "learned": _outputs(".concept"),
    "place": {
        **{label: value for label, value in _outputs("").items() if "suffix" not in label},
        "looks like a file": "out.png",
        "a file": "photo.png",
        **{f"{name} results": name for name in "deep list word kinds huge half".split()},
    },
    "sweep": {
        "empty": "",
        "no values": "guidance_scale=",
        "no option": "=1,2",
        "unknown": "no_such=1,2",
        "text": "guidance_scale=much",
        "nan": "guidance_scale=nan",
        "below 0": "guidance_scale=-1",
        "no equals": "guidance_scale",
        "commas": "guidance_scale=,,,",
        "long": "guidance_scale=" + "1" * 5000,
        "long option": "x" * 100_000 + "=1",
        "zero byte": "guidance_scale=1\0",
    },
    "size": {**_NUMBERS, "unit alone": "k", "another unit": "5 apples", "tiny": "1", "dots": "1.2.3k"},
    "host": {
        "unknown": "no.such.host.invalid",
        "everywhere": "0.0.0.0",
        "empty": "",
        "spaces": " ",
        "dots": "a..b",
        "long": "x" * 100_000,
        "zero byte": "127.0.0.1\0",
        "number": "1",
        "not here": "192.0.2.1",
        "address": "http://localhost",
    },
    "token": {
        "empty": "",
        "short": "short",
        "spaces": "a b c d e f",
        "emoji": "🐈" * 8,
        "zero byte": "a\0" * 8,
    },
}

_GENERATED = ("generate", CAT, *ONE, "--out", "out/cat.png")
LINES: dict[str, tuple[str, ...]] = {
    "no command": ("edti",),
    "an empty command": ("",),
    "no flag": ("generate", CAT, "--out", "out/cat.png", "--no-such-flag", "1"),
    "a flag without value": ("generate", CAT, "--out"),
    "no output": ("generate", CAT),
    "no prompt": ("generate", "--out", "out/cat.png"),
    "words without quotes": ("generate", *CAT.split(), "--out", "out/cat.png"),
    "a seed twice": ("generate", CAT, "--seed", "1", "--seed", "2", "--out", "out/cat.png"),
    "an output twice": ("generate", CAT, "--out", "out/cat.png", "--out", "out/dog.png"),
    "another command's flag": ("generate", CAT, "--target", DOG, "--out", "out/cat.png"),
    "a dash alone": ("generate", "-", "--out", "out/cat.png"),
    "two dashes alone": ("generate", "--", "--out", "out/cat.png"),
    "no target": ("edit", "photo.png", "--source", CAT, "--out", "out/dog.png"),
    "two targets, one file": (
        *("edit", "photo.png", "--source", CAT, "--target", DOG, "--target", CAT, "--out", "out/dog.png"),
    ),
    "a prompt for a source": (
        "edit",
        "photo.source",
        "--source",
        CAT,
        "--target",
        DOG,
        "--out",
        "out/dog.png",
    ),
    "steps for a source": ("edit", "photo.source", "--target", DOG, *ONE, "--out", "out/dog.png"),
    "a source inverted": ("invert", "photo.source", "--prompt", CAT, "--out", "out/photo.source"),
    "an inversion as method": (
        *("edit", "photo.png", "--target", DOG, "--method", "direct", "--out", "out/dog.png"),
    ),
    "a method as inversion": (
        *("edit", "photo.png", "--target", DOG, "--inversion", "prompt-to-prompt", "--out", "out/dog.png"),
    ),
    "another inversion's option": (
        *("edit", "photo.png", "--target", DOG, "--inversion", "direct", "--noise-seed", "1"),
        *("--out", "out/dog.png"),
    ),
    "replace other lengths": (
        *(
            "edit",
            "photo.png",
            "--source",
            CAT,
            "--target",
            f"{DOG} at night",
            "--word-edit",
            "replace",
            *ONE,
        ),
        *("--out", "out/dog.png"),
    ),
    "a source for a replay": ("replay", "photo.source"),
    "a replay over its picture": ("replay", "made.png", "--out", "made.png"),
    "a replay over its source": ("replay", "made.png", "--out", "photo.source"),
    "nothing to compare": ("compare", "--target", DOG, "--out", "out"),
    "truths without masks": (
        *("compare", "photo.png", "--source", CAT, "--target", DOG, *ALONE, *ONE, "--out", "out"),
        *("--truth", "photo.png", "--truth", "photo.png"),
    ),
    "a picture and its seed inverted": (
        *("compare", "photo.png", "--target", DOG, "--inversion", "seed", *ONE, "--out", "out"),
    ),
    "an input among the outputs": (
        *(
            "compare",
            "photo.png",
            "--source",
            CAT,
            "--target",
            DOG,
            "--truth",
            "out/grid.png",
            "--out",
            "out",
        ),
    ),
    "lpips without weights": ("evaluate", "bench", *COMMANDS["evaluate bench"], "--lpips", "alex"),
    "weights without lpips": (
        *("evaluate", "bench", *COMMANDS["evaluate bench"], "--lpips-weights", "photo.png"),
    ),
    "a concept twice": (*_GENERATED, "--concept", "my-cat.concept", "--concept", "./my-cat.concept=0.5"),
    "two concepts with one word": (*_GENERATED, "--concept", "my-cat.concept", "--concept", "same.concept"),
    "a concept over itself": ("generate", CAT, "--concept", "concept.png", "--out", "concept.png"),
    "a word that nobody taught": ("generate", "<my-cat> on a beach", *ONE, "--out", "out/cat.png"),
    "edited and a concept": (
        *("evaluate", "pie", "pie", "--edited", "pie", "--concept", "my-cat.concept", "--out", "out"),
    ),
    "one concept merged": ("merge", "my-dog.concept", "--out", "out/both.concept"),
    "a concept merged with itself": (
        "merge",
        "my-dog.concept",
        "my-dog.concept",
        "--out",
        "out/both.concept",
    ),
    "no words merged": (
        "merge",
        "my-cat.concept",
        "my-dog.concept",
        "--out",
        "out/both.concept",
        "--target",
        "a cat",
    ),
    "a share and a size": (
        "convert",
        "my-cat.concept",
        "--out",
        "out/cat.concept",
        "--compress",
        "0.5",
        "--size",
        "1M",
    ),
    "previews of none": ("concepts", "my-cat.concept", "--preview", "out/strip.png"),
    "edited and a method": (
        *("evaluate", "pie", "pie", "--edited", "pie", "--method", "prompt-to-prompt", "--out", "out"),
    ),
    "edited and an option": ("evaluate", "pie", "pie", "--edited", "pie", *ONE, "--out", "out"),
    "cases and the pocket": (
        *("evaluate", "directional", "cases.jsonl", "--pocket", "1", "--sweep", "steps=1", "--out", "out"),
    ),
    "neither cases nor the pocket": ("evaluate", "directional", "--sweep", "steps=1", "--out", "out"),
    "no protocol's name": ("evaluate", "subjects", "subjects", "--protocol", "ours", "--out", "out"),
    "no kind of evaluation": ("evaluate", "everything"),
    "jobs with one id": ("batch", "ids.jsonl", "--out", "out"),
    "jobs over themselves": ("batch", "folder/ledger.jsonl", "--out", "folder"),
    "no shard": ("batch", "jobs.jsonl", "--shard", "5/4", "--out", "out"),
    "an export of nothing": ("study", "export", "folder", "--out", "out/answers.csv"),
    "an export over the answers": ("study", "export", "study", "--out", "study/answers.sqlite"),
    "an export over the study": ("study", "export", "study", "--out", "study/study.toml"),
    "a plot over the study": ("study", "report", "study", "--plot", "study/study.toml"),
    "a plot over a picture": ("study", "report", "study", "--plot", "study/items/item-0/ours.png"),
}
"""Command lines that contradict themselves."""


@dataclass(frozen=True)
class Try:
    """A command line with one thing wrong in it."""

    command: str
    flag: str
    label: str
    tokens: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.command} {self.flag} {self.label}".replace("/", "⁄")


def flags(command: str) -> list[tuple[str, bool]]:
    """The flags and arguments of a command, and whether they belong to a method."""
    tokens = (*command.split(), *COMMANDS[command])
    app = application(tokens)
    for part in command.split():
        app = app[part]
    return [
        (
            argument.name,
            any(group.name.startswith(("Editing", "Inversion")) for group in argument.parameter.group),
        )
        for argument in app.assemble_argument_collection()
        if not argument.children
    ]


def type_of(command: str, flag: str) -> str:
    """The type of a flag's values. Raises `StopIteration` for a flag that nobody has listed."""
    for name in (f"{command.split()[-1]}:{flag}", flag):
        if kinds := [kind for kind, names in TYPES.items() if name in names.split()]:
            return kinds[0]
    raise LookupError(f"{command} {flag} is not tried: give it a type in TYPES")


def tries() -> Iterator[Try]:
    """All of them, by command."""
    for command, right in COMMANDS.items():
        for flag, is_shared in flags(command):
            values = VALUES[type_of(command, flag)]
            # A method's options are read by the same code in every command: the whole table is for two of them.
            labels = list(values)[:: 1 if command in ("edit", "invert") or not is_shared else 5]
            for label in labels:
                if _is_right(command, label):
                    continue
                yield Try(command, flag, label, _tokens(command, right, flag, values[label]))
    for label, tokens in LINES.items():
        yield Try("lines", "", label, tokens)


def _is_right(command: str, label: str) -> bool:
    """Whether a value is bad for other commands only: a picture that this one does not read, results not of its own."""
    return ("input" in label and command not in ("edit", "sweep", "heatmap", "compare")) or (
        label.endswith("results") and command in ("compare", "sweep")
    )


def _tokens(command: str, right: tuple[str, ...], flag: str, value: str) -> tuple[str, ...]:
    also = ALSO.get(f"{command} {flag}", ALSO.get(flag, ()))
    if not flag.startswith("--"):
        return (*command.split(), value, *right[1:], *also)
    if flag == "--option-file":  # flags take precedence over it, unread
        right = tuple(token for token in right if token not in ONE)
    if flag in right:
        at = right.index(flag)
        right = (*right[:at], *right[at + 2 :])
    given = (f"{flag}={value}",) if type_of(command, flag) == "switch" else (flag, value)
    return (*command.split(), *right, *also, *given)


ACCEPTED = (
    ("whole number window", "plus|underscore|other digits|exponent", "Python writes numbers so"),
    (
        "--seed --noise-seed --redraw-seed --timestep-shift --port --self-limit --shrink --room --decoder-steps "
        "--augmentations --warmup-steps",
        "0",
        "in the range",
    ),
    ("number window", "0", "in the range"),
    (
        "--max-norm --snr-gamma --alpha --prior-weight --preservation-ratio --clip-weight --range-weight "
        "--background-weight --init-weight --composition-weight --screen-weight --structure-weight --sparsity-weight "
        "--bootstrap-weight",
        "above 100|exponent",
        "in the range",
    ),
    ("--preview", "beyond 64 bits", "every so many steps: more than there are, so there is none"),
    ("--self-limit", "beyond 64 bits", "no site is as large: no limit"),
    ("pairs", "equals", "punctuation around a word does not count"),
    (
        "prompt",
        "emoji|only emoji|right to left|mixed directions|control characters|line breaks|combining marks|one long word",
        "a prompt is any text with words; a note names those that the model does not know",
    ),
    ("--work", "*results", "a training's own files have other names"),
    (
        "--class-prompt --sample-prompt --class-folder elite:--init --mappers --guide-clip --layer-text",
        "empty",
        "the same as leaving it out",
    ),
    (
        "textual-inversion:--token custom-diffusion:--token elite:--token --init",
        "punctuation|weights|no characters",
        "a new word may be any text, and so may what it begins as",
    ),
    ("--negative-prompt", "*", "what guidance leads away from may be nothing"),
    ("--label", "*", "a name in tables is any text"),
    ("bench:--seed directional:--seed rare-tokens:--seed", "beyond 64 bits", "any whole number draws"),
    (
        "textual-inversion:FOLDER dreambooth:FOLDER lora:FOLDER custom-diffusion:FOLDER svdiff:FOLDER cones:FOLDER",
        "file",
        "one picture, with a note of what is lost",
    ),
    (
        *("bench:--local-blend bench:--spare pie:--local-blend pie:--spare",),
        *(
            "unknown|punctuation|backwards",
            "a case that cannot be edited is listed in the table and in results.jsonl",
        ),
    ),
    (
        *(
            "--forced-border --cut-masks --whole-canvas --structure-0-to-255 --rightmost-panel --checkpointing "
            "--train-text-encoder --train-word --sizes --own-mask --blend --tensorboard",
            "number",
            "1 is true",
        ),
    ),
    ("place", "looks like a file", "a folder may have any name"),
    ("picture", "wrong suffix", "the content decides"),
    ("picture", "1 × 1|CMYK|16 bits|animated WebP", "read, with a notice of what was changed"),
    ("picture", "no record", "the prompt is given"),
    ("--option-file", "nothing", "an empty file has no options"),
    ("png source csv learned place", "dangling link", "the file that the link names is written"),
    ("edit:--out place", "folder|this folder", "a folder to write in"),
    ("batch:--root", "empty", "this folder"),
    ("convert:CONCEPT", "another model's", "told, and it is still that one's"),
    ("concepts:FILES", "folder|empty|another model's", "told, and so are those in a folder"),
)
"""Tries that may succeed: the flags or the types of flags, labels as patterns, and why. No other does."""


def reason(each: Try) -> str | None:
    """Why a try may succeed; None if it may not."""
    if each.command == "lines":
        return None
    kind = type_of(each.command, each.flag)
    names = {kind, each.flag, f"{each.command.split()[-1]}:{each.flag}"}
    for flags_, labels, why in ACCEPTED:
        if names & set(flags_.split()) and any(fnmatch(each.label, label) for label in labels.split("|")):
            return why
    return None
