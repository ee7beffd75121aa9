"""Classes in colours over a picture."""

from __future__ import annotations

import colorsys

import numpy as np
from PIL import Image, ImageDraw

OPAQUE = 0.55
"""What a class's colour counts over a picture."""
MOST_NAMED = 12
"""Classes that are named on a picture, those of the largest share."""


def palette(count: int) -> np.ndarray:
    """(count, 3): colours of uint8 that are told apart, the same for the same number. Neighbours in number lie a golden
    section of the colour circle apart, and take turns in lightness."""
    turn = (5**0.5 - 1) / 2
    shades = [(1.0, 0.65), (0.72, 0.85), (0.9, 0.35)]
    colours = [colorsys.hsv_to_rgb((0.02 + i * turn) % 1, shades[i % 3][1], shades[i % 3][0]) for i in range(count)]
    return np.round(255 * np.asarray(colours)).astype(np.uint8)


def blended(picture: Image.Image, labels: np.ndarray, classes: tuple[str, ...]) -> Image.Image:
    """A picture under its classes (row, column), -1 showing the picture alone, with the names of those that are there
    beside it."""
    colours = palette(len(classes))
    pixels = np.asarray(picture.convert("RGB"), dtype=np.float32)
    known = labels >= 0
    over = colours[np.maximum(labels, 0)]
    mixed = np.where(known[..., None], (1 - OPAQUE) * pixels + OPAQUE * over, pixels)
    result = Image.fromarray(np.round(mixed).astype(np.uint8))
    counts = np.bincount(labels[known].ravel(), minlength=len(classes))
    here = [int(c) for c in np.argsort(-counts, kind="stable") if counts[c]][:MOST_NAMED]
    named = [(classes[c], (int(r), int(g), int(b))) for c in here for r, g, b in [colours[c]]]
    return beside(result, named)


def beside(picture: Image.Image, names: list[tuple[str, tuple[int, int, int]]]) -> Image.Image:
    """A picture with a list of names and their colours at its right."""
    row = max(picture.height // 40, 14)
    draw = ImageDraw.Draw(picture)
    widest = max([draw.textlength(name, font_size=row - 3) for name, _ in names], default=0)
    wide = Image.new(
        "RGB", (picture.width + int(widest) + 3 * row, max(picture.height, row * (len(names) + 1))), "white"
    )
    wide.paste(picture, (0, 0))
    draw = ImageDraw.Draw(wide)
    for place, (name, colour) in enumerate(names):
        left, top = picture.width + row // 2, row // 2 + place * row
        draw.rectangle((left, top + 2, left + row - 4, top + row - 2), fill=colour)
        draw.text((left + row, top), name, fill="black", font_size=row - 3)
    return wide


def outlined(
    picture: Image.Image, boxes: list[list[float]], labels: list[int], words: list[str], count: int
) -> Image.Image:
    """A picture with boxes (x1, y1, x2, y2 in fractions) in the colours of their classes, of which there are `count`,
    and words at their upper left corners. The first lies on top."""
    result, colours = picture.convert("RGB"), palette(count)
    line, row = max(round(max(picture.size) / 250), 1), max(picture.height // 40, 11)
    draw = ImageDraw.Draw(result)
    for box, label, word in reversed(list(zip(boxes, labels, words, strict=True))):
        left, top, right, bottom = (round(f * (side - 1)) for f, side in zip(box, 2 * picture.size, strict=True))
        colour = tuple(colours[label].tolist())
        draw.rectangle((left, top, right, bottom), outline=colour, width=line)
        wide = draw.textlength(word, font_size=row - 1)
        top = max(top - row, 0)
        draw.rectangle((left, top, left + wide + 2, top + row), fill=colour)
        draw.text((left + 1, top), word, fill="white" if sum(colour) < 3 * 150 else "black", font_size=row - 1)
    return result
