"""What of a mask lies in a cut."""

from __future__ import annotations

import numpy as np

from sidetune.data.cuts import Box
from sidetune.data.masks import IGNORED

MOST_OF_ONE = 0.75
"""Of a cut, the share of one class above which another cut is tried."""


def read(mask: np.ndarray) -> np.ndarray:
    """Class numbers (row, column), of the picture's size."""
    return mask


def taken(mask: np.ndarray, box: Box, size: tuple[int, int]) -> np.ndarray:
    """The class in the middle of every pixel of a box shown at a size, ignored outside of the picture."""
    rows = np.floor(box[1] + (np.arange(size[0]) + 0.5) * (box[3] - box[1]) / size[0]).astype(np.int64)
    columns = np.floor(box[0] + (np.arange(size[1]) + 0.5) * (box[2] - box[0]) / size[1]).astype(np.int64)
    inside = np.outer((rows >= 0) & (rows < mask.shape[0]), (columns >= 0) & (columns < mask.shape[1]))
    found = mask[np.ix_(rows.clip(0, mask.shape[0] - 1), columns.clip(0, mask.shape[1] - 1))]
    return np.where(inside, found, IGNORED)


def whole(mask: np.ndarray, picture: tuple[int, int], size: tuple[int, int]) -> np.ndarray:
    return taken(mask, (0, 0, mask.shape[1], mask.shape[0]), size)


def is_poor(mask: np.ndarray, box: Box, size: tuple[int, int]) -> bool:
    return is_one_class(taken(mask, box, size))


def flipped(mask: np.ndarray) -> np.ndarray:
    return mask[:, ::-1]


def finished(mask: np.ndarray) -> np.ndarray:
    """As a tensor holds it, int16."""
    return np.ascontiguousarray(mask).astype(np.int16)


def is_one_class(mask: np.ndarray) -> bool:
    known = mask[mask != IGNORED]
    return bool(known.size == 0 or np.bincount(known).max() > MOST_OF_ONE * known.size)
