"""Image folders: `train/CLASS/*.jpg` beside `val/` and `test/`, or one folder of classes that is split.

Read without PyTorch and without opening an image, for the small device reads them too.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from sidetune.data.files import HEIF, UNREAD, Finder, folders_in, images_in, tell
from sidetune.data.layout import Layout, check_level, parts_of
from sidetune.data.names import class_name, named, numbered, printable
from sidetune.data.samples import Samples, Splits, some, split_off
from sidetune.errors import DataError

VAL, TEST = 0.1, 0.2
"""Shares of each class that are split off where a folder has no parts."""
Found = Mapping[Path, list[Path]]
"""Class folders with their images."""


def read_folder(root: str | Path, classes: tuple[str, ...] | None = None, layout: Layout = "auto") -> Samples:
    """The images under `root/CLASS/`, at any depth. Class names are folder names, in order.

    With `classes` given (those of the training images), labels follow them and a folder of another name is an error.
    Warns of what is passed over: folders without images, files that are none. Raises DataError if there is no class
    folder, or if the folders look like data sets rather than classes and `layout` does not say that they are classes.
    """
    root = existing(root)
    finder = Finder()
    found = finder.find(class_folders(root))
    if classes is None and layout == "auto":
        check_level(root, found, "classes")
    samples = labelled(root, found, classes)
    tell(root, finder.passed.told())
    return samples


def read_splits(
    root: str | Path,
    *,
    val: float = VAL,
    test: float = TEST,
    seed: int = 0,
    layout: Layout = "auto",
    classes: tuple[str, ...] | None = None,
) -> Splits:
    """Read `root` as train/val/test folders, or split one folder of classes by the given fractions of each class.

    Beside a `train` folder, a missing `val` is split off the training images and a missing `test` stays missing; so
    does one of pictures without classes, which can be predicted but not scored. `layout` decides where names leave open
    whether folders are parts or classes; with `classes` given (a trained model's), labels follow these. Warns of what
    is passed over; raises DataError for what cannot be used.
    """
    root = existing(root)
    parts = parts_of(root, layout, classes)
    if parts is None:
        rest, test_samples = split_off(read_folder(root, classes, layout), test, seed)
        train, val_samples = split_off(rest, val / (1 - test), seed)
        tell(root, lonely(train, val_samples))
        return Splits(name=printable(root.resolve().name), train=train, val=some(val_samples), test=some(test_samples))
    folders = {part: class_folders(folder, may_lack=part != "train") for part, folder in parts.items()}
    finder = Finder()
    found = finder.find(folder for inner in folders.values() for folder in inner)
    by_part = {part: {folder: found[folder] for folder in inner} for part, inner in folders.items()}
    if classes is None and layout == "auto":
        check_level(parts["train"], by_part["train"], "parts")
    train = labelled(parts["train"], by_part.pop("train"), classes)
    others = {part: scored(parts[part], of_part, train.classes) for part, of_part in by_part.items()}
    if (given := others.get("val")) is None:
        train, split = split_off(train, val, seed)
        tell(root, lonely(train, split))
        given = some(split)
    tell(root, finder.passed.told())
    return Splits(name=printable(root.resolve().name), train=train, val=given, test=others.get("test"))


def existing(root: str | Path) -> Path:
    root = Path(root)
    if not root.is_dir():
        raise DataError(f"no folder at {root}" if not root.exists() else f"{root} is a file; expected a folder")
    return root


def class_folders(root: Path, *, may_lack: bool = False) -> list[Path]:
    folders = folders_in(root)
    if not folders and not may_lack:
        loose = len(images_in(root))
        found = f"{loose:,} images but no class folders" if loose else "nothing"
        raise DataError(f"{root} holds {found}; expected one folder a class with its images, as in {root}/cat/1.jpg")
    return folders


def labelled(root: Path, found: Found, classes: tuple[str, ...] | None = None) -> Samples:
    """Images with the number of their folder's class; classes are the folders that hold some, unless they are given."""
    full = [folder for folder, images in found.items() if images]
    empty = [folder for folder, images in found.items() if not images]
    if classes is None:
        if unread := next((f for f in empty if holds_unread(f)), None):
            raise DataError(f"the class folder {unread} holds no images that can be read ({describe_others(unread)})")
        classes = tuple(sorted({class_name(f) for f in full}))
    places = numbered(classes)
    if strange := [class_name(f) for f in full if class_name(f) not in places]:
        raise DataError(
            f"{root} has classes that the training images do not: {named(strange)}; known: {named(classes, 20)}"
        )
    if not full:
        raise DataError(f"{root} holds no images ({describe_others(root)}); expected {root}/CLASS/1.jpg")
    notes = [f"passed over folders without images: {named([class_name(f) for f in empty])}"] if empty else []
    if twice := [name for name, n in Counter(map(class_name, full)).items() if n > 1]:
        notes.append(f"folders whose names differ only in how letters are written are one class: {named(twice)}")
    if loose := images_in(root):
        notes.append(f"passed over {len(loose):,} images beside the class folders: {named([p.name for p in loose])}")
    tell(root, notes)
    pairs = [(image, places[class_name(folder)]) for folder in full for image in found[folder]]
    return Samples(images=[image for image, _ in pairs], labels=[label for _, label in pairs], classes=classes)


def scored(root: Path, found: Found, classes: tuple[str, ...]) -> Samples | None:
    """The images of a part beside the training images; None, with a warning, of one whose folders are not classes."""
    num_images = len(images_in(root)) + sum(map(len, found.values()))
    if not num_images:
        tell(root, ["passed over, it holds no images"])
        return None
    if not {class_name(folder) for folder, images in found.items() if images} & numbered(classes).keys():
        why = f"no folder in it is one of {named(classes)}, so that nothing is scored on them"
        hint = f"`sidetune predict MODEL {printable(root)}` labels them"
        tell(root, [f"its {num_images:,} images have no labels ({why}); {hint}"])
        return None
    return labelled(root, found, classes)


def lonely(train: Samples, val: Samples) -> list[str]:
    """What to say of classes that are too small to be split."""
    counts = np.bincount(np.asarray(train.labels), minlength=len(train.classes))
    alone = [name for i, name in enumerate(train.classes) if counts[i] == 1 and i not in val.labels]
    if not alone:
        return []
    return [f"classes with a single image are trained on and not validated: {named(alone)}"]


def holds_unread(folder: Path) -> bool:
    return any(path.suffix.lower() in HEIF | UNREAD for path in folder.rglob("*"))


def describe_others(folder: Path) -> str:
    """What a folder holds instead of images, for messages."""
    kinds = Counter(p.suffix.lower() or printable(p.name) for p in folder.rglob("*") if p.is_file())
    if not kinds:
        return "it is empty"
    return "it holds " + ", ".join(f"{count} {kind}" for kind, count in kinds.most_common(4))
