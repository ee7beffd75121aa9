"""The objects of one picture: boxes, classes, shapes; what every reader of annotations gives, checked."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import Any

import numpy as np

from sidetune.data.outlines import Outline
from sidetune.data.turning import Size


@dataclass(frozen=True, kw_only=True, eq=False)
class Objects:
    boxes: np.ndarray
    """(object, 4), float32: x1, y1, x2, y2 in pixels of the upright picture, from 0 and with half-open edges; a box
    over the whole picture is 0, 0, width, height."""
    labels: np.ndarray
    """(object,), int64: classes by number, from 0."""
    aside: np.ndarray
    """(object,), bool: crowds and difficult ones, neither wanted nor wrong."""
    outlines: tuple[Outline | None, ...] | None
    """Shapes in the upright picture; None where boxes are all there is."""
    size: Size
    """Height and width of the upright picture."""

    def __post_init__(self) -> None:
        count = len(self.labels)
        for name, shape, kind in (("boxes", (count, 4), "float32"), ("labels", (count,), "int64")):
            check(name, getattr(self, name), shape, kind)
        check("aside", self.aside, (count,), "bool")
        if self.outlines is not None and len(self.outlines) != count:
            raise ValueError(f"outlines: expected one of each of {count} objects, got {len(self.outlines)}")
        height, width = self.size
        if not (
            np.isfinite(self.boxes).all() and (self.boxes >= 0).all() and (self.boxes[:, 2:] <= (width, height)).all()
        ):
            raise ValueError(f"boxes must lie in the picture of {width} x {height} pixels, got {self.boxes.tolist()}")
        if (self.boxes[:, :2] >= self.boxes[:, 2:]).any():
            raise ValueError(f"boxes must have a width and a height, got {self.boxes.tolist()}")
        if (self.labels < 0).any():
            raise ValueError(f"labels must be 0 or more, got {self.labels.tolist()}")

    def __len__(self) -> int:
        return len(self.labels)

    def __str__(self) -> str:
        digest = hashlib.sha256(json.dumps(self.described()).encode()).hexdigest()
        return f"{len(self)} objects ({digest[:12]})"

    def described(self) -> dict[str, Any]:
        """To JSON."""
        return {
            "boxes": self.boxes.tolist(),
            "labels": self.labels.tolist(),
            "aside": self.aside.tolist(),
            "outlines": None if self.outlines is None else [o and o.described() for o in self.outlines],
            "size": list(self.size),
        }


def check(name: str, array: np.ndarray, shape: tuple[int, ...], kind: str) -> None:
    if array.shape != shape or array.dtype != np.dtype(kind):
        raise ValueError(f"{name}: expected {kind} of shape {shape}, got {array.dtype} of {array.shape}")
