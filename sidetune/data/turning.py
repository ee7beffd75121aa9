"""What EXIF's orientation does to places in a picture: points and masks of the stored pixels -> of the upright view."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

Size = tuple[int, int]
"""Height and width."""
ASIDE = frozenset({5, 6, 7, 8})
"""Orientations that exchange height and width."""

MASKS: Mapping[int, Callable[[np.ndarray], np.ndarray]] = {
    2: lambda m: m[:, ::-1],
    3: lambda m: m[::-1, ::-1],
    4: lambda m: m[::-1],
    5: lambda m: m.T,
    6: lambda m: m[::-1].T,
    7: lambda m: m[::-1, ::-1].T,
    8: lambda m: m.T[::-1],
}
POINTS: Mapping[int, Callable[[np.ndarray, np.ndarray, int, int], tuple[np.ndarray, np.ndarray]]] = {
    2: lambda x, y, height, width: (width - x, y),
    3: lambda x, y, height, width: (width - x, height - y),
    4: lambda x, y, height, width: (x, height - y),
    5: lambda x, y, height, width: (y, x),
    6: lambda x, y, height, width: (height - y, x),
    7: lambda x, y, height, width: (height - y, width - x),
    8: lambda x, y, height, width: (y, width - x),
}


def turned_size(size: Size, orientation: int) -> Size:
    return (size[1], size[0]) if orientation in ASIDE else size


def turned_points(points: np.ndarray, orientation: int, size: Size) -> np.ndarray:
    """Points (n, 2), as x and y, of stored pixels of this size."""
    if orientation not in POINTS:
        return points
    return np.stack(POINTS[orientation](points[:, 0], points[:, 1], *size), axis=1)


def turned_boxes(boxes: np.ndarray, orientation: int, size: Size) -> np.ndarray:
    """Boxes (n, 4) as x1, y1, x2, y2; which corners are the first is kept right."""
    corners = turned_points(boxes.reshape(-1, 2), orientation, size).reshape(-1, 2, 2)
    return np.concatenate([corners.min(axis=1), corners.max(axis=1)], axis=1)


def turned_mask(mask: np.ndarray, orientation: int) -> np.ndarray:
    return MASKS[orientation](mask) if orientation in MASKS else mask
