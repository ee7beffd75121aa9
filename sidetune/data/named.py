"""Data sets that come with the library, by name."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from importlib.resources import as_file, files
from pathlib import Path

import numpy as np

from sidetune.data.filelist import LISTS, read_vtab
from sidetune.data.folders import read_splits
from sidetune.data.samples import Samples, Splits
from sidetune.data.sprites import sprite_splits
from sidetune.errors import DataError


def fashion_1k() -> Splits:
    """1,000 images of Fashion-MNIST in VTAB-1k's form (800 to train on, 200 to validate) and 2,000 to test on."""
    with as_file(files("sidetune.data") / "fashion1k.npz") as path, np.load(path) as file:
        classes = tuple(str(name) for name in file["classes"])
        parts = [
            Samples(images=file[f"{part}_images"], labels=file[f"{part}_labels"].tolist(), classes=classes)
            for part in ("train", "val", "test")
        ]
    return Splits(name="fashion-1k", train=parts[0], val=parts[1], test=parts[2])


NAMED: dict[str, Callable[[], Splits]] = {
    "fashion-1k": fashion_1k,
    "sprites-location": partial(sprite_splits, "location"),
    "sprites-orientation": partial(sprite_splits, "orientation"),
}


def read_data(source: str | Path, *, seed: int = 0) -> Splits:
    """A data set by name, an image folder, or a folder with VTAB-1k's file lists."""
    if str(source) in NAMED:
        return NAMED[str(source)]()
    path = Path(source)
    if not path.exists():
        raise DataError(f"no folder at {source}, and no data set of that name; known names: {', '.join(NAMED)}")
    if any((path / name).is_file() for name in LISTS):
        return read_vtab(path)
    return read_splits(path, seed=seed)
