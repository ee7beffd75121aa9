"""Image folders: `train/CLASS/*.jpg` beside `val/` and `test/`, or one folder of classes that is split."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path

from sidetune.data.images import SUFFIXES
from sidetune.data.samples import Samples, Splits, split_off
from sidetune.errors import DataError

PARTS = {"train": ("train", "training"), "val": ("val", "valid", "validation"), "test": ("test", "testing")}


def read_folder(root: str | Path, classes: tuple[str, ...] | None = None) -> Samples:
    """The images under `root/CLASS/`, at any depth. Class names are folder names, in order.

    With `classes` given (those of the training images), labels follow them and a folder of another name is an error.
    Raises DataError if there is no folder, no class folder, or a class folder without images.
    """
    root = Path(root)
    if not root.is_dir():
        raise DataError(f"no folder at {root}" if not root.exists() else f"{root} is a file; expected a folder")
    folders = sorted(p for p in root.iterdir() if p.is_dir() and not p.name.startswith("."))
    if not folders:
        loose = sum(is_image(p) for p in root.iterdir())
        found = f"{loose} images but no class folders" if loose else "nothing"
        raise DataError(f"{root} holds {found}; expected one folder a class with its images, as in {root}/cat/1.jpg")
    if classes is None:
        classes = tuple(p.name for p in folders)
    elif strange := [p.name for p in folders if p.name not in classes and images_under(p)]:
        raise DataError(
            f"{root} has classes that the training images do not: {', '.join(strange)}; known: {', '.join(classes)}"
        )
    images: list[Path] = []
    labels: list[int] = []
    for folder in folders:
        found_here = images_under(folder)
        if not found_here and folder.name in classes:
            raise DataError(f"the class folder {folder} holds no images ({describe_others(folder)})")
        images += found_here
        labels += [classes.index(folder.name)] * len(found_here)
    return Samples(images=images, labels=labels, classes=classes)


def read_splits(root: str | Path, *, val: float = 0.1, test: float = 0.2, seed: int = 0) -> Splits:
    """Read `root` as train/val/test folders, or split one folder of classes by the given fractions of each class.

    Beside a `train` folder, a missing `val` is split off the training images and a missing `test` stays missing.
    """
    root = Path(root)
    if not root.is_dir():
        raise DataError(f"no folder at {root}" if not root.exists() else f"{root} is a file; expected a folder")
    found = {part: next((root / n for n in names if (root / n).is_dir()), None) for part, names in PARTS.items()}
    if found["train"] is None:
        if found["val"] or found["test"]:
            raise DataError(f"{root} has {found['val'] or found['test']} but no {root / 'train'}")
        rest, test_samples = split_off(read_folder(root), test, seed)
        train, val_samples = split_off(rest, val / (1 - test), seed)
        return Splits(name=root.name, train=train, val=val_samples, test=test_samples)
    train = read_folder(found["train"])
    if found["val"]:
        val_samples = read_folder(found["val"], train.classes)
    else:
        train, val_samples = split_off(train, val, seed)
    test_part = read_folder(found["test"], train.classes) if found["test"] else None
    return Splits(name=root.name, train=train, val=val_samples, test=test_part)


def is_image(path: Path) -> bool:
    return path.suffix.lower() in SUFFIXES and not path.name.startswith(".") and path.is_file()


def images_under(folder: Path) -> list[Path]:
    return sorted(
        path
        for parent, _, names in os.walk(folder, followlinks=True)
        for name in names
        if is_image(path := Path(parent) / name)
    )


def describe_others(folder: Path) -> str:
    """What a folder holds instead of images, for error messages."""
    kinds = Counter(p.suffix.lower() or p.name for p in folder.rglob("*") if p.is_file())
    if not kinds:
        return "it is empty"
    return "it holds " + ", ".join(f"{count} {kind}" for kind, count in kinds.most_common(4))
