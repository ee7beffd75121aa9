"""White sprites on black after dSprites' published factors: 3 shapes, 6 scales, 40 orientations, 32 x 32 positions.

VTAB asks two questions of them: which of 16 bins the sprite's x falls into, and which of 16 bins its orientation.
"""

from __future__ import annotations

from typing import Literal

import numpy as np

from sidetune.data.samples import Samples, Splits

SIZE = 64
SHAPES = ("square", "ellipse", "heart")
SCALES = np.linspace(0.5, 1.0, 6)
ORIENTATIONS = np.linspace(0.0, 2 * np.pi, 40, endpoint=False)
POSITIONS = np.linspace(0.0, 1.0, 32)
NUM_BINS = 16
RADIUS = 8.0
"""Pixels from the centroid of the largest sprite to its tips; positions keep every sprite inside the picture."""

Factor = Literal["location", "orientation"]


def draw(shape: str, scale: float, orientation: float, x: float, y: float) -> np.ndarray:
    """One picture, (64, 64) uint8 of 0 and 255: a sprite with its centroid at `x`, `y`, in 0..1 to the right and down,
    turned clockwise by `orientation` in radians."""
    pixels = np.arange(SIZE) + 0.5
    reach = SIZE / 2 - RADIUS
    dx = pixels[None, :] - (SIZE / 2 + (2 * x - 1) * reach)
    dy = pixels[:, None] - (SIZE / 2 + (2 * y - 1) * reach)
    cos, sin = np.cos(orientation), np.sin(orientation)
    u = (cos * dx + sin * dy) / (scale * RADIUS)  # the sprite's own axes, its tips at distance 1
    v = (cos * dy - sin * dx) / (scale * RADIUS)
    if shape == "square":
        inside = np.maximum(abs(u), abs(v)) <= np.sqrt(0.5)
    elif shape == "ellipse":
        inside = u**2 + (v / 0.5) ** 2 <= 1
    else:  # the sextic heart curve, its point downwards; 0.2935 is its centroid, about which it turns
        p, q = 1.289 * u, -1.289 * v + 0.2935
        inside = (p**2 + q**2 - 1) ** 3 <= p**2 * q**3
    return np.where(inside, 255, 0).astype(np.uint8)


def sprites(factor: Factor, count: int, seed: int) -> Samples:
    """`count` random sprites labelled by their bin of x or of orientation; the same seed draws the same sprites."""
    rng = np.random.default_rng(seed)
    shape, scale = rng.integers(len(SHAPES), size=count), rng.integers(len(SCALES), size=count)
    turn, x, y = rng.integers(len(ORIENTATIONS), size=count), *rng.integers(len(POSITIONS), size=(2, count))
    images = np.stack(
        [
            draw(SHAPES[s], SCALES[c], ORIENTATIONS[t], POSITIONS[i], POSITIONS[j])
            for s, c, t, i, j in zip(shape, scale, turn, x, y, strict=True)
        ]
    )
    if factor == "location":
        labels = x * NUM_BINS // len(POSITIONS)
        classes = tuple(f"x {b:02d}" for b in range(NUM_BINS))
    else:
        labels = turn * NUM_BINS // len(ORIENTATIONS)
        classes = tuple(f"{360 * b / NUM_BINS:g}°" for b in range(NUM_BINS))
    return Samples(images=images, labels=labels.tolist(), classes=classes)


def sprite_splits(factor: Factor, *, num_train: int = 1000, num_val: int = 200, num_test: int = 1000) -> Splits:
    """Training, validation and test sprites; a validation set of its own, so all 1,000 can be trained on."""
    return Splits(
        name=f"sprites-{factor}",
        train=sprites(factor, num_train, seed=1),
        val=sprites(factor, num_val, seed=2),
        test=sprites(factor, num_test, seed=3),
    )
