"""Data sets that come with the library, by name."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from importlib.resources import as_file, files

import numpy as np

from sidetune.data.garments import garment_splits
from sidetune.data.samples import Samples, Splits
from sidetune.data.sprites import Factor, sprite_splits


def fashion_1k(*, tune: bool = False) -> Splits:
    """1,000 training images of Fashion-MNIST in VTAB-1k's form and 2,000 to test on; to `tune`, 800 and 200."""
    with as_file(files("sidetune.data") / "fashion1k.npz") as path, np.load(path) as file:
        classes = tuple(str(name) for name in file["classes"])
        parts = {
            part: Samples(images=file[f"{part}_images"], labels=file[f"{part}_labels"].tolist(), classes=classes)
            for part in ("train", "val", "test")
        }
    splits = Splits(name="fashion-1k", **parts)
    return splits if tune else splits.final()


def sprites(factor: Factor, *, tune: bool = False) -> Splits:
    """Sprites have validation images apart from the 1,000 training images, so tuning changes nothing."""
    return sprite_splits(factor)


def garment_scenes(*, boxes: bool = False, tune: bool = False) -> Splits:
    """Scenes have validation images apart from the training images, so tuning changes nothing."""
    return garment_splits(fashion_1k(tune=True), boxes=boxes)


NAMED: dict[str, Callable[..., Splits]] = {
    "fashion-1k": fashion_1k,
    "garment-boxes": partial(garment_scenes, boxes=True),
    "garment-scenes": garment_scenes,
    "sprites-location": partial(sprites, "location"),
    "sprites-orientation": partial(sprites, "orientation"),
}
