"""What an edit reads of its source at each step, and a recording of it.

All of that is decided by the source alone: its latents, its prompt and the model. Where it is recorded the source's row
is not computed again, and n targets cost n rows in each branch of the guidance and no more.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache

import torch
from jaxtyping import Float
from torch import Tensor

from wordbrush.attention import Heads, Site
from wordbrush.guidance import Guidance
from wordbrush.model import Model
from wordbrush.options import RecordOptions
from wordbrush.rows import Rows
from wordbrush.schedule import Prediction

_MB = 10**6


@dataclass(frozen=True, slots=True)
class Reads:
    """What one step reads of its source's row.

    prediction: what the network predicts. cross: the queries of every cross site; maps: those of the cross sites with
    this many positions, for word maps. self_limit: queries and keys of the self sites with at most this many positions.
    """

    prediction: bool = False
    cross: bool = False
    maps: int = 0
    self_limit: int = 0

    def __bool__(self) -> bool:
        return self != Reads()

    def has(self, site: Site) -> bool:
        """Whether they read this site."""
        if site.is_cross:
            return self.cross or site.positions == self.maps
        return site.positions <= self.self_limit

    def covers(self, other: "Reads") -> bool:
        """Whether nothing of other reads is missing in these."""
        return (
            self.prediction >= other.prediction
            and self.cross >= other.cross
            and (self.cross or other.maps in (0, self.maps))
            and self.self_limit >= other.self_limit
        )


@dataclass(frozen=True, eq=False, repr=False)
class Recording:
    """What the steps of a source's row read, by `Reads`.

    options: how it was made. reads: what of each step is in it. tensors: "3.clean" and "3.noise", "3.query.SITE", at
    self sites "3.key.SITE"; and "text.SITE", the keys of the source's prompt at a cross site in every step.
    """

    options: RecordOptions
    reads: tuple[Reads, ...]
    tensors: Mapping[str, Tensor]

    def __repr__(self) -> str:
        return f"<Recording, {self.share:.0%} of {len(self.reads)} steps, {self.size / _MB:.1f} MB>"

    @property
    def share(self) -> float:
        """The share of the steps whose attention fitted into the memory that it was given."""
        return sum(reads != Reads(reads.prediction) for reads in self.reads) / len(self.reads)

    @property
    def notices(self) -> list[str]:
        """What to say of steps whose attention is not in it."""
        if self.share == 1:
            return []
        return [
            f"{self.share:.0%} of the steps are recorded in {self.options.memory} MB, and edits compute the source in "
            "the others: more memory records more"
        ]

    @property
    def size(self) -> int:
        """Its bytes in memory."""
        return sum(tensor.nbytes for tensor in self.tensors.values())

    def prediction(self, step: int) -> Prediction | None:
        """What the network predicts for the source at a step; None if that is not recorded."""
        if not self.reads[step].prediction:
            return None
        return Prediction(self.tensors[f"{step}.clean"], self.tensors[f"{step}.noise"])

    def heads(
        self, site: Site, step: int, like: Tensor
    ) -> tuple[Float[Tensor, "1 heads positions d"], Float[Tensor, "1 heads tokens d"]]:
        """The source's query and key at a site that the step's reads have, in the type of other values."""
        return (
            self.tensors[_query(site, step)].to(like),
            self.tensors[_key(site, step)].to(like),
        )


def rows_beside(
    guidance: Guidance, step: int, steps: int, targets: int, recording: Recording | None, *, needs_row: bool
) -> Rows:
    """The batch of a step that edits n targets beside their source.

    needs_row: whether the step reads what no recording has. Otherwise the source's row is there where the guidance
    reads its prediction, unless that is recorded.
    """
    progress = step / steps
    branches, predicts = guidance.branches(progress), guidance.reads_source(progress)
    if needs_row:
        return Rows(targets, branches, source=True)
    is_recorded = recording is not None and recording.reads[step].covers(Reads(predicts))
    return Rows(targets, branches, predicts and not is_recorded, predicts and is_recorded)


@dataclass(frozen=True)
class Recorder:
    """An `Attend` that changes nothing, and adds what `reads` name to the tensors of a recording."""

    reads: Sequence[Reads]
    tensors: dict[str, Tensor]
    dtype: torch.dtype

    def __call__(self, site: Site, step: int, heads: Heads) -> Float[Tensor, "1 heads positions d"]:
        """The layer's own attention."""
        query, key = heads.query(), heads.key()
        if self.reads[step].has(site):
            for name, tensor in ((_query(site, step), query), (_key(site, step), key)):
                if name not in self.tensors:
                    self.tensors[name] = tensor.to(self.dtype).contiguous()
        return heads.attend(query, key, heads.value())


def kept_in(model: Model, options: RecordOptions) -> torch.dtype:
    """The type of recorded queries and keys."""
    return torch.float16 if options.precision == "half" and model.dtype.itemsize > 2 else model.dtype


def fitting(
    model: Model, latent_size: tuple[int, int], wanted: Sequence[Reads], options: RecordOptions
) -> tuple[Reads, ...]:
    """What of the wanted reads fits into the memory of these options: of each step all, or else the prediction alone,
    or nothing. Early steps come first, because every edit reads those."""
    kept, latent = kept_in(model, options).itemsize, model.latent_dtype.itemsize

    @cache
    def size(*reads: Reads, text: bool = False) -> int:
        found = shapes(model, latent_size, reads)
        return sum(
            torch.Size(shape).numel() * (latent if name.endswith(("clean", "noise")) else kept)
            for name, shape in found.items()
            if name.startswith("text.") == text
        )

    left = options.memory * _MB - size(*dict.fromkeys(wanted), text=True)
    fitted: list[Reads] = []
    for reads in wanted:
        choices = (reads, Reads(reads.prediction), Reads())
        fitted.append(next((each for each in choices if size(each) <= left), Reads()))
        left -= size(fitted[-1])
    return tuple(fitted)


def shapes(model: Model, latent_size: tuple[int, int], reads: Sequence[Reads]) -> dict[str, tuple[int, ...]]:
    """The name and shape of every tensor in a recording of these reads."""
    sites = model.denoiser.sites(latent_size)
    found: dict[str, tuple[int, ...]] = {}
    for step, own in enumerate(reads):
        if own.prediction:
            found |= dict.fromkeys(
                (f"{step}.clean", f"{step}.noise"), (1, model.latent_channels, *latent_size)
            )
        for site, (heads, channels) in sites.items():
            if own.has(site):
                tokens = model.tokens if site.is_cross else site.positions
                found[_query(site, step)] = (1, heads, site.positions, channels)
                found[_key(site, step)] = (1, heads, tokens, channels)
    return found


def _query(site: Site, step: int) -> str:
    return f"{step}.query.{site.name}"


def _key(site: Site, step: int) -> str:
    return f"text.{site.name}" if site.is_cross else f"{step}.key.{site.name}"
