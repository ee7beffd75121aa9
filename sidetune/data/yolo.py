"""YOLO's texts, one a picture: `class x y width height`, or `class x y x y ...`, in fractions of a picture's sides."""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from sidetune.data.album import Album, below
from sidetune.data.filelist import decoded
from sidetune.data.marks import Found, Mark, Notes, Page
from sidetune.data.names import named, printable
from sidetune.data.outlines import Box, polygons_of
from sidetune.data.samples import WHOLE
from sidetune.data.yoloset import NAME_FILES, Config, config_of, names_of, pictures_of
from sidetune.errors import DataError, shown

FARTHEST = 2.0
"""Times a picture's side beyond which a number is no fraction of it, but counts pixels."""
FEW = 3
"""Boxes below which what they have in common may be chance."""
PREDICTED = "rows have a number behind the box or polygon, which is dropped; they look like a model's predictions"
POINTED = "rows have points behind the box (kpt_shape), which are dropped"


@dataclass(frozen=True, kw_only=True)
class Row:
    """A line of a text."""

    number: int
    place: str
    label: int
    box: Box | None
    corners: tuple[float, ...] = ()


def is_yolo(album: Album) -> bool:
    names = any(Path(path).name.casefold() in NAME_FILES for path in album.others)
    return config_of(album) is not None or names or any(is_label(path, album.root) for path in album.of_suffix(".txt"))


def is_label(path: Path, root: Path) -> bool:
    """Whether a text lies in a folder of labels, or holds rows."""
    folders = {name.casefold() for name in path.relative_to(root).parts[:-1]}
    return bool(folders & {"labels", "label"}) or holds_rows(path)


def holds_rows(path: Path, least: int = 5) -> bool:
    """Whether a text begins with a row of so many numbers."""
    with path.open("rb") as file:
        first = file.read(400).lstrip().partition(b"\n")[0]
    return bool(re.fullmatch(rb"\d+([ \t,]+[-+.,\deE]+){%d,}\s*" % (least - 1), first))


def read_yolo(album: Album, *, masks: bool, notes: Notes) -> Found:
    """The parts by `data.yaml` if there is one, by folders otherwise. Raises DataError with the file and the line."""
    config = config_of(album)
    pictures, sayings = pictures_of(album, config, notes)
    pages: dict[str, dict[Path, list[Row] | None]] = {}
    for part, of_part in pictures.items():
        rows = {picture: rows_of(picture, album, config, notes) for picture in of_part}
        if not any(found is not None for found in rows.values()):
            if part != "test":
                raise without_labels(part, of_part, album)
        check_fractions(rows.values())
        pages[part] = rows
    check_orphans(album, notes)
    numbers = {row.label for rows in pages.values() for found in rows.values() for row in found or ()}
    names = names_of(album, config, numbers)
    told = {
        part: [Page(image=p, in_fractions=True, marks=marks_of(found or (), names, masks)) for p, found in rows.items()]
        for part, rows in pages.items()
    }
    order = tuple(names[number] for number in sorted(names))
    return Found(pages=told, names=order, sayings=tuple(sayings))


def label_places(picture: Path, album: Album) -> list[Path]:
    """Where a picture's text may lie: with `labels` for an `images` of its path, the nearest first, or beside it."""
    inside = picture.is_relative_to(album.root)
    top = album.root if inside else Path(picture.anchor)
    parts = picture.relative_to(top).with_suffix(".txt").parts
    found = [i for i in reversed(range(len(parts) - 1)) if parts[i].casefold() == "images"]
    exchanged = [top.joinpath(*parts[:i], "labels", *parts[i + 1 :]) for i in found]
    return [*exchanged, top.joinpath(*parts)]


def label_of(picture: Path, album: Album) -> Path | None:
    for place in label_places(picture, album):
        if place.is_relative_to(album.root):
            if (found := album.other(place)) is not None:
                return found
        elif place.is_file():
            return place
    return None


def without_labels(part: str, pictures: Sequence[Path], album: Album) -> DataError:
    looked = named([*dict.fromkeys(str(place) for place in label_places(pictures[0], album))])
    called = "" if part == WHOLE else f"{part} "
    return DataError(
        f"{album.root}: no labels for any of {len(pictures):,} {called}pictures; looked for {looked} (of the first)"
    )


def check_orphans(album: Album, notes: Notes) -> None:
    """Raises DataError for texts with rows and without a picture, unless such are to be left out."""
    expected = {below(p, album.root).casefold() for picture in album.pictures for p in label_places(picture, album)}
    twice = defaultdict(list)
    for picture in album.pictures:
        if (text := label_of(picture, album)) is not None:
            twice[text].append(picture)
    if shared := next((item for item in twice.items() if len(item[1]) > 1), None):
        raise DataError(f"{shared[0]} could be of any of {named(shared[1])}; remove or rename the others")
    folders = {text.parent for text in twice}
    texts = [path for path in album.of_suffix(".txt") if path.parent in folders]
    orphans = [path for path in texts if below(path, album.root).casefold() not in expected and holds_rows(path)]
    if orphans:
        told = f"{len(orphans):,} of {len(texts):,} label files have no picture under {album.root}"
        notes.missing(f"{told}: {named([below(p, album.root) for p in orphans])}", "add the pictures, or remove them")


def rows_of(picture: Path, album: Album, config: Config | None, notes: Notes) -> list[Row] | None:
    """None of a picture without a text."""
    if (path := label_of(picture, album)) is None:
        return None
    return list(rows_in(path, config, notes))


def rows_in(path: Path, config: Config | None, notes: Notes) -> Iterator[Row]:
    for number, line in enumerate(decoded(path).lstrip("\ufeff").splitlines(), start=1):
        if not (words := line.split()) or words[0].startswith("#"):
            continue
        place = f"{path}, line {number}"
        label, values = numbers_of(words, place)
        points = config.num_point_values if config else 0
        if points:
            if len(values) != 4 + points:
                raise DataError(f"{place}: expected {5 + points} numbers (kpt_shape), got {len(words)}")
            notes.add(POINTED, place)
            values = values[:4]
        elif len(values) % 2:
            notes.add(PREDICTED, place)
            values = values[:-1]
        if wrong := next((value for value in values if abs(value) > FARTHEST), None):
            told = "expected fractions of the picture's sides; these look like pixels"
            raise DataError(f"{place}: {told}: {wrong:g} in {shown(line.strip())}")
        if len(values) == 4:
            x, y, width, height = values
            box = x - width / 2, y - height / 2, x + width / 2, y + height / 2
            yield Row(number=number, place=place, label=label, box=box)
        else:
            yield Row(number=number, place=place, label=label, box=None, corners=tuple(values))


def numbers_of(words: Sequence[str], place: str) -> tuple[int, list[float]]:
    """The class and what comes behind it. Raises DataError for too few, and for what are no finite numbers."""
    if len(words) < 5:
        told = "expected 'class x y width height', or a class and the corners of a polygon"
        raise DataError(f"{place}: {told}, got {shown(printable(' '.join(words)))}")
    try:
        label, *values = map(float, words)
    except ValueError:
        wrong = next(word for word in words if not is_number(word))
        raise DataError(f"{place}: expected numbers, got {shown(printable(wrong))}") from None
    if bad := [value for value in (label, *values) if not math.isfinite(value)]:
        raise DataError(f"{place}: {bad[0]} is no finite number; nothing tells where the object is")
    if label < 0 or label != int(label):
        raise DataError(f"{place}: expected the number of a class, 0 or more, got {words[0]}")
    return int(label), values


def is_number(word: str) -> bool:
    try:
        float(word)
    except ValueError:
        return False
    return True


def check_fractions(found: Iterable[list[Row] | None]) -> None:
    """Raises DataError where boxes are written as corners: most reach over the edge, and as corners all fit."""
    rows = [row for of_picture in found for row in of_picture or () if row.box]
    if len(rows) < FEW:
        return
    boxes = np.array([row.box for row in rows])
    x, y = boxes[:, ::2].mean(axis=1), boxes[:, 1::2].mean(axis=1)
    right, low = boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1]
    fit = (x < right) & (y < low) & (right <= 1.01) & (low <= 1.01)
    over = (boxes.min(axis=1) < -0.01) | (boxes.max(axis=1) > 1.01)
    if fit.all() and over.mean() > 0.5:
        told = f"{over.sum():,} of {len(over):,} boxes reach over the edge; they look like x1 y1 x2 y2"
        raise DataError(f"{rows[int(over.argmax())].place}: {told}, expected x y width height, x and y of the middle")


def marks_of(rows: Sequence[Row], names: dict[int, str], masks: bool) -> list[Mark]:
    marks = []
    for row in rows:
        if row.label not in names:
            known = named([f"{number} {name}" for number, name in sorted(names.items())], 20)
            raise DataError(f"{row.place}: class {row.label} has no name; known: {known}")
        outline = polygons_of([row.corners]) if row.corners else None
        box = row.box
        if row.corners:
            xs, ys = row.corners[::2], row.corners[1::2]
            box = min(xs), min(ys), max(xs), max(ys)
        marks.append(Mark(name=names[row.label], box=box, outline=outline if masks else None, place=row.place))
    return marks
