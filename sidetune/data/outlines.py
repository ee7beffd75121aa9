"""The shape of one object, as polygons or as run lengths; a mask is cut only when it is asked for."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from sidetune.data.turning import Size, turned_mask, turned_points, turned_size

Box = tuple[float, float, float, float]
"""x1, y1, x2, y2."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Polygons:
    points: tuple[np.ndarray, ...]
    """Of each polygon the corners (n, 2) as x and y in pixels; the object is what any of them holds."""

    def mask(self, height: int, width: int) -> np.ndarray:
        """The pixels, (height, width) of type bool, whose middle lies inside."""
        found = np.zeros((height, width), dtype=bool)
        for points in self.points:
            found |= filled(points, height, width)
        return found

    def box(self) -> Box:
        every = np.concatenate(self.points)
        (x1, y1), (x2, y2) = every.min(axis=0).tolist(), every.max(axis=0).tolist()
        return x1, y1, x2, y2

    def moved(self, by: float) -> Polygons:
        return Polygons(points=tuple(p + by for p in self.points))

    def scaled(self, size: Size) -> Polygons:
        """From fractions of a picture to its pixels."""
        return Polygons(points=tuple(p * np.array([size[1], size[0]]) for p in self.points))

    def turned(self, orientation: int, size: Size) -> Polygons:
        return Polygons(points=tuple(turned_points(p, orientation, size) for p in self.points))

    def described(self) -> Any:
        """To JSON."""
        return [p.ravel().tolist() for p in self.points]


@dataclass(frozen=True, kw_only=True, eq=False)
class Runs:
    size: Size
    """Of the stored pixels."""
    counts: tuple[int, ...]
    """Down the columns, lengths of what is outside, inside, outside ..., as in COCO."""
    orientation: int = 1
    """EXIF's, where the stored pixels are to be turned."""

    def __post_init__(self) -> None:
        if min(self.counts, default=0) < 0 or sum(self.counts) != self.size[0] * self.size[1]:
            raise ValueError(
                f"run lengths must be 0 or more and together as many as the pixels, {self.size[0]} x {self.size[1]} = "
                f"{self.size[0] * self.size[1]:,}; got {sum(self.counts):,}"
            )

    def mask(self, height: int, width: int) -> np.ndarray:
        """The pixels, (height, width) of type bool. Raises ValueError for another size than that of the run lengths."""
        if (height, width) != turned_size(self.size, self.orientation):
            raise ValueError(f"run lengths of {self.size[0]} x {self.size[1]} pixels, not {height} x {width}")
        inside = np.arange(len(self.counts)) % 2 == 1
        columns = np.repeat(inside, self.counts).reshape(self.size[1], self.size[0])
        return np.ascontiguousarray(turned_mask(columns.T, self.orientation))

    def box(self) -> Box:
        """Around what is inside, of the turned pixels; empty where nothing is."""
        rows, columns = np.nonzero(self.mask(*turned_size(self.size, self.orientation)))
        if not len(rows):
            return 0.0, 0.0, 0.0, 0.0
        return float(columns.min()), float(rows.min()), float(columns.max() + 1), float(rows.max() + 1)

    def turned(self, orientation: int, size: Size) -> Runs:
        assert size == self.size and self.orientation == 1
        return replace(self, orientation=orientation)

    def described(self) -> Any:
        """To JSON."""
        return {"size": list(self.size), "counts": list(self.counts), "orientation": self.orientation}


Outline = Polygons | Runs


def filled(points: np.ndarray, height: int, width: int) -> np.ndarray:
    """The pixels whose middle lies in one polygon, by how often its edges are crossed from the left."""
    crossed = np.zeros((height, width + 1), dtype=np.int64)
    for (xa, ya), (xb, yb) in zip(points, np.roll(points, -1, axis=0), strict=True):
        low, high = np.clip(np.ceil(np.sort([ya, yb]) - 0.5), 0, height).astype(np.int64)
        if low == high:
            continue
        rows = np.arange(low, high)
        across = xa + (rows + 0.5 - ya) * (xb - xa) / (yb - ya)
        crossed[rows, np.clip(np.ceil(across - 0.5), 0, width).astype(np.int64)] += 1
    return (np.cumsum(crossed, axis=1)[:, :width] % 2).astype(bool)


def area_of(points: np.ndarray) -> float:
    x, y = points[:, 0], points[:, 1]
    return abs(float(np.dot(x, np.roll(y, -1)) - np.dot(y, np.roll(x, -1)))) / 2


def polygons_of(rings: Iterable[Sequence[float]]) -> Polygons | None:
    """Polygons from lists x, y, x, y ...; those that hold nothing (fewer than three corners, no area) are left out, and
    without any there is no shape."""
    arrays = [
        np.asarray(ring, dtype=np.float64).reshape(-1, 2) for ring in rings if len(ring) >= 6 and not len(ring) % 2
    ]
    kept = tuple(points for points in arrays if area_of(points) > 0)
    return Polygons(points=kept) if kept else None


def unpacked(text: str) -> tuple[int, ...]:
    """Run lengths from COCO's text: five bits a character from the lowest, the sixth for more to come, the last one's
    fifth for the sign; from the fourth number on differences to the last but one. Raises ValueError."""
    counts: list[int] = []
    value = shift = 0
    for character in text:
        bits = ord(character) - 48
        if not 0 <= bits < 64:
            raise ValueError(f"{character!r} is no character of packed run lengths")
        value |= (bits & 31) << shift
        shift += 5
        if bits & 32:
            continue
        if bits & 16:
            value -= 1 << shift
        counts.append(value + (counts[-2] if len(counts) > 2 else 0))
        value = shift = 0
    if shift:
        raise ValueError("packed run lengths end in the middle of a number")
    return tuple(counts)
