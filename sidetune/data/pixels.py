"""Pixels of any depth -> 8-bit RGB, by one rule.

Grey values of more than 8 bits are mapped linearly, black to 0 and white to 255. Which values these are is said once
for a data set (`levels`), or follows from each picture: whole numbers go from 0, or the smallest value where some are
negative, to the end of 8, 10, 12, 14 or 16 bits, whichever are the fewest that hold the values and what the file says
of their range, or to the largest value beyond 16 bits; floating-point numbers go from the smallest to the largest.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from sidetune.data.reading import Levels

WHITES = tuple(2**bits - 1 for bits in (8, 10, 12, 14, 16))
BITS, SAMPLE_FORMAT, MAX_SAMPLE, SMAX_SAMPLE = 258, 339, 281, 341
"""Tags of TIFF."""
UNSIGNED = 1


def to_rgb(image: Image.Image, levels: Levels | None = None) -> Image.Image:
    """Any mode of Pillow's, as it was opened, to RGB: palettes resolved, alpha laid over white (but a TIFF's fourth
    band, which is rarely transparency, dropped), deep grey values by the rule above.

    Raises ValueError for floating-point pixels that are all equal, which have no range.
    """
    mode = image.mode
    if is_deep(mode):
        values = values_of(image)
        return Image.fromarray(scaled(values, levels or levels_of(image, values))).convert("RGB")
    if mode == "RGB":
        return image
    if image.format == "TIFF" and mode in ("RGBA", "RGBa", "RGBX"):
        return Image.merge("RGB", image.split()[:3])
    if image.format == "TIFF" and mode in ("LA", "La"):
        return image.split()[0].convert("RGB")
    if "A" in mode or "a" in mode or "transparency" in image.info:
        rgba = image.convert("RGBA")
        white = Image.new("RGBA", rgba.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, rgba).convert("RGB")
    return image.convert("RGB")


def is_deep(mode: str) -> bool:
    return mode.startswith("I") or mode == "F"


def values_of(image: Image.Image) -> NDArray[Any]:
    """A deep picture's grey values; Pillow has no unsigned 32 bits, so those of a TIFF are told by its tags."""
    values = np.asarray(image)
    tags = getattr(image, "tag_v2", {})
    if image.mode == "I" and first(tags, SAMPLE_FORMAT, UNSIGNED) == UNSIGNED and first(tags, BITS) == 32:
        return values.view(np.uint32)
    return values


def levels_of(image: Image.Image, values: NDArray[Any]) -> Levels:
    """The range of one picture. Raises ValueError for floating-point values that are all equal, or none finite."""
    low, high = extent_of(values)
    if values.dtype.kind == "f":
        if low == high:
            raise ValueError("its floating-point pixels are all equal, so that they have no range; give levels")
        return low, high
    high = max(high, said_white(image))
    return min(low, 0.0), float(next((white for white in WHITES if white >= high), high))


def extent_of(values: NDArray[Any]) -> Levels:
    """Smallest and largest value; of floating-point ones, of those that are finite (0, 0 if none is)."""
    if values.dtype.kind == "f":
        values = values[np.isfinite(values)]
    return (float(values.min()), float(values.max())) if values.size else (0.0, 0.0)


def said_white(image: Image.Image) -> int:
    """The largest value that a TIFF announces, 0 if it says no more than what 16 or 32 bits hold anyway."""
    tags = getattr(image, "tag_v2", {})
    bits = first(tags, BITS)
    said = [2**bits - 1, first(tags, MAX_SAMPLE), first(tags, SMAX_SAMPLE)]
    return int(max((white for white in said if 0 < white < WHITES[-1]), default=0))


def first(tags: Any, number: int, default: float = 0) -> Any:
    """The first value of a tag, of whatever form it was read in."""
    value = tags.get(number, default)
    value = value[0] if isinstance(value, tuple) and value else value
    return value if isinstance(value, (int, float)) and value == value else default


def scaled(values: NDArray[Any], levels: Levels) -> NDArray[np.uint8]:
    """Values -> 0..255, those outside of the levels cut off; what is no number is black."""
    black, white = levels
    exact: Any = np.float64 if values.dtype.kind != "f" and values.itemsize > 2 else np.float32
    part = (values.astype(exact) - exact(black)) * exact(255 / (white - black))
    return (np.clip(np.nan_to_num(part, nan=0, posinf=255, neginf=0), 0, 255) + 0.5).astype(np.uint8)
