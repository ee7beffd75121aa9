"""Whether a folder holds the parts of a data set, its classes, or other data sets: decided by what is inside."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from sidetune.data.files import folders_in, holds_images, images_in
from sidetune.data.names import class_name, named, numbered
from sidetune.errors import DataError

PARTS = {"train": ("train", "training"), "val": ("val", "valid", "validation"), "test": ("test", "testing")}
Layout = Literal["auto", "parts", "classes"]
SAY = "--set layout={0} (in Python: layout={0!r}; on the device: --layout {0})"


@dataclass(frozen=True, kw_only=True)
class Seen:
    """What lies in a folder, as far as its place in a data set depends on it."""

    path: Path
    num_loose: int
    """Images in the folder itself."""
    inner: tuple[Path, ...]
    """Its folders that hold images, at any depth."""

    @classmethod
    def at(cls, path: Path) -> Seen:
        inner = tuple(f for f in folders_in(path) if holds_images(f))
        return cls(path=path, num_loose=len(images_in(path)), inner=inner)

    @property
    def names(self) -> frozenset[str]:
        return frozenset(class_name(f) for f in self.inner)

    @property
    def is_empty(self) -> bool:
        return not self.num_loose and not self.inner

    def __str__(self) -> str:
        if self.inner:
            return f"{class_name(self.path)}/ holds folders ({named([class_name(f) for f in self.inner])})"
        return f"{class_name(self.path)}/ holds {self.num_loose:,} images itself"


def part_of(name: str) -> str | None:
    """The part that a folder of this name is, if it is one."""
    return next((part for part, names in PARTS.items() if name.casefold() in names), None)


def parts_of(root: Path, layout: Layout = "auto", classes: tuple[str, ...] | None = None) -> dict[str, Path] | None:
    """The folders of train, val and test under `root`; None if the folders there are classes.

    A folder called `train` is a part if it holds class folders, and a class if it and others hold images themselves;
    where `classes` are known, by which of them are there. Raises DataError where both could be meant, or parts stand
    there without `train`.
    """
    if layout == "classes":
        return None
    looks: dict[str, Seen] = {}
    others: list[Seen] = []
    for folder in folders_in(root):
        part = part_of(folder.name)
        if part is None:
            others.append(Seen.at(folder))
        elif part in looks:
            raise DataError(f"{root} has two folders for {part}: {looks[part].path.name} and {folder.name}; remove one")
        else:
            looks[part] = Seen.at(folder)
    others = [look for look in others if not look.is_empty]
    known = set(numbered(classes or ()))
    if known and known.issuperset(class_name(look.path) for look in (*looks.values(), *others)):
        return None
    if layout == "auto" and are_classes(root, looks, others):
        return None
    if "train" not in looks:
        there = named([look.path for look in looks.values()]) or "none of the folders train, val, test"
        raise DataError(f"{root} has {there} but no {root / 'train'}")
    return {part: look.path for part, look in looks.items()}


def part_in(root: Path, part: str, layout: Layout, classes: tuple[str, ...]) -> Path | None:
    """The folder of a part, or of this very name, under the root of a data set whose classes are known; None if there
    is none, or if the folders there are the classes."""
    folders = folders_in(root) if root.is_dir() else []
    known = numbered(classes)
    if layout == "classes" or all(class_name(f) in known for f in folders):
        return None
    return next((f for f in folders if f.name == part or part_of(f.name) == part), None)


def are_classes(root: Path, looks: Mapping[str, Seen], others: list[Seen]) -> bool:
    """Whether folders that could be parts by their names are classes among others. Raises DataError in doubt."""
    train = looks.get("train")
    if not looks or all(not look.inner for look in looks.values()):
        return bool(others) or not looks
    if train is None or not others:
        return False
    if not train.inner:
        raise unclear(root, list(looks.values()), others)
    has_more = any(not look.is_empty for look in looks.values() if look is not train)
    is_split = has_more or any(look.names & train.names for look in others)
    if not is_split and any(look.num_loose for look in others):
        raise unclear(root, list(looks.values()), others)
    return False


def unclear(root: Path, looks: list[Seen], others: list[Seen]) -> DataError:
    seen = "; ".join(map(str, (*looks, *others[:3])))
    return DataError(
        f"{root} could hold the parts of a data set or its classes: {seen}. Say which: {SAY.format('parts')}, or "
        f"{SAY.format('classes')}"
    )


def check_level(root: Path, found: Mapping[Path, list[Path]], right: Layout) -> None:
    """Raises DataError where the folders taken for classes, here with their images, look like data sets of their own:
    each with several folders of images and no image of its own, or with a part of a data set in it. `right` is the
    layout to name if they are classes all the same."""
    inner = {folder: {image.relative_to(folder).parts[0] for image in images} for folder, images in found.items()}
    loose = {folder for folder, images in found.items() if any(image.parent == folder for image in images)}
    whole = [f for f, names in inner.items() if f not in loose and any(part_of(n) == "train" for n in names)]
    nested = [f for f, names in inner.items() if f not in loose and len(names) > 1]
    if whole or (nested and len(nested) == sum(map(bool, found.values()))):
        first = (whole or nested)[0]
        raise DataError(
            f"the folders in {root} ({named([class_name(f) for f in found])}) would be the classes, but they hold "
            f"folders themselves ({class_name(first)}/ has {named(sorted(inner[first]))}): name one data set, such as "
            f"{first}, or say that they are classes: {SAY.format(right)}"
        )
