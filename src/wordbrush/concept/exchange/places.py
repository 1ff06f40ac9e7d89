"""Where the names of other tools lead in a model, and what those tools call the model's layers.

A layer's name here is its network's in diffusers' folders and its own path: "unet.mid_block.….attn2.to_k". Files say
the same with or without the network's name, with a `text_model.` that transformers no longer has, with `_` in place of
every dot (kohya), or as the original repository's UNet does (Stable Diffusion XL in kohya's files).
"""

from collections import defaultdict
from collections.abc import Iterator, Sequence

from torch import Tensor

from wordbrush.loading import names
from wordbrush.model import Model

_OLD = {"q_proj": "to_q", "k_proj": "to_k", "v_proj": "to_v", "out_proj": "to_out"}


class Places:
    """The layers of a model's base. encoders: the widths of its text encoders' token embeddings, in order."""

    def __init__(self, model: Model) -> None:
        networks = model.base.networks
        self.name = model.base.name
        self.weights = model.base.weights
        self.parts = tuple(networks)
        self.encoders = tuple(
            int(each.get_input_embeddings().weight.shape[1]) for each in model.base.text.encoders
        )
        self._original = names.unet(networks["unet"].config)
        self._places: dict[str, list[str]] = defaultdict(list)
        for layer in dict.fromkeys(name.rpartition(".")[0] for name in self.weights):
            for spelling in dict.fromkeys(self._spellings(layer)):
                self._places[spelling].append(layer)

    def layers(self, name: str) -> Sequence[str]:
        """The layers that a name in a file may mean: most often one, none if the model has no such layer, two for a
        name that does not say which of two text encoders."""
        return self._places.get(name.removeprefix("base_model.model.").replace(".processor", ""), ())

    def layer(self, name: str, down: Tensor | None = None) -> str | None:
        """The layer that a name in a file means; None if there is none. down: what its input is multiplied with, which
        tells layers of one name apart."""
        found = self.layers(name)
        if len(found) > 1 and down is not None and down.ndim > 1:
            fitting = [
                each
                for each in found
                if (weight := self.weights.get(f"{each}.weight")) is not None
                and weight.ndim > 1
                and weight.shape[1] == down.shape[1]
            ]
            found = fitting or found
        return found[0] if found else None

    def kohya(self, layer: str) -> str:
        """What kohya's files call a layer."""
        part, _, path = layer.partition(".")
        if part == "unet":
            return "lora_unet_" + (self.original(path) if len(self.encoders) > 1 else path).replace(".", "_")
        number = self.parts.index(part) if len(self.encoders) > 1 else ""
        return f"lora_te{number}_" + text_model(path).replace(".", "_")

    def original(self, path: str) -> str:
        """What the original repository calls a layer of the UNet."""
        return self._original(f"{path}.weight").removesuffix(".weight")

    def _spellings(self, layer: str) -> Iterator[str]:
        part, _, path = layer.partition(".")
        paths = [path]
        if part == "unet":
            original = self.original(path)
            yield from (f"diffusion_model.{original}", f"model.diffusion_model.{original}")
            yield f"lora_unet_{original.replace('.', '_')}"
            prefixes = ["lora_unet_"]
            if path.endswith(".to_out.0"):
                paths.append(path.removesuffix(".0"))
        else:
            number = self.parts.index(part)
            prefixes = [f"lora_te{number}_"] + ["lora_te_"] * (number == 1)
            above, _, last = path.rpartition(".")
            paths += [f"{above}.{_OLD[last]}"] if last in _OLD else []
            paths += [text_model(each) for each in paths]
        for each in paths:
            yield from (each, f"{part}.{each}")
            yield from (prefix + each.replace(".", "_") for prefix in (*prefixes, "lycoris_"))


def text_model(path: str) -> str:
    """A text encoder's layer as files call it: transformers' names before version 5."""
    own = path.removeprefix("text_model.")
    return own if own.startswith("text_projection") else f"text_model.{own}"
