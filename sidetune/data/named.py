"""Data sets that come with the library, by name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from importlib.resources import as_file, files
from pathlib import Path

import numpy as np

from sidetune.data.digests import warn_of_repeats
from sidetune.data.filelist import LISTS, read_vtab
from sidetune.data.folders import read_splits
from sidetune.data.layout import Layout
from sidetune.data.reading import Reading
from sidetune.data.samples import Samples, Splits
from sidetune.data.sprites import Factor, sprite_splits
from sidetune.errors import DataError


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


NAMED: dict[str, Callable[..., Splits]] = {
    "fashion-1k": fashion_1k,
    "sprites-location": partial(sprites, "location"),
    "sprites-orientation": partial(sprites, "orientation"),
}


def read_data(
    source: str | Path,
    *,
    tune: bool = False,
    seed: int = 0,
    layout: Layout = "auto",
    reading: Reading | None = None,
    skip_bad: bool = False,
) -> Splits:
    """A data set by name, an image folder, or a folder with VTAB-1k's file lists.

    In VTAB-1k's form the training images are the 800 and the 200 together, as in the papers' final runs, and nothing
    is left to validate on; with `tune` the 200 are kept apart. `layout` is for folders, see `read_splits`; `reading`
    says of files what they do not say themselves; `skip_bad` leaves out those that lists name and that are not there.

    Warns (DataWarning) of what is passed over and of pictures that stand in several places. Raises DataError for what
    is not there or not as it should be.
    """
    if str(source) in NAMED:
        return NAMED[str(source)](tune=tune)
    path = Path(source)
    if not path.exists():
        raise DataError(f"no folder at {source}, and no data set of that name; known names: {', '.join(NAMED)}")
    if any((path / name).is_file() for name in LISTS):
        splits = read_vtab(path, tune=tune, skip_missing=skip_bad)
    else:
        splits = read_splits(path, seed=seed, layout=layout)
    warn_of_repeats(splits)
    return splits if reading is None else splits.mapped(lambda samples: replace(samples, reading=reading))
