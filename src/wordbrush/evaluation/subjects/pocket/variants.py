"""The ways to teach a subject that are compared: a training with options, and the words that it leaves in prompts.

A training that `training.METHODS` does not have is left out. Adding one is a line in `VARIANTS`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from wordbrush import training
from wordbrush.errors import OptionsError, nearest
from wordbrush.evaluation.subjects.pocket.world import Subject

RARE = "sks"

_WORD = "{new} {class}"


ALL = frozenset({"class", "category", "others", "swap"})
"""Pictures of the bare class, of a category's captions, of prompts that name neither; a Prompt-to-Prompt swap."""
CATEGORY, NOTHING = frozenset({"category"}), frozenset[str]()


@dataclass(frozen=True)
class Variant:
    """A way to teach.

    key: its folder, and its name on the command line. label: its name in tables. method: in `training.METHODS`; "" for
    the two references. name: what stands for the subject in a prompt, where `{new}` is a word of its own and `{class}`
    its class. options: texts in them are filled in likewise, and `{wrong}` is a class of another kind, `{category}` a
    folder of the class's pictures with captions, `{mask}` the first picture's mask. whole: whether the word stands for
    an article as well. shows: what else is made than the pictures of the prompts; an ablation has what its table needs.
    """

    key: str
    label: str
    method: str = ""
    name: str = f"{RARE} {{class}}"
    options: Mapping[str, Any] = field(default_factory=dict[str, Any])
    whole: bool = False
    shows: frozenset[str] = ALL

    def words(self, subject: Subject) -> str:
        """What stands for a subject in a prompt: "sks dog"."""
        return _filled(self.name, subject)

    def prompt(self, text: str, subject: Subject) -> str:
        """A prompt with `{token} {class}` in it, in this way's words."""
        name = self.words(subject)
        spoken = text.replace("{token} {class}", name)
        return spoken.replace(f"a {name}", name) if self.whole else spoken

    def told(self, subject: Subject, given: Path) -> dict[str, Any]:
        """The options of a subject's training. given: the folder of what may be given to it."""
        return {
            name: _filled(value, subject, given) if isinstance(value, str) else value
            for name, value in self.options.items()
        }

    @property
    def reads(self) -> frozenset[str]:
        """The judges that its method read, whose scores say nothing of it: "clip", "encoder"."""
        return training.READS.get(self.method, frozenset())


def _filled(text: str, subject: Subject, given: Path | None = None) -> str:
    where = {} if given is None else {"category": str(given / "class"), "mask": str(given / "mask.png")}
    return text.format(
        **{"new": f"<{subject.name}>", "class": subject.class_word, "wrong": subject.wrong, **where}
    )


TRUTH = Variant("truth", "true renderings", name="{class}")
BASE = Variant("base", "the model as it was, the class alone", name="{class}")

_NAMED = {"prompt": f"a {RARE} {{class}}"}
_PRIOR = {**_NAMED, "class_prompt": "a {class}"}
_NEW = {"token": "{new}", "class_prompt": "a {class}"}
_REAL = {**_NEW, "class_folder": "{category}"}
_CUSTOM = "custom_diffusion"

VARIANTS: Sequence[Variant] = (
    Variant(
        "textual-inversion",
        "Textual Inversion",
        "textual_inversion",
        "{new}",
        {"token": "{new}", "init": "a {class}"},
        whole=True,
    ),
    Variant("dreambooth", "DreamBooth", "dreambooth", options=_PRIOR),
    Variant("dreambooth-no-prior", "DreamBooth, without the prior loss", "dreambooth", options=_NAMED),
    Variant("lora", "LoRA", "lora", options=_NAMED),
    Variant(
        "dreambooth-no-noun",
        "DreamBooth, no class noun",
        "dreambooth",
        RARE,
        {"prompt": f"a {RARE}"},
        shows=NOTHING,
    ),
    Variant(
        "dreambooth-wrong-noun",
        "DreamBooth, wrong class noun",
        "dreambooth",
        f"{RARE} {{wrong}}",
        {"prompt": f"a {RARE} {{wrong}}"},
        shows=NOTHING,
    ),
    Variant("custom-diffusion", "Custom Diffusion", _CUSTOM, _WORD, _REAL),
    Variant(
        "custom-diffusion-all",
        "Custom Diffusion's fine-tune-all",
        _CUSTOM,
        _WORD,
        {**_REAL, "layers": "all"},
        shows=CATEGORY,
    ),
    Variant(
        "custom-diffusion-sizes",
        "Custom Diffusion, with size augmentation",
        _CUSTOM,
        _WORD,
        {**_REAL, "sizes": True},
        shows=CATEGORY,
    ),
    Variant(
        "custom-diffusion-no-regularisation",
        "Custom Diffusion, no regularisation",
        _CUSTOM,
        _WORD,
        {"token": "{new}", "prompt": "photo of a {new} {class}"},
        shows=CATEGORY,
    ),
    Variant(
        "custom-diffusion-generated",
        "Custom Diffusion, generated regularisation",
        _CUSTOM,
        _WORD,
        _NEW,
        shows=CATEGORY,
    ),
    Variant(
        "custom-diffusion-frozen-word",
        "Custom Diffusion, frozen V*",
        _CUSTOM,
        _WORD,
        {**_REAL, "train_word": False},
        shows=CATEGORY,
    ),
    Variant("svdiff", "SVDiff", "svdiff", options=_PRIOR),
    Variant("cones", "Cones", "cones", options=_NAMED),
    Variant("elite", "ELITE, one picture", "elite", "{new}", {"token": "{new}"}),
)
"""What is compared, in the order of the tables."""


def known() -> dict[str, Variant]:
    """The ways whose methods there are, by key."""
    there = {*training.METHODS, *training.AT_ONCE}
    return {variant.key: variant for variant in VARIANTS if variant.method in there}


def chosen(names: Sequence[str] | None) -> tuple[Variant, ...]:
    """The ways of these names, or all. Raises `OptionsError` for a name that none has."""
    there = known()
    for name in names or ():
        if name not in there:
            raise OptionsError(
                f"there is no way '{name}' to teach a subject{nearest(name, there)}: there are {', '.join(there)}"
            )
    return tuple(variant for key, variant in there.items() if not names or key in names)
