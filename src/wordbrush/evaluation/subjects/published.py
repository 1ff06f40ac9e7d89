"""The papers' numbers, and the settings that must be equal before they can be compared with ours."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from wordbrush.evaluation.results.tables import Column
from wordbrush.evaluation.subjects.protocols import Name


@dataclass(frozen=True)
class Setting:
    """The setting of a measurement. None: not reported, or irrelevant to the row.

    `prompts` of a subject, `pictures` of a prompt: a number, or a range. `distance`: behind DIV. `features`: behind
    KID.
    """

    data: str
    clip: str | None
    encoder: str | None
    subjects: int | None
    prompts: int | str | None
    pictures: int | str | None
    sampler: str | None = None
    distance: str | None = None
    features: str | None = None

    def differences(self, ours: "Setting") -> list[str]:
        """How `ours` differs from this one, as far as this one is reported."""
        found: list[str] = []
        for key, name in _NAMES.items():
            theirs, here = getattr(self, key), getattr(ours, key)
            if theirs is not None and theirs != here:
                found.append(f"{name} {theirs}, here {'not reported' if here is None else here}")
        return found

    @property
    def unreported(self) -> list[str]:
        """What the paper should report but does not."""
        return [_NAMES[key] for key in ("clip", "sampler") if getattr(self, key) is None]


@dataclass(frozen=True)
class Published:
    """A row of a paper's table. `note`: other differences.

    `ours`: what stands beside it on the built-in world, a key of `pocket.variants` or `pocket.two`, "real" for real
    pictures. `without`: why nothing does.
    """

    method: str
    scores: Mapping[str, float]
    source: str
    setting: Setting
    note: str = ""
    ours: str = ""
    without: str = ""

    def comparable(self, ours: Setting, known: Sequence[str] = ()) -> str:
        """Whether this row may be compared with numbers of ours, and why (not).

        known: differences that are listed already.
        """
        differences = self.setting.differences(ours)
        verdict = "no" if differences else "as far as the paper reports"
        if own := [each for each in differences if each not in known]:
            verdict += f": {'; '.join(own)}"
        missing = ", ".join(self.setting.unreported)
        return "; ".join(filter(None, (verdict, f"not reported: {missing}" if missing else "", self.note)))


@dataclass(frozen=True)
class Table:
    """The rows that papers print for a protocol, under the papers' own headings. `notes`: what to know about them."""

    columns: Sequence[Column]
    rows: Sequence[Published]
    notes: Sequence[str]

    def shared_differences(self, ours: Setting) -> list[str]:
        """The differences from ours that all of its rows share."""
        each = [row.setting.differences(ours) for row in self.rows]
        return [what for what in each[0] if all(what in others for others in each)] if each else []


_NAMES = {
    "data": "data",
    "clip": "CLIP",
    "encoder": "encoder",
    "subjects": "subjects",
    "prompts": "prompts a subject",
    "pictures": "pictures a prompt",
    "sampler": "sampler",
    "distance": "DIV's distance",
    "features": "KID's features",
}

DINO, VIT_B_32 = "dino-vits16", "clip-vit-base-patch32"

DREAMBOOTH = Setting("DreamBooth", None, DINO, 30, 25, 4)
CUSTOM_DIFFUSION = Setting(
    "Custom Diffusion",
    VIT_B_32,
    None,
    None,
    20,
    50,
    "DDPM, 50 steps (the text says 200 as well), guidance 6",
)
CONCEPT_101 = Setting("CustomConcept101", VIT_B_32, None, 101, 20, 5, "DDPM, 200 steps, guidance 6")
_ALL_SCORES = replace(CUSTOM_DIFFUSION, features="Inception")
_PRIOR_LOSS = replace(DREAMBOOTH, distance="LPIPS")
_FIVE = replace(DREAMBOOTH, subjects=5)

_ABLATION = "an ablation, to be compared within itself"
_IMAGEN = "Imagen: not comparable with table 1 either"


_DREAMBOOTH = Table(
    columns=[
        Column("dino", "DINO", 3, better="high"),
        Column("clip_i", "CLIP-I", 3, better="high"),
        Column("clip_t", "CLIP-T", 3, better="high"),
        Column("pres", "PRES", 3, better="low"),
        Column("div", "DIV", 3, better="high"),
    ],
    rows=[
        Published(
            "real images",
            {"dino": 0.774, "clip_i": 0.885},
            "DreamBooth, table 1",
            DREAMBOOTH,
            "whether pictures were compared with themselves is not reported",
            ours="real",
        ),
        Published(
            "DreamBooth, Imagen",
            {"dino": 0.696, "clip_i": 0.812, "clip_t": 0.306},
            "DreamBooth, table 1",
            DREAMBOOTH,
            without="there is no Imagen here",
        ),
        Published(
            "DreamBooth, Stable Diffusion",
            {"dino": 0.668, "clip_i": 0.803, "clip_t": 0.305},
            "DreamBooth, table 1",
            DREAMBOOTH,
            ours="dreambooth",
        ),
        Published(
            "Textual Inversion, Stable Diffusion",
            {"dino": 0.569, "clip_i": 0.780, "clip_t": 0.255},
            "DreamBooth, table 1",
            DREAMBOOTH,
            ours="textual-inversion",
        ),
        Published(
            "DreamBooth, without the prior loss",
            {"dino": 0.712, "pres": 0.664, "div": 0.371},
            "DreamBooth, the prior loss",
            _PRIOR_LOSS,
            _ABLATION,
            ours="dreambooth-no-prior",
        ),
        Published(
            "DreamBooth, with the prior loss",
            {"dino": 0.684, "pres": 0.493, "div": 0.391},
            "DreamBooth, the prior loss",
            _PRIOR_LOSS,
            _ABLATION,
            ours="dreambooth",
        ),
        Published(
            "DreamBooth, correct class noun",
            {"dino": 0.744},
            "DreamBooth, table 4",
            _FIVE,
            _IMAGEN,
            ours="dreambooth-no-prior",
        ),
        Published(
            "DreamBooth, no class noun",
            {"dino": 0.303},
            "DreamBooth, table 4",
            _FIVE,
            _IMAGEN,
            ours="dreambooth-no-noun",
        ),
        Published(
            "DreamBooth, wrong class noun",
            {"dino": 0.454},
            "DreamBooth, table 4",
            _FIVE,
            _IMAGEN,
            ours="dreambooth-wrong-noun",
        ),
    ],
    notes=[
        "The supplement's table 6 repeats the DINO row of its table 5 under the name CLIP-T: not used here.",
        "People notice differences of about 0.1 in DINO and 0.05 in CLIP-T; the preprocessing alone has moved DINO "
        "and CLIP-I by 0.02. No code of the scores has been released.",
    ],
)

_CUSTOM_DIFFUSION = Table(
    columns=[
        Column("text_alignment", "text-alignment", 3, better="high"),
        Column("image_alignment", "image-alignment", 3, better="high"),
        Column("kid", "KID ×10³", 2, better="low"),
    ],
    rows=[
        Published(
            "Custom Diffusion",
            {"text_alignment": 0.795, "image_alignment": 0.775, "kid": 20.96},
            "Custom Diffusion, table 1",
            _ALL_SCORES,
            ours="custom-diffusion",
        ),
        Published(
            "all weights fine-tuned",
            {"text_alignment": 0.795, "image_alignment": 0.748, "kid": 19.27},
            "Custom Diffusion, table 1",
            _ALL_SCORES,
            ours="custom-diffusion-all",
        ),
        Published(
            "Textual Inversion",
            {"text_alignment": 0.670, "image_alignment": 0.827, "kid": 22.27},
            "Custom Diffusion, table 1",
            _ALL_SCORES,
            "its KID is the pretrained model's, which it leaves as it was",
            ours="textual-inversion",
        ),
        Published(
            "pretrained model",
            {"kid": 22.27},
            "Custom Diffusion, table 1",
            _ALL_SCORES,
            ours="base",
        ),
        Published(
            "Custom Diffusion, frozen V*",
            {"image_alignment": 0.733},
            "Custom Diffusion, ablation",
            CUSTOM_DIFFUSION,
            _ABLATION,
            ours="custom-diffusion-frozen-word",
        ),
        Published(
            "Custom Diffusion, no augmentation",
            {"image_alignment": 0.736},
            "Custom Diffusion, ablation",
            CUSTOM_DIFFUSION,
            _ABLATION,
            ours="custom-diffusion",
        ),
        Published(
            "Custom Diffusion, no regularisation",
            {"kid": 32.64},
            "Custom Diffusion, ablation",
            _ALL_SCORES,
            _ABLATION,
            ours="custom-diffusion-no-regularisation",
        ),
        Published(
            "Custom Diffusion, generated regularisation",
            {"kid": 34.70},
            "Custom Diffusion, ablation",
            _ALL_SCORES,
            _ABLATION,
            ours="custom-diffusion-generated",
        ),
        Published(
            "Custom Diffusion",
            {"text_alignment": 0.760, "image_alignment": 0.744},
            "CustomConcept101",
            CONCEPT_101,
            ours="custom-diffusion",
        ),
        Published(
            "DreamBooth",
            {"text_alignment": 0.752, "image_alignment": 0.752},
            "CustomConcept101",
            CONCEPT_101,
            ours="dreambooth",
        ),
        Published(
            "Textual Inversion",
            {"text_alignment": 0.613, "image_alignment": 0.752},
            "CustomConcept101",
            CONCEPT_101,
            ours="textual-inversion",
        ),
    ],
    notes=[
        "Text-alignment is 2.5·max(cos, 0): 0.795 is a cosine of 0.318. Never compare it with DreamBooth's CLIP-T.",
        "KID is printed ×10³, on Inception's features; other features give other numbers.",
        "The papers' tables of two concepts in one picture are another task, and not among these rows.",
    ],
)

_TWO_SCORES = replace(CUSTOM_DIFFUSION, prompts=8, sampler="DDPM, 200 steps, guidance 6")
_TWO_101 = replace(CONCEPT_101, prompts=12, pictures=10)

TWO = Table(
    columns=_CUSTOM_DIFFUSION.columns[:2],
    rows=[
        Published(method, {"text_alignment": text, "image_alignment": image}, source, setting, ours=ours)
        for method, text, image, source, setting, ours in (
            ("Custom Diffusion, joint", 0.801, 0.706, "Custom Diffusion, table 1", _TWO_SCORES, "joint"),
            ("Custom Diffusion, merged", 0.800, 0.695, "Custom Diffusion, table 1", _TWO_SCORES, "merged"),
            ("Custom Diffusion, joint", 0.757, 0.668, "CustomConcept101", _TWO_101, "joint"),
            ("Custom Diffusion, merged", 0.763, 0.658, "CustomConcept101", _TWO_101, "merged"),
            ("DreamBooth", 0.738, 0.663, "CustomConcept101", _TWO_101, "dreambooth-two"),
        )
    ],
    notes=["Of sequential training and of DreamBooth in the paper's own table no numbers are quoted here."],
)
"""Two concepts in one picture: image-alignment is the mean over both concepts' target pictures."""

_TEXTUAL_INVERSION = Table(
    columns=[],
    rows=[],
    notes=[
        "The paper shows its scores and its two reference points in a plot; no numbers of it are quoted here. "
        "Numbers for this method from other papers are with the other two protocols."
    ],
)

PUBLISHED: Mapping[Name, Table] = {
    "dreambooth": _DREAMBOOTH,
    "custom-diffusion": _CUSTOM_DIFFUSION,
    "textual-inversion": _TEXTUAL_INVERSION,
}
