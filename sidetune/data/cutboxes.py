"""What of the boxes of objects lies in a cut.

Before it they are rows x1, y1, x2, y2 in the picture's pixels, class, aside (1 for crowds and difficult ones); after
it places are fractions of the width and height of what is shown, so that they hold at any size.
"""

from __future__ import annotations

import numpy as np

from sidetune.data.cuts import Box
from sidetune.data.objects import Objects

COLUMNS = 6
VISIBLE = 0.3
"""The share of a box that has to be in a cut where its middle is not."""
SMALLEST = 2.0
"""Pixels of a side, as shown, below which what is left of a box is dropped from a cut."""


def read(objects: Objects) -> np.ndarray:
    """(object, 6)."""
    columns = (objects.boxes, objects.labels[:, None], objects.aside[:, None])
    return np.concatenate([column.astype(np.float64) for column in columns], axis=1)


def taken(rows: np.ndarray, box: Box, size: tuple[int, int]) -> np.ndarray:
    """The objects whose middle, or a visible share, lies in a box shown at a size (height, width), cut to it; of those
    aside whatever lies in it, lest it counts as empty. Slivers are dropped."""
    start, end = np.array(box[:2]), np.array(box[2:])
    first, last = rows[:, :2].clip(start, end), rows[:, 2:4].clip(start, end)
    sides = last - first
    middle = (rows[:, :2] + rows[:, 2:4]) / 2
    is_inside = ((middle >= start) & (middle < end)).all(axis=1)
    is_visible = sides.prod(axis=1) >= VISIBLE * (rows[:, 2:4] - rows[:, :2]).prod(axis=1)
    is_large = (sides * (size[1], size[0]) / (end - start) >= SMALLEST).all(axis=1)
    kept = (is_inside | is_visible | (rows[:, 5] > 0)) & is_large
    return as_fractions(rows[kept], box)


def whole(rows: np.ndarray, picture: tuple[int, int], size: tuple[int, int]) -> np.ndarray:
    """All of a picture of this width and height."""
    return as_fractions(rows, (0, 0, *picture))


def as_fractions(rows: np.ndarray, box: Box) -> np.ndarray:
    start, end = np.array(box[:2] * 2), np.array(box[2:] * 2)
    return np.concatenate([((rows[:, :4] - start) / (end - start)).clip(0, 1), rows[:, 4:]], axis=1)


def is_poor(rows: np.ndarray, box: Box, size: tuple[int, int]) -> bool:
    """Whether a picture with objects shows none."""
    return is_without(taken(rows, box, size)) and not is_without(rows)


def is_without(rows: np.ndarray) -> bool:
    return not (rows[:, 5] == 0).any()


def flipped(rows: np.ndarray) -> np.ndarray:
    """Left for right, of fractions."""
    return np.concatenate([1 - rows[:, 2:3], rows[:, 1:2], 1 - rows[:, 0:1], rows[:, 3:]], axis=1)


def finished(rows: np.ndarray) -> np.ndarray:
    """As a tensor holds them, float32."""
    return np.ascontiguousarray(rows).astype(np.float32)


def target_of(objects: Objects) -> np.ndarray:
    """What a picture that is shown whole has as its target: (object, 6), float32."""
    return finished(whole(read(objects), objects.size[::-1], objects.size))
