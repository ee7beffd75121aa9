"""Scenes of garments: pictures of Fashion-MNIST, enlarged, turned and laid over one another on woven patterns, with the
class of every pixel or the box of every garment. Those of a part's scenes are that part's garments."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from sidetune.data.objects import Objects
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
SEEN = 0.25
"""The share of a garment's pixels below which what others leave to be seen of it is kept aside."""
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
    rng: np.random.Generator, garments: np.ndarray, size: int = SIZE
) -> tuple[np.ndarray, np.ndarray, list[tuple[int, int]]]:
    """A picture, (size, size) uint8; whose every pixel is, 0 being the ground and 1 the garment that was laid first;
    and of every garment its number and its pixels before others covered it."""
    from PIL import Image  # names are told without drawing

    picture, owners, laid = pattern(rng, size), np.zeros((size, size), np.int16), []
    for chosen in rng.integers(len(garments), size=rng.integers(GARMENTS[0], GARMENTS[1] + 1)):
        side, angle = int(rng.integers(SIDES[0], SIDES[1] + 1)), float(rng.uniform(-30, 30))
        garment = Image.fromarray(garments[chosen]).resize((side, side), Image.Resampling.BICUBIC)
        pixels = np.asarray(garment.rotate(angle, Image.Resampling.BICUBIC))
        top, left = rng.integers(0, size - side + 1, size=2)
        here = np.s_[top : top + side, left : left + side]
        lit = pixels > LIT
        picture[here][lit] = pixels[lit]
        laid.append((int(chosen), int(lit.sum())))
        owners[here][lit] = len(laid)
    return np.round(picture).astype(np.uint8), owners, laid


def mask_of(owners: np.ndarray, laid: Sequence[tuple[int, int]], labels: Sequence[int]) -> np.ndarray:
    """The class of every pixel, 0 being the ground."""
    return np.array([0, *(labels[chosen] + 1 for chosen, _ in laid)], np.int16)[owners]


def objects_of(owners: np.ndarray, laid: Sequence[tuple[int, int]], labels: Sequence[int]) -> Objects:
    """The box around what is seen of every garment; those that are nearly covered are aside."""
    boxes, classes, aside = [], [], []
    for number, (chosen, whole) in enumerate(laid, start=1):
        down, across = np.nonzero(owners == number)
        if len(down):
            boxes.append((across.min(), down.min(), across.max() + 1, down.max() + 1))
            classes.append(labels[chosen])
            aside.append(len(down) < SEEN * whole)
    return Objects(
        boxes=np.array(boxes, np.float32).reshape(-1, 4),
        labels=np.array(classes, np.int64),
        aside=np.array(aside, bool),
        outlines=None,
        size=(owners.shape[0], owners.shape[1]),
    )


def scenes(garments: Samples, count: int, seed: int, size: int = SIZE, *, boxes: bool = False) -> Samples:
    """So many scenes of these garments, with masks or with `boxes`; the same seed makes the same."""
    rng = np.random.default_rng(seed)
    made = [scene(rng, np.asarray(garments.images), size) for _ in range(count)]
    label = objects_of if boxes else mask_of
    return Samples(
        images=np.stack([picture for picture, _, _ in made]),
        labels=[label(owners, laid, garments.labels) for _, owners, laid in made],
        classes=garments.classes if boxes else (BACKGROUND, *garments.classes),
        task="detection" if boxes else "segmentation",
    )


def garment_splits(garments: Splits, *, boxes: bool = False) -> Splits:
    parts = {
        part: scenes(samples, SCENES[part], seed, boxes=boxes)
        for seed, (part, samples) in enumerate(garments.parts().items(), start=1)
    }
    name = "garment-boxes" if boxes else "garment-scenes"
    return Splits(name=name, train=parts["train"], val=parts.get("val"), test=parts.get("test"))
