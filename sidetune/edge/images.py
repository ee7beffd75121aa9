"""The images of a data set as an enrolment lists them, read by the rules of `sidetune.data`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from sidetune.data.folders import existing
from sidetune.data.forms import HAS, form_of
from sidetune.data.layout import Layout
from sidetune.data.sources import read_data
from sidetune.errors import DataError


@dataclass(frozen=True, kw_only=True)
class Item:
    path: str
    """Below the folder, with / between its parts."""
    label: int
    part: str
    """train, val or test."""
    size: int
    """Bytes."""


def read_items(root: Path, layout: Layout = "auto") -> tuple[tuple[str, ...], tuple[Item, ...]]:
    """Names of classes, in order, and the images of `root`, as `sidetune fit` reads and splits it. Raises DataError."""
    root = existing(root).absolute()  # a folder, never one of the library's data sets
    if (form := form_of(root, layout=layout)) in ("masks", "boxes"):
        raise DataError(f"{root} has {HAS[form][0]}; the device learns one label an image")
    splits = read_data(root, layout=layout)
    if splits.train.task != "classification":
        raise DataError(f"{root} has a table for {splits.train.task}; the device learns one label an image")
    items = [
        Item(path=path.relative_to(root).as_posix(), label=label, part=part, size=path.stat().st_size)
        for part, samples in splits.parts().items()
        for path, label in zip(samples.images, samples.labels, strict=True)
    ]
    return splits.train.classes, tuple(items)
