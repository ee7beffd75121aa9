"""What a user names, a folder, file lists or a set that comes with the library, as samples to train or score on."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from sidetune.data.boxlayout import has_objects
from sidetune.data.detections import read_objects, read_parts
from sidetune.data.filelist import read_vtab
from sidetune.data.folders import TEST, VAL, read_folder, read_splits
from sidetune.data.forms import form_of
from sidetune.data.layout import Layout, part_in, part_of, parts_of
from sidetune.data.named import NAMED
from sidetune.data.names import printable
from sidetune.data.reading import Reading
from sidetune.data.repeats import warn_of_repeats
from sidetune.data.samples import WHOLE, Kind, Samples, Splits, split_up
from sidetune.data.segments import read_part, read_segments, read_whole
from sidetune.data.table import PARTS, TABLE, has_table, read_table, read_tables
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
    """A data set by name, an image folder, one of pictures with masks or with boxes of objects, or one with VTAB-1k's
    file lists or with tables (`labels.csv`).

    In VTAB-1k's form the training images are the 800 and the 200 together, as in the papers' final runs, and nothing
    is left to validate on; with `tune` the 200 are kept apart. `layout` and `classes` are for folders, see
    `read_splits`; `task` is for tables whose columns could be for several, and for folders that hold more than one of
    these; `reading` says of files what they do not say themselves; `skip_bad` leaves out those that lists, tables and
    annotations name and that are not there, and pictures without a mask.

    Warns (DataWarning) of what is passed over and of pictures that stand in several places. Raises DataError for what
    is not there or not as it should be.
    """
    if is_named(source):
        return NAMED[str(source)](tune=tune)
    path = Path(source)
    if not path.exists():
        raise DataError(f"no folder at {source}, and no data set of that name; known names: {', '.join(NAMED)}")
    form = form_of(path, task, layout)
    permit(reading)
    if form == "table":
        splits = read_tables(path, task=task, classes=classes, val=VAL, test=TEST, seed=seed, skip_missing=skip_bad)
    elif form == "masks":
        splits = read_segments(path, val=VAL, test=TEST, seed=seed, classes=classes, skip_bad=skip_bad)
    elif form == "boxes":
        splits = read_objects(path, val=VAL, test=TEST, seed=seed, classes=classes, skip_bad=skip_bad)
    elif form == "lists":
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
    """What to train on and, where the source has several parts, to validate on; a folder of classes or of pictures
    with masks or boxes, or one table, is taken whole."""
    path = Path(source)
    form = None if is_named(source) or not path.is_dir() else form_of(path, task)
    whole: Samples | None = None
    if form == "table" and is_one_table(path):
        return read_table(path / TABLE, task, classes), None
    if form == "boxes":
        parts = read_parts(path, classes)
        if (whole := parts.get(WHOLE)) is None:
            splits = split_up(name_of(path), parts, val=VAL, test=TEST, seed=0)
            warn_of_repeats(splits.name, splits.parts())
            return splits.train, splits.val
    elif form == "masks":
        whole = read_whole(path, classes)
    elif form == "folders" and parts_of(path, "auto", classes) is None:
        whole = read_folder(path, classes)
    if whole is not None:
        warn_of_repeats(str(source), {"train": whole})
        return whole, None
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
    folder beside train (of boxes: with its own annotations).

    Raises DataError for what is not there, ValueError for a part that there is not.
    """
    path, reading = Path(source), reading or Reading()
    form = None if is_named(source) else form_of(path, task, layout) if path.is_dir() else "folders"
    is_whole = not (split or part)
    permit(reading)
    if form == "table" and is_one_table(path) and is_whole:
        return str(source), replace(read_table(path / TABLE, task, classes), reading=reading)
    if form == "masks":
        if part and (other := read_part(path, part, classes)) is not None:
            return f"{source} ({part})", replace(other, reading=reading)
        if is_whole and (whole := read_whole(path, classes)) is not None:
            return str(source), replace(whole, reading=reading)
    if form == "folders":
        if (beside := part_in(path, part or "test", layout, classes)) is not None:
            return f"{source} ({part or 'test'})", replace(read_folder(beside, classes), reading=reading)
        if is_whole and not part_in(path, "train", layout, classes):
            return str(source), replace(read_folder(path, classes), reading=reading)
    if form == "boxes":
        parts = boxes_to_score(path, classes, part, split)
        if WHOLE in parts:
            return str(source), replace(parts[WHOLE], reading=reading)
    else:
        splits = read_data(source, tune=part == "val", layout=layout, classes=classes, reading=reading, task=task)
        parts = splits.parts()
    chosen = part or ("test" if "test" in parts else "val")
    if chosen not in parts:
        raise unknown(f"part of {source}", chosen, parts)
    return f"{source} ({chosen})", replace(parts[chosen], reading=reading)


def boxes_to_score(path: Path, classes: tuple[str, ...], part: str | None, split: bool) -> dict[str, Samples]:
    """By part, or whole; training images are not needed."""
    if part and part_of(part) is None and has_objects(path / part):
        inner = read_parts(path / part, classes)
        return {part: inner[WHOLE]} if WHOLE in inner else inner
    parts = read_parts(path, classes)
    if (WHOLE in parts and (split or part)) or ("train" in parts and "val" not in parts):
        parts = split_up(name_of(path), parts, val=VAL, test=TEST, seed=0).parts()
    warn_of_repeats(name_of(path), parts)
    return parts


def permit(reading: Reading | None) -> None:
    """Let pictures be as large as is asked for where annotations are held against them, before they are read."""
    if reading is not None and reading.max_pixels is not None:
        from sidetune.data.images import allow  # the small device has no Pillow, and asks for no size

        allow(reading.max_pixels)


def is_one_table(path: Path) -> bool:
    return has_table(path) and not (path / PARTS["train"]).is_file()


def is_named(source: str | Path) -> bool:
    return str(source) in NAMED
