"""Boxes of several pictures as one tensor: rows (object, 6) and, of a batch, as many for every picture."""

from __future__ import annotations

from collections.abc import Sequence

from jaxtyping import Float
from torch import Tensor

from sidetune.data.cutboxes import COLUMNS

NOTHING = -1
"""The class of rows that only fill a batch."""


def are_rows(target: object) -> bool:
    """Whether a target is of boxes: no other kind is a table of six columns of floating-point numbers."""
    return isinstance(target, Tensor) and target.is_floating_point() and target.shape[1:] == (COLUMNS,)


def padded(targets: Sequence[Float[Tensor, "_ 6"]]) -> Float[Tensor, "batch most 6"]:
    """Filled up to the most of them, with rows of 0 whose class is -1."""
    batch = targets[0].new_zeros(len(targets), max(map(len, targets)), COLUMNS)
    batch[..., 4] = NOTHING
    for rows, target in zip(batch, targets, strict=True):
        rows[: len(target)] = target
    return batch


def unpadded(rows: Float[Tensor, "most 6"]) -> Float[Tensor, "_ 6"]:
    """What one picture of a batch has."""
    return rows[rows[:, 4] != NOTHING]
