"""Unified attention control (Xu et al. 2024, section 4.3 and algorithm 3): two ways to share attention, in one run.

A third row, the *layout*, stands between the source and the target. It has the source's words and latents of its own.

    self-attention    early    layout (Q_src, K_src, V_src)    target (Q_src, K_src, V_tgt)
                      late     layout (Q_tgt, K_src, V_src)    target its own
    cross-attention            target softmax(Q_lay K_layᵀ/√d) A V_tgt + softmax(Q_tgt K_tgtᵀ/√d) diag(B) V_tgt

Early is Prompt-to-Prompt's injection, late is mutual self-attention (MasaCtrl): the layout draws what the target is
about to draw, of the source's content. The words that both prompts have then take the layout's maps and not the
source's, so they may stand elsewhere than in the source. A and B are those of `attention_edit.refine`.

Early, the target's row is what the released code does; the paper names the layout's alone. As in Prompt-to-Prompt only
rows with text are edited: the released code shares the self-attention of the rows without text, too, and computes six
rows a step for that, where these are four.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from wordbrush.attention import Heads, Site
from wordbrush.attention_edit import AttentionEdit
from wordbrush.rows import Rows

LAYOUT = "layout"
"""The branch of the layout's rows. It is there while the target reads its maps, and nothing else does."""


@dataclass(frozen=True, eq=False)
class UnifiedAttention:
    """An `Attend` over the batch [no text (n) | layout (n) | source (1) | text (n)], as far as a step has these rows.

    edits: one a target. branches: those of a step. self_stop: the first step of the late self-attention.
    """

    edits: Sequence[AttentionEdit]
    branches: Callable[[int], tuple[str, ...]]
    self_stop: int

    def rows(self, step: int) -> Rows:
        """The batch of one step."""
        return Rows(len(self.edits), self.branches(step), source=True)

    def __call__(self, site: Site, step: int, heads: Heads) -> Float[Tensor, "rows heads positions d"]:
        """Attend at one site."""
        rows = self.rows(step)
        has_layout = LAYOUT in rows.branches
        if not site.is_cross and (has_layout or step < self.self_stop):
            return self._self(step, heads, rows)
        if site.is_cross and has_layout:
            return self._cross(step, heads, rows)
        return heads.attend(heads.query(), heads.key(), heads.value())

    def _self(self, step: int, heads: Heads, rows: Rows) -> Tensor:
        source, target = rows.source_row, rows.edited
        q, k, v = heads.query(source), heads.key(source), heads.value(source)
        own = heads.attend(q, k, v)
        if step < self.self_stop:
            layout = _of_each(own, rows)
            edited = heads.attend(_of_each(q, rows), _of_each(k, rows), heads.value(target))
        else:
            layout = heads.attend(heads.query(target), _of_each(k, rows), _of_each(v, rows))
            edited = heads.attend(heads.query(target), heads.key(target), heads.value(target))
        return self._joined(heads, rows, layout, own, edited)

    def _cross(self, step: int, heads: Heads, rows: Rows) -> Tensor:
        source, layout, target = rows.source_row, rows.branch(LAYOUT), rows.edited
        value = heads.value(target)
        A, B = (
            torch.stack(parts).to(value)
            for parts in zip(*(edit.at(step) for edit in self.edits), strict=True)
        )
        edited = heads.attend(heads.query(layout), heads.key(layout), A[:, None] @ value)
        edited = edited + heads.attend(heads.query(target), heads.key(target), B[:, None, :, None] * value)
        return self._joined(heads, rows, _plain(heads, layout), _plain(heads, source), edited)

    def _joined(self, heads: Heads, rows: Rows, layout: Tensor, source: Tensor, edited: Tensor) -> Tensor:
        """All rows, in the order of the batch."""
        parts = [
            layout if branch == LAYOUT else _plain(heads, rows.branch(branch))
            for branch in rows.branches[:-1]
        ]
        return torch.cat([*parts, source, edited])


def _plain(heads: Heads, rows: slice) -> Tensor:
    return heads.attend(heads.query(rows), heads.key(rows), heads.value(rows))


def _of_each(row: Tensor, rows: Rows) -> Tensor:
    """The source's one row for each target."""
    return row.expand(rows.targets, -1, -1, -1)
