"""Tables of images and what is to be learned of them: `labels.csv`, or `train.csv` beside `val.csv` and `test.csv`.

The first column names an image below the table's folder (or its `images/`), the others are

    image,sunny,rainy       0 and 1: several labels an image       multilabel
    image,labels            names with | between, or nothing
    image,age,height        numbers                                regression
    image,species           a name                                 classification
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from sidetune.data.filelist import decoded
from sidetune.data.names import find, named, numbered, printable
from sidetune.data.samples import WHOLE, Kind, Samples, Splits, split_up
from sidetune.errors import DataError

TABLE, PARTS = "labels.csv", {"train": "train.csv", "val": "val.csv", "test": "test.csv"}
SEPARATOR = "|"
SAY = "--task {0} (in Python: task={0!r})"


@dataclass(frozen=True, kw_only=True)
class Table:
    path: Path
    columns: tuple[str, ...]
    """But the first."""
    rows: tuple[tuple[int, str, tuple[str, ...]], ...]
    """Of each: its line in the file, the image's name, the cells."""

    def at(self, line: int) -> str:
        return f"{self.path}, line {line}"


def has_table(root: Path) -> bool:
    return (root / TABLE).is_file() or (root / PARTS["train"]).is_file()


def read_tables(
    root: Path,
    *,
    task: Kind | None = None,
    classes: tuple[str, ...] | None = None,
    val: float,
    test: float,
    seed: int = 0,
    skip_missing: bool = False,
) -> Splits:
    """The parts that tables give; where there is one only, it is split as a folder of classes is.

    `task` says what the columns are where they leave it open, `classes` what a trained model's outputs are called.
    Raises DataError with the line for what cannot be understood.
    """
    name = printable(root.resolve().name)
    if not (root / PARTS["train"]).is_file():
        whole = {WHOLE: read_table(root / TABLE, task, classes, skip_missing)}
        return split_up(name, whole, val=val, test=test, seed=seed)
    train = read_table(root / PARTS["train"], task, classes, skip_missing)
    others = {
        part: read_table(root / file, train.task, train.classes, skip_missing)
        for part, file in PARTS.items()
        if part != "train" and (root / file).is_file()
    }
    return split_up(name, {"train": train, **others}, val=val, test=test, seed=seed)


def read_table(
    path: Path, task: Kind | None = None, classes: tuple[str, ...] | None = None, skip_missing: bool = False
) -> Samples:
    table = read_rows(path)
    task = task or kind_of(table)
    if task not in READERS:
        raise DataError(f"{path}: a table is for {', '.join(READERS)}, not for {task}")
    table, images = with_images(table, skip_missing)
    names, targets = READERS[task](table, classes)
    return Samples(images=images, labels=targets, classes=names, task=task)


def read_rows(path: Path) -> Table:
    text = decoded(path)
    heading = text.lstrip("\ufeff").partition("\n")[0]
    delimiter = max(",;\t", key=heading.count)
    rows = list(csv.reader(io.StringIO(text.lstrip("\ufeff")), delimiter=delimiter))
    numbered_rows = [(i, row) for i, row in enumerate(rows, start=1) if any(cell.strip() for cell in row)]
    if len(numbered_rows) < 2:
        raise DataError(f"{path} has no rows; expected a line of headings such as 'image,age', then a line an image")
    (_, first), *others = numbered_rows
    columns = tuple(cell.strip() for cell in first[1:])
    if not columns:
        raise DataError(f"{path} has one column; expected the image's name and, after a comma, what is to be learned")
    if twice := sorted({c for c in columns if columns.count(c) > 1}):
        raise DataError(f"{path} has several columns called {named(twice)}")
    for line, row in others:
        if len(row) != len(first):
            raise DataError(f"{path}, line {line}: {len(row)} cells under {len(first)} headings")
    return Table(
        path=path,
        columns=columns,
        rows=tuple((line, r[0].strip(), tuple(c.strip() for c in r[1:])) for line, r in others),
    )


def with_images(table: Table, skip_missing: bool) -> tuple[Table, list[Path]]:
    """The rows whose images are there, with these. Raises DataError for others, unless they are to be skipped."""
    root = table.path.parent
    found = [find(root, name) or find(root / "images", name) for _, name, _ in table.rows]
    missing = [row for row, path in zip(table.rows, found, strict=True) if path is None]
    if missing and not skip_missing:
        told = named([f"line {line} ({printable(name)})" for line, name, _ in missing])
        raise DataError(
            f"{table.path} names {len(missing):,} images that are not under {root}: {told}; correct the table, or "
            f"leave them out with --skip-bad (skip_bad=True)"
        )
    rows = tuple(row for row, path in zip(table.rows, found, strict=True) if path is not None)
    if not rows:
        raise DataError(f"none of the {len(table.rows):,} images that {table.path} names is under {root}")
    return replace(table, rows=rows), [path for path in found if path is not None]


def number(cell: str) -> float | None:
    """A cell's number, with a point; None for what is none."""
    try:
        value = float(cell)
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def kind_of(table: Table) -> Kind:
    """What the columns are. Raises DataError where that is open."""
    cells = [[cells[i] for _, _, cells in table.rows] for i in range(len(table.columns))]
    numbers = [[number(cell) for cell in column] for column in cells]
    if all(value is not None for column in numbers for value in column):
        values = {value for column in numbers for value in column}
        if len(table.columns) > 1:
            return "multilabel" if values <= {0, 1} else "regression"
        if all(value is not None and value == int(value) for value in values):
            raise DataError(
                f"{table.path}: the whole numbers under {table.columns[0]} could be classes or amounts; say "
                f"{SAY.format('classification')}, or {SAY.format('regression')}"
            )
        return "regression"
    if len(table.columns) == 1:
        return "multilabel" if any(SEPARATOR in cell or not cell for cell in cells[0]) else "classification"
    line, column, cell = next(
        (line, name, cell)
        for line, _, row in table.rows
        for name, cell in zip(table.columns, row, strict=True)
        if number(cell) is None
    )
    raise DataError(f"{table.at(line)}: expected a number under {column}, as in other columns, got {cell!r}")


def as_numbers(table: Table, classes: tuple[str, ...] | None) -> tuple[tuple[str, ...], Sequence[Any]]:
    order = in_order(table, classes)
    rows = []
    for line, _, cells in table.rows:
        values = [number(cells[i]) for i in order]
        if None in values:
            i = order[values.index(None)]
            raise DataError(f"{table.at(line)}: expected a number under {table.columns[i]}, got {cells[i]!r}")
        rows.append(tuple(values))
    return tuple(table.columns[i] for i in order), rows


def as_labels(table: Table, classes: tuple[str, ...] | None) -> tuple[tuple[str, ...], Sequence[Any]]:
    """Columns of 0 and 1, or one column of names."""
    cells = {cell for _, _, row in table.rows for cell in row}
    if len(table.columns) > 1 or cells <= {"0", "1"}:
        names, rows = as_numbers(table, classes)
        for (line, _, _), row in zip(table.rows, rows, strict=True):
            if wrong := [f"{name} is {value:g}" for name, value in zip(names, row, strict=True) if value not in (0, 1)]:
                raise DataError(f"{table.at(line)}: a label is 0 or 1, but {named(wrong)}")
        return names, rows
    sets = [[name for part in row[0].split(SEPARATOR) if (name := part.strip())] for _, _, row in table.rows]
    names = classes or tuple(sorted({name for labels in sets for name in labels}))
    places = numbered(names)
    rows = []
    for (line, _, _), labels in zip(table.rows, sets, strict=True):
        strange = [name for name in labels if name not in places]
        if strange:
            raise DataError(f"{table.at(line)}: unknown labels {named(strange)}; known: {named(names, 20)}")
        having = {places[name] for name in labels}
        rows.append(tuple(float(i in having) for i in range(len(names))))
    return names, rows


def as_classes(table: Table, classes: tuple[str, ...] | None) -> tuple[tuple[str, ...], Sequence[Any]]:
    if len(table.columns) > 1:
        raise DataError(f"{table.path} has {len(table.columns)} columns beside the image's; a class is in one")
    words = [(line, cells[0]) for line, _, cells in table.rows]
    if empty := [line for line, word in words if not word]:
        raise DataError(f"{table.at(empty[0])}: no class is given")
    seen = {word for _, word in words}
    by_size = all(number(word) is not None for word in seen)
    names = classes or tuple(sorted(seen, key=lambda w: (number(w) or 0.0 if by_size else 0.0, w)))
    places = numbered(names)
    for line, word in words:
        if word not in places:
            raise DataError(f"{table.at(line)}: unknown class {printable(word)}; known: {named(names, 20)}")
    return names, [places[word] for _, word in words]


def in_order(table: Table, classes: tuple[str, ...] | None) -> list[int]:
    """The columns that a trained model's outputs are called by. Raises DataError where one is not there."""
    if classes is None:
        return list(range(len(table.columns)))
    if missing := [name for name in classes if name not in table.columns]:
        raise DataError(f"{table.path} has no column {named(missing)}; it has {named(table.columns, 20)}")
    return [table.columns.index(name) for name in classes]


READERS: Mapping[Kind, Any] = {"classification": as_classes, "multilabel": as_labels, "regression": as_numbers}
