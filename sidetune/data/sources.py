"""What a user names, a folder, file lists or a set that comes with the library, as samples to train or score on."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from sidetune.data.filelist import LISTS, read_vtab
from sidetune.data.folders import TEST, VAL, read_folder, read_splits
from sidetune.data.layout import Layout, part_in, parts_of
from sidetune.data.named import NAMED
from sidetune.data.names import printable
from sidetune.data.reading import Reading
from sidetune.data.repeats import warn_of_repeats
from sidetune.data.samples import Kind, Samples, Splits
from sidetune.data.segments import has_masks, read_part, read_segments, read_whole
from sidetune.data.table import PARTS, WHOLE, has_table, read_table, read_tables
from sidetune.errors import DataError, unknown


def read_data(
    source: str | Path,
    *,
    tune: bool = False,
    seed: int = 0,
    layout: Layout = "auto",
    classes: tuple[str, ...] | None = None,
    reading: Reading | None = None,
    skip_bad: bool = False,
    task: Kind | None = None,
) -> Splits:
    """A data set by name, an image folder, one of pictures with masks, or one with VTAB-1k's file lists or with tables
    (`labels.csv`).

    In VTAB-1k's form the training images are the 800 and the 200 together, as in the papers' final runs, and nothing
    is left to validate on; with `tune` the 200 are kept apart. `layout` and `classes` are for folders, see
    `read_splits`; `task` is for tables whose columns could be for several; `reading` says of files what they do not say
    themselves; `skip_bad` leaves out those that lists and tables name and that are not there, and pictures without a
    mask.

    Warns (DataWarning) of what is passed over and of pictures that stand in several places. Raises DataError for what
    is not there or not as it should be.
    """
    if is_named(source):
        return NAMED[str(source)](tune=tune)
    path = Path(source)
    if not path.exists():
        raise DataError(f"no folder at {source}, and no data set of that name; known names: {', '.join(NAMED)}")
    if has_table(path) and task != "segmentation":
        splits = read_tables(path, task=task, classes=classes, val=VAL, test=TEST, seed=seed, skip_missing=skip_bad)
    elif takes_masks(path, task, layout):
        splits = read_segments(path, val=VAL, test=TEST, seed=seed, classes=classes, skip_bad=skip_bad)
    elif task not in (None, "classification"):
        raise DataError(f"{source} has no {WHOLE} or {PARTS['train']}; {task} needs a table of images and numbers")
    elif has_lists(path):
        splits = read_vtab(path, tune=tune, skip_missing=skip_bad)
    else:
        splits = read_splits(path, seed=seed, layout=layout, classes=classes)
    warn_of_repeats(splits.name, splits.parts())
    return splits if reading is None else splits.mapped(lambda samples: replace(samples, reading=reading))


@dataclass(frozen=True, kw_only=True)
class Source:
    """A data set by what it takes to read it again; see `read_data`."""

    name: str
    """A folder, or a data set's name."""
    tune: bool = False
    layout: Layout = "auto"
    reading: Reading = Reading()
    task: Kind | None = None
    skip_bad: bool = False

    def read(self) -> Splits:
        return read_data(
            self.name,
            tune=self.tune,
            layout=self.layout,
            reading=self.reading,
            skip_bad=self.skip_bad,
            task=self.task,
        )


def placed(source: str) -> str:
    """A folder as it is found from anywhere; a data set's name as it is, whatever stands here under it."""
    return source if is_named(source) or not Path(source).exists() else str(Path(source).resolve())


def name_of(source: str | Path) -> str:
    """What the data set of a source is called, before anything is read."""
    return str(source) if is_named(source) else printable(Path(source).resolve().name)


def read_training(
    source: str | Path, classes: tuple[str, ...] | None = None, task: Kind | None = None
) -> tuple[Samples, Samples | None]:
    """What to train on and, where the source has several parts, to validate on; a folder of classes or of
    pictures with masks, or one table, is taken whole."""
    path = Path(source)
    if not is_named(source) and is_one_table(path) and task != "segmentation":
        return read_table(path / WHOLE, task, classes), None
    if not is_named(source) and path.is_dir() and takes_masks(path, task):
        if (whole := read_whole(path, classes)) is not None:
            warn_of_repeats(str(source), {"train": whole})
            return whole, None
    elif not is_named(source) and path.is_dir() and not has_lists(path) and not has_table(path):
        if parts_of(Path(source), "auto", classes) is None:
            samples = read_folder(source, classes)
            warn_of_repeats(str(source), {"train": samples})
            return samples, None
    splits = read_data(source, classes=classes, task=task)
    return splits.train, splits.val


def read_scored(
    source: str | Path,
    classes: tuple[str, ...],
    *,
    part: str | None = None,
    layout: Layout = "auto",
    split: bool = False,
    reading: Reading | None = None,
    task: Kind | None = None,
) -> tuple[str, Samples]:
    """What to score a model of these classes on, and what it is called: a folder of classes, or one table, whole,
    unless it is to be `split` as for training; of a data set with parts its test images, or `part`, which may be any
    folder beside train.

    Raises DataError for what is not there, ValueError for a part that there is not.
    """
    path = Path(source)
    if not is_named(source) and is_one_table(path) and task != "segmentation" and not (split or part):
        return str(source), replace(read_table(path / WHOLE, task, classes), reading=reading or Reading())
    if not is_named(source) and path.is_dir() and takes_masks(path, task, layout):
        if part and (other := read_part(path, part, classes)) is not None:
            return f"{source} ({part})", replace(other, reading=reading or Reading())
        if not (split or part) and (whole := read_whole(path, classes)) is not None:
            return str(source), replace(whole, reading=reading or Reading())
    elif not is_named(source) and not has_lists(path) and not has_table(path):
        if (beside := part_in(path, part or "test", layout, classes)) is not None:
            return f"{source} ({part or 'test'})", read(beside, classes, reading)
        if not (split or part or part_in(path, "train", layout, classes)):
            return str(source), read(path, classes, reading)
    parts = read_data(source, tune=part == "val", layout=layout, classes=classes, reading=reading, task=task).parts()
    chosen = part or ("test" if "test" in parts else "val")
    if chosen not in parts:
        raise unknown(f"part of {source}", chosen, parts)
    return f"{source} ({chosen})", parts[chosen]


def read(folder: Path, classes: tuple[str, ...], reading: Reading | None) -> Samples:
    return replace(read_folder(folder, classes), reading=reading or Reading())


def takes_masks(path: Path, task: Kind | None, layout: Layout = "auto") -> bool:
    """Whether a folder is read as pictures with masks. Raises DataError where these are asked for and are not there."""
    if task == "segmentation" and not has_masks(path):
        raise DataError(
            f"{path} has no pictures with masks; expected images/ and masks/ in it, or in its train/, val/ and test/, "
            f"with a mask of the same name for every picture (images/1.jpg, masks/1.png)"
        )
    is_open = task is None and layout == "auto" and not has_table(path)
    return task == "segmentation" or (is_open and has_masks(path))


def is_one_table(path: Path) -> bool:
    return has_table(path) and not (path / PARTS["train"]).is_file()


def is_named(source: str | Path) -> bool:
    return str(source) in NAMED


def has_lists(folder: Path) -> bool:
    """Whether a folder is in VTAB-1k's form."""
    return any((folder / name).is_file() for name in LISTS)
