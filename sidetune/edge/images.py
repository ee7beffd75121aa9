"""Which images a folder holds, by class and part: the rules of `sidetune.data.folders`, without opening an image."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from sidetune.errors import DataError

SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif", ".ppm", ".pgm", ".jp2"})
"""Extensions, in lower case, of files that are taken for images; the service says which of them it cannot read."""
PARTS = {"train": ("train", "training"), "val": ("val", "valid", "validation"), "test": ("test", "testing")}
VAL, TEST = 0.1, 0.2
"""Shares of each class split off where a folder has no parts."""


@dataclass(frozen=True, kw_only=True)
class Item:
    path: str
    """Below the folder, with / between its parts."""
    label: int
    part: str
    """train, val or test."""
    size: int
    """Bytes."""


def read_folder(root: Path) -> tuple[tuple[str, ...], tuple[Item, ...]]:
    """Names of classes, in order, and the images under `root/train/CLASS/` (`val/`, `test/`) or `root/CLASS/`.

    Without a part `val`, a tenth of each class's training images is put aside for it; without any parts, a fifth for
    `test` as well. Raises DataError if there is no image, an empty class, or a class that `train` does not have.
    """
    if not root.is_dir():
        raise DataError(f"no folder at {root}" if not root.exists() else f"{root} is a file; expected a folder")
    found = {part: next((root / n for n in names if (root / n).is_dir()), None) for part, names in PARTS.items()}
    if found["train"] is None:
        if given := found["val"] or found["test"]:
            raise DataError(f"{root} has {given} but no {root / 'train'}")
        classes, items = read_part(root, root, "train", None)
        items = split_off(split_off(items, TEST, "test"), VAL / (1 - TEST), "val")
    else:
        classes, items = read_part(root, found["train"], "train", None)
        items = items if found["val"] else split_off(items, VAL, "val")
        for part in ("val", "test"):
            if (folder := found[part]) is not None:
                items += read_part(root, folder, part, classes)[1]
    if len(classes) < 2:
        raise DataError(f"{root} has one class only ({', '.join(classes)}); a classifier needs at least two")
    return classes, tuple(items)


def read_part(root: Path, folder: Path, part: str, known: tuple[str, ...] | None) -> tuple[tuple[str, ...], list[Item]]:
    folders = sorted(p for p in folder.iterdir() if p.is_dir() and not p.name.startswith("."))
    if not folders:
        raise DataError(f"{folder} holds no class folders; expected {folder}/CLASS/*.jpg")
    classes = known or tuple(p.name for p in folders)
    items: list[Item] = []
    for of_class in folders:
        paths = images_under(of_class)
        if of_class.name not in classes:
            if paths:
                raise DataError(f"{of_class} is a class that the training images do not have ({', '.join(classes)})")
            continue
        if not paths:
            raise DataError(f"the class folder {of_class} holds no images")
        label = classes.index(of_class.name)
        items += [
            Item(path=p.relative_to(root).as_posix(), label=label, part=part, size=p.stat().st_size) for p in paths
        ]
    return classes, items


def images_under(folder: Path) -> list[Path]:
    return sorted(
        path
        for parent, _, names in os.walk(folder, followlinks=True)
        for name in names
        if (path := Path(parent) / name).suffix.lower() in SUFFIXES and not name.startswith(".") and path.is_file()
    )


def split_off(items: list[Item], fraction: float, part: str) -> list[Item]:
    """Put a fraction of each class's training images (at least one where it has two) into another part."""
    rng = np.random.default_rng(0)
    places = np.array([i for i, item in enumerate(items) if item.part == "train"])
    labels = np.array([items[i].label for i in places])
    taken: set[int] = set()
    for label in np.unique(labels):
        members = rng.permutation(places[labels == label])
        count = round(fraction * len(members))
        taken.update(int(i) for i in members[: max(count, 1) if len(members) > 1 else 0])
    return [replace(item, part=part) if i in taken else item for i, item in enumerate(items)]
