"""Scenes of garments: pictures of Fashion-MNIST, enlarged, turned and laid over one another on woven patterns, with the
class of every pixel. Those of a part's scenes are that part's garments."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from sidetune.data.samples import Samples, Splits

SIZE = 112
"""Pixels, down and across."""
SCENES = {"train": 400, "val": 100, "test": 200}
GARMENTS = (1, 3)
"""In a scene, at least and at most."""
SIDES = (50, 90)
"""Pixels of a garment's square, at least and at most."""
LIT = 12
"""A garment's pixels are brighter than this; its picture is black around it."""
BACKGROUND = "background"


def pattern(rng: np.random.Generator, size: int) -> np.ndarray:
    """A woven ground: two waves of random length, direction and brightness, and noise."""
    down, across = np.mgrid[:size, :size]
    ground = np.full((size, size), rng.uniform(40, 160))
    for _ in range(2):
        angle, length = rng.uniform(0, np.pi), rng.uniform(4, 40)
        wave = np.sin(2 * np.pi * (across * np.cos(angle) + down * np.sin(angle)) / length + rng.uniform(0, 2 * np.pi))
        ground += rng.uniform(8, 35) * (np.sign(wave) if rng.random() < 0.5 else wave)
    return np.clip(ground + rng.normal(0, 6, ground.shape), 0, 255)


def scene(
    rng: np.random.Generator, garments: np.ndarray, labels: Sequence[int], size: int = SIZE
) -> tuple[np.ndarray, np.ndarray]:
    """A picture, (size, size) uint8, and the number of the class of every pixel, 0 being the ground."""
    from PIL import Image  # the small device knows the names of data sets and makes none, so it needs no Pillow

    picture, classes = pattern(rng, size), np.zeros((size, size), np.int16)
    for chosen in rng.integers(len(garments), size=rng.integers(GARMENTS[0], GARMENTS[1] + 1)):
        side, angle = int(rng.integers(SIDES[0], SIDES[1] + 1)), float(rng.uniform(-30, 30))
        garment = Image.fromarray(garments[chosen]).resize((side, side), Image.Resampling.BICUBIC)
        pixels = np.asarray(garment.rotate(angle, Image.Resampling.BICUBIC))
        top, left = rng.integers(0, size - side + 1, size=2)
        here = np.s_[top : top + side, left : left + side]
        lit = pixels > LIT
        picture[here][lit] = pixels[lit]
        classes[here][lit] = labels[chosen] + 1
    return np.round(picture).astype(np.uint8), classes


def scenes(garments: Samples, count: int, seed: int, size: int = SIZE) -> Samples:
    """So many scenes of these garments; the same seed makes the same."""
    rng = np.random.default_rng(seed)
    made = [scene(rng, np.asarray(garments.images), garments.labels, size) for _ in range(count)]
    return Samples(
        images=np.stack([picture for picture, _ in made]),
        labels=[classes for _, classes in made],
        classes=(BACKGROUND, *garments.classes),
        task="segmentation",
    )


def garment_splits(garments: Splits) -> Splits:
    parts = {p: scenes(samples, SCENES[p], seed) for seed, (p, samples) in enumerate(garments.parts().items(), start=1)}
    return Splits(name="garment-scenes", train=parts["train"], val=parts.get("val"), test=parts.get("test"))
