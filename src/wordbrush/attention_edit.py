"""Prompt-to-Prompt's attention edits as values.

With image positions in rows and tokens in columns, every edit of a target's map is linear,

    M_edit = M_src A + M_tgt diag(B),

so its product with the target's values needs no map:

    M_edit V = softmax(Q_src K_srcᵀ/√d) (A V) + softmax(Q_tgt K_tgtᵀ/√d) (diag(B) V).

Edits are built before the loop and composed by matrix algebra (Hertz et al. 2022, sections 3.2 and 4):

    keep           A = 0             B = 1
    replace        A = P             B = 0
    refine         A = G diag(a)     B = 1 − a
    reweight by c  A ← A diag(c)     B ← B c
    gate by α      A ← A diag(α)     B ← B α + (1 − α)

Laws: gate(e, 0) = keep, gate(e, 1) = e, reweight(e, 1) = e. Maps are not renormalised, as in the released code:
a reweighted row need not sum to 1.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor

from wordbrush.attention import Heads, Site, TextProjections
from wordbrush.recording import Reads, Recording
from wordbrush.rows import Rows
from wordbrush.words import Alignment


@dataclass(frozen=True, eq=False)
class AttentionEdit:
    """One target's edit of the cross-attention maps: A and the diagonal of B, for every step or (one row) for all."""

    A: Float[Tensor, "steps tokens tokens"]
    B: Float[Tensor, "steps tokens"]

    def at(self, step: int) -> tuple[Float[Tensor, "tokens tokens"], Float[Tensor, " tokens"]]:
        """(A, B) of one step."""
        return self.A[min(step, len(self.A) - 1)], self.B[min(step, len(self.B) - 1)]


def keep(length: int) -> AttentionEdit:
    """No edit: the target keeps its own maps over `length` tokens."""
    return AttentionEdit(torch.zeros(1, length, length), torch.ones(1, length))


def replace(alignment: Alignment) -> AttentionEdit:
    """Word swap: the target's words take the maps of the words that they replace. Raises `PromptError` like
    `Alignment.replace_matrix`."""
    matrix = alignment.replace_matrix
    return AttentionEdit(matrix[None], torch.zeros(1, matrix.shape[1]))


def refine(alignment: Alignment) -> AttentionEdit:
    """Added or changed phrase: words that both prompts have take the source's maps, the others keep their own."""
    gather, matched = alignment.refine_matrices
    return AttentionEdit((gather * matched)[None], (1 - matched)[None])


def reweight(edit: AttentionEdit, weights: Float[Tensor, " tokens"]) -> AttentionEdit:
    """Scale each token's edited map by its weight c: stronger, weaker, or (below 0) opposed."""
    return AttentionEdit(edit.A * weights, edit.B * weights)


def gate(edit: AttentionEdit, alpha: Float[Tensor, "steps tokens"]) -> AttentionEdit:
    """Mix the edit with the target's own maps, token by token and step by step: α = 1 edits, α = 0 keeps."""
    return AttentionEdit(edit.A * alpha[:, None, :], edit.B * alpha + (1 - alpha))


def window(
    length: int,
    steps: int,
    default: tuple[float, float],
    spans: Sequence[tuple[Tensor, tuple[float, float]]] = (),
) -> Float[Tensor, "steps tokens"]:
    """The α of per-word time windows, as fractions of the run.

    Every token is edited during `default`; each of `spans` gives the tokens of an indicator column their own
    window instead. A fraction f ends at step ⌊f (n + 1)⌋, the released code's rule for cross-attention.
    """
    alpha = torch.zeros(steps, length)
    start, stop = bounds(default, steps)
    alpha[start:stop] = 1
    for indicator, fractions in spans:
        tokens = indicator > 0
        start, stop = bounds(fractions, steps)
        alpha[:, tokens] = 0
        alpha[start:stop, tokens] = 1
    return alpha


def bounds(fractions: tuple[float, float], steps: int) -> tuple[int, int]:
    """The steps [start, stop) of a window of cross-attention."""
    start, stop = fractions
    return int(start * (steps + 1)), int(stop * (steps + 1))


@dataclass(frozen=True, eq=False)
class _Phase:
    """A run of steps with the same (A, B) for all n targets; None where a matrix is zero."""

    A: Float[Tensor, "n tokens tokens"] | None
    B: Float[Tensor, "n tokens"] | None

    @property
    def is_keep(self) -> bool:
        return self.A is None and self.B is not None and bool((self.B == 1).all())


@dataclass
class _EditedValues:
    """A V and diag(B) V of one site: valid for the projected text and the phase they were computed from."""

    text: TextProjections | None
    phase: _Phase
    from_source: Tensor | None
    from_target: Tensor | None


@dataclass
class EditedAttention:
    """The edits of n targets as an `Attend` over the batch that `rows` lays out. It belongs to one run.

    edits: one per target, all over the same tokens.
    steps: the sampler's n.
    self_window: steps [start, stop) in which the targets use the source's self-attention maps.
    self_limit: the largest site, in positions, that this self-attention injection touches.
    branches: the guidance's branches at a step, the edited one last.
    also: what a step reads of the source besides what the edits do: its prediction, and queries for word maps.
    recording: of the source; where it has all that a step reads, the source's row is left out.
    """

    edits: Sequence[AttentionEdit]
    steps: int
    self_window: tuple[int, int] = (0, 0)
    self_limit: int = 0
    branches: Callable[[int], tuple[str, ...]] = lambda _: ("null", "text")
    also: Callable[[int], Reads] = lambda _: Reads()
    recording: Recording | None = None
    _phases: list[_Phase] = field(init=False)
    _values: dict[str, _EditedValues] = field(init=False, default_factory=dict[str, _EditedValues])

    def __post_init__(self) -> None:
        self._phases = []
        previous: tuple[Tensor, Tensor] | None = None
        for step in range(self.steps):
            pairs = [edit.at(step) for edit in self.edits]
            A, B = torch.stack([pair[0] for pair in pairs]), torch.stack([pair[1] for pair in pairs])
            if previous is not None and torch.equal(previous[0], A) and torch.equal(previous[1], B):
                self._phases.append(self._phases[-1])
                continue
            previous = A, B
            self._phases.append(_Phase(A if bool(A.any()) else None, B if bool(B.any()) else None))

    def rows(self, step: int) -> Rows:
        """The batch of one step: the source is in it only while something reads it."""
        start, stop = self.self_window
        limit = self.self_limit if start <= step < stop else 0
        also, is_edited = self.also(step), self._phases[step].A is not None
        reads = Reads(also.prediction, is_edited, also.maps, limit)
        recorded = self.recording is not None and self.recording.reads[step].covers(reads)
        return Rows(
            len(self.edits), self.branches(step), bool(reads) and not recorded, bool(reads) and recorded
        )

    def __call__(self, site: Site, step: int, heads: Heads) -> Float[Tensor, "rows heads positions d"]:
        """Attend at one site with this step's edit."""
        rows, phase = self.rows(step), self._phases[step]
        start, stop = self.self_window
        if site.is_cross and not phase.is_keep:
            edited = self._edited_cross(site, step, phase, rows, heads)
        elif not site.is_cross and start <= step < stop and site.positions <= self.self_limit:
            edited = self._from_source(site, step, heads, rows, heads.value(rows.edited))
        else:
            return heads.attend(heads.query(), heads.key(), heads.value())
        own = rows.untouched
        if own.stop == 0:
            return edited
        return torch.cat([heads.attend(heads.query(own), heads.key(own), heads.value(own)), edited])

    def _edited_cross(self, site: Site, step: int, phase: _Phase, rows: Rows, heads: Heads) -> Tensor:
        values = self._edited_values(site, phase, rows, heads)
        edited: Tensor | None = None
        if values.from_source is not None:
            edited = self._from_source(site, step, heads, rows, values.from_source)
        if values.from_target is not None:
            targets = rows.edited
            own = heads.attend(heads.query(targets), heads.key(targets), values.from_target)
            edited = own if edited is None else edited.add_(own)
        assert edited is not None, "an edit with A = 0 and B = 0 leaves nothing to attend to"
        return edited

    def _from_source(self, site: Site, step: int, heads: Heads, rows: Rows, values: Tensor) -> Tensor:
        """The source's map applied to each target's values; its one query and key row serve all of them."""
        if rows.recorded:
            assert self.recording is not None, "the layout says recorded and there is no recording"
            query, key = self.recording.heads(site, step, values)
        else:
            untouched = rows.untouched
            query, key = heads.query(untouched)[-1:], heads.key(untouched)[-1:]
        targets = (rows.targets, -1, -1, -1)
        return heads.attend(query.expand(targets), key.expand(targets), values)

    def _edited_values(self, site: Site, phase: _Phase, rows: Rows, heads: Heads) -> _EditedValues:
        kept, text = self._values.get(site.name), heads.text
        if kept is not None and text is not None and kept.text is text and kept.phase is phase:
            return kept
        value = heads.value(rows.edited)
        A = None if phase.A is None else phase.A[:, None].to(value)
        B = None if phase.B is None else phase.B[:, None, :, None].to(value)
        edited = _EditedValues(
            text, phase, None if A is None else A @ value, None if B is None else B * value
        )
        if text is not None:
            self._values[site.name] = edited
        return edited
