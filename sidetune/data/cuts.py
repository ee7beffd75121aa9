"""Which part of a picture is seen in training, at random, and how it looks."""

from __future__ import annotations

from collections.abc import Callable

import torch
from PIL import Image

SCALES = (0.5, 2.0)
"""How much larger than its part that is seen a picture may be shown in training, by its shorter side."""
TRIES = 10
Box = tuple[float, float, float, float]
"""Left, top, right and bottom in a picture's pixels."""


def random_box(picture: tuple[int, int], size: tuple[int, int], is_poor: Callable[[Box], bool]) -> Box:
    """What is seen of a picture of this width and height, at one scale, where it is shown at a size (height, width);
    where it is shown smaller than the size, a box that reaches out. The last of several tries may be poor."""
    scale = float(torch.empty(()).uniform_(*SCALES))
    shown = scale * max(side / of for side, of in zip(size, reversed(picture), strict=True))
    height, width = (side / shown for side in size)
    for _ in range(TRIES):
        left, top = within(picture[0], width), within(picture[1], height)
        box = (left, top, left + width, top + height)
        if not is_poor(box):
            break
    return box


def within(side: int, length: float) -> float:
    """Where a stretch begins that lies in a side, or that the side lies in, at random."""
    return float(torch.rand(())) * (side - length)


def seen(picture: Image.Image, box: Box, size: tuple[int, int]) -> Image.Image:
    """A box of a picture at a size, bilinear with antialiasing, grey outside."""
    inner = (max(box[0], 0), max(box[1], 0), min(box[2], picture.width), min(box[3], picture.height))
    down, across = size[0] / (box[3] - box[1]), size[1] / (box[2] - box[0])
    left, top = round((inner[0] - box[0]) * across), round((inner[1] - box[1]) * down)
    right, bottom = round((inner[2] - box[0]) * across), round((inner[3] - box[1]) * down)
    part = picture.resize((max(right - left, 1), max(bottom - top, 1)), Image.Resampling.BILINEAR, box=inner)
    if part.size == (size[1], size[0]):
        return part
    whole = Image.new("RGB", (size[1], size[0]), (124, 116, 104))
    whole.paste(part, (left, top))
    return whole
