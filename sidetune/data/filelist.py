"""File lists in VTAB-1k's layout: text files of `path label` lines beside the images."""

from __future__ import annotations

from pathlib import Path

from sidetune.data.samples import Samples, Splits
from sidetune.errors import DataError

LISTS = ("train800.txt", "val200.txt", "train800val200.txt", "test.txt")


def read_list(path: str | Path, root: str | Path | None = None, num_classes: int | None = None) -> Samples:
    """Read lines of `path label`; paths are relative to `root`, by default the list's own folder.

    The label is the last word of a line, so paths may hold spaces. Classes are called by their numbers, 0 up to
    `num_classes` or the largest label seen. Raises DataError with the line's number for a line that does not fit.
    """
    path = Path(path)
    root = path.parent if root is None else Path(root)
    if not path.is_file():
        raise DataError(f"no file list at {path}")
    images: list[Path] = []
    labels: list[int] = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        if not line.strip():
            continue
        name, _, label = line.strip().rpartition(" ")
        if not name or not label.isdecimal():
            raise DataError(f"{path}, line {number}: expected 'path label' with a label of 0 or more, got {line!r}")
        images.append(root / name)
        labels.append(int(label))
    if not images:
        raise DataError(f"the file list {path} is empty")
    count = max(labels) + 1 if num_classes is None else num_classes
    if max(labels) >= count:
        raise DataError(f"{path} has label {max(labels)}, but the training images have only classes 0 to {count - 1}")
    return Samples(images=images, labels=labels, classes=tuple(str(i) for i in range(count)))


def read_vtab(root: str | Path, *, tune: bool = False) -> Splits:
    """A VTAB-1k folder: train800val200 / test for the final run, or, to `tune`, train800 / val200 / test."""
    root = Path(root)
    if not tune:
        train = read_list(root / "train800val200.txt")
        return Splits(
            name=root.name, train=train, val=None, test=read_list(root / "test.txt", num_classes=len(train.classes))
        )
    train = read_list(root / "train800.txt")
    val, test = (read_list(root / name, num_classes=len(train.classes)) for name in ("val200.txt", "test.txt"))
    return Splits(name=root.name, train=train, val=val, test=test)
