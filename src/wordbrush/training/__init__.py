"""Trainings: from pictures to a `Concept`. One folder a method; this table is all that knows their names."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from wordbrush.methods import Method, key

if TYPE_CHECKING:
    from wordbrush.concept import Concept
    from wordbrush.training.task import Learned, Loss, Task, Trainee


@runtime_checkable
class Training(Protocol):
    """What a training's module has."""

    def attached(self, task: "Task", options: Any) -> "Trainee":
        """The task's model with what learns, which changes nothing yet: another value, the base stays as it is.

        Raises `OptionsError`, `PromptError`: all that can be checked is, before any work.
        """
        ...

    def loss(self, trainee: "Trainee", task: "Task", options: Any, number: int) -> "Loss":
        """The loss of the forward pass of this number, a pure function of it and of the options' seed."""
        ...

    def export(self, trainee: "Trainee", task: "Task", options: Any, learned: "Learned") -> "Concept":
        """The concept of what was learned."""
        ...


METHODS: Mapping[str, Method[Training]] = {
    "textual_inversion": Method(
        "wordbrush.training.textual_inversion.method",
        "a new word: a few kilobytes, and nothing else of the model changes",
        "wordbrush.training.textual_inversion.options",
    ),
    "dreambooth": Method(
        "wordbrush.training.dreambooth.method",
        "the whole UNet learns a rare word, and keeps its class: most faithful, largest",
        "wordbrush.training.dreambooth.options",
    ),
    "lora": Method(
        "wordbrush.training.lora.method",
        "changes of low rank: nearly as faithful, a few megabytes",
        "wordbrush.training.lora.options",
    ),
    "custom_diffusion": Method(
        "wordbrush.training.custom_diffusion.method",
        "what the UNet reads from the text, and a new word: small, fast, and several things at once",
        "wordbrush.training.custom_diffusion.options",
    ),
    "svdiff": Method(
        "wordbrush.training.svdiff.method",
        "shifts of singular values: a few hundred kilobytes, for several things at once or one picture",
        "wordbrush.training.svdiff.options",
    ),
    "cones": Method(
        "wordbrush.training.cones.method",
        "experimental: which entries of the network, set to 0, make it draw the thing; their places alone are kept",
        "wordbrush.training.cones.options",
    ),
}

AT_ONCE: Mapping[str, Method[Any]] = {
    "elite": Method(
        "wordbrush.training.elite.method",
        "a word from one masked picture, in seconds: networks that were trained before read it",
        "wordbrush.training.elite.options:EliteOptions",
        reads=frozenset({"clip"}),
    ),
}
"""Methods that make a concept without optimising for it."""

READS: Mapping[str, frozenset[str]] = {name: each.reads for name, each in {**METHODS, **AT_ONCE}.items()}
"""What each method has read of the networks that score pictures (`Method.reads`)."""

MEASURED: Mapping[str, Mapping[str, Mapping[str, Any]]] = {
    "pocket": {
        "textual_inversion": {
            "steps": 220,
            "learning_rate": 2e-3,
            "schedule": "cosine",
            "weight_decay": 0.0,
            "flip": 0.0,
        },
        "dreambooth": {
            "steps": 200,
            "learning_rate": 3e-4,
            "text_learning_rate": 5e-4,
            "schedule": "cosine",
            "batch_size": 2,
            "train_text_encoder": True,
            "class_pictures": 16,
        },
        "lora": {
            "steps": 160,
            "learning_rate": 2e-3,
            "schedule": "cosine",
            "batch_size": 4,
            "layers": "all",
        },
        "cones": {
            "steps": 150,
            "learning_rate": 2e-2,
            "schedule": "cosine",
            "batch_size": 2,
        },
        "custom_diffusion": {
            "steps": 160,
            "learning_rate": 2e-3,
            "word_learning_rate": 5e-3,
            "schedule": "cosine",
            "batch_size": 2,
            "class_pictures": 8,
            "prior_weight": 0.25,
            "sizes": False,
        },
        "svdiff": {
            "steps": 120,
            "learning_rate": 0.1,
            "norm_learning_rate": 1e-2,
            "schedule": "cosine",
            "batch_size": 4,
            "train_text_encoder": True,
            "side_by_side": (
                "{left} to the left of {right}",
                "{right} to the right of {left}",
                "{left} next to {right}",
                "{right} next to {left}",
            ),
        },
    },
}
"""The models for which other defaults were measured than the papers', and those, by method."""


def defaults(model: str, method: str) -> Mapping[str, Any]:
    """What a method's options are on a model of this name where the user says nothing, if not the papers'."""
    return MEASURED.get(model, {}).get(key(method), {})
