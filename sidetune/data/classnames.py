"""Files beside masks that say which value or colour is which class: labelmap.txt, objectInfo150.txt, classes.txt."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sidetune.data.filelist import decoded
from sidetune.data.layout import part_of
from sidetune.data.names import named
from sidetune.errors import DataError

COLOUR = re.compile(r"(?P<name>.+?):\s*(?P<rgb>\d{1,3}\s*,\s*\d{1,3}\s*,\s*\d{1,3})\s*(:.*)?")
NO_CLASS = frozenset({"void", "ignore", "ignored"})
"""Names, in lower case, that label maps give to what is not scored."""


@dataclass(frozen=True, kw_only=True)
class Named:
    """What a file says."""

    path: Path
    names: tuple[str, ...]
    """Of the classes, in order."""
    values: tuple[int, ...]
    """Of each class its value, where masks have one channel."""
    colours: tuple[int, ...] = ()
    """Of each class its colour, 0xrrggbb, where the file has colours."""
    ignored: tuple[int, ...] = ()
    """Values, or colours where there are some, that the file says are no class."""

    def __post_init__(self) -> None:
        if not self.names:
            raise DataError(f"{self.path} names no class")
        kinds: dict[str, tuple[Any, ...]] = {
            "the class": self.names,
            "the number": self.values,
            "the colour": self.colours,
        }
        for what, items in kinds.items():
            if twice := sorted({item for item in items if items.count(item) > 1}):
                shown = [f"#{item:06x}" if what == "the colour" else item for item in twice]
                raise DataError(f"{self.path} has {what} {named(shown)} more than once")


def find_names(root: Path) -> Named | None:
    """The names beside masks: in the folder of the set, also where `root` is one of its parts."""
    for folder in (root, root.resolve().parent) if part_of(root.resolve().name) else (root,):
        files = {path.name.casefold(): path for path in sorted(folder.iterdir()) if path.is_file()}
        for name, read in READERS.items():
            if name in files:
                return read(files[name])
    return None


def read_labelmap(path: Path) -> Named:
    """CVAT's `name:r,g,b:parts:actions`, a line a class."""
    rows: list[tuple[str, int]] = []
    for number, line in lines_of(path):
        found = COLOUR.fullmatch(line)
        colour = [int(part) for part in found["rgb"].split(",")] if found else []
        if found is None or max(colour) > 255:
            raise DataError(f"{path}, line {number}: expected 'name:red,green,blue::' with values to 255, got {line!r}")
        rows.append((found["name"].strip(), colour[0] << 16 | colour[1] << 8 | colour[2]))
    kept = [(i, name, colour) for i, (name, colour) in enumerate(rows) if name.casefold() not in NO_CLASS]
    return Named(
        path=path,
        names=tuple(name for _, name, _ in kept),
        values=tuple(i for i, _, _ in kept),
        colours=tuple(colour for _, _, colour in kept),
        ignored=tuple(colour for name, colour in rows if name.casefold() in NO_CLASS),
    )


def read_object_info(path: Path) -> Named:
    """ADE20K's table; its numbers begin at 1, and 0 is what nobody labelled."""
    (_, heading), *rows = lines_of(path) or [(1, "")]
    columns = [word.strip().casefold() for word in heading.split("\t")]
    if not {"idx", "name"} <= set(columns):
        raise DataError(f"{path}, line 1: expected columns Idx and Name, with tabs between, got {heading[:100]!r}")
    idx, name = columns.index("idx"), columns.index("name")
    names, values = [], []
    for number, row in rows:
        cells = [cell.strip() for cell in row.split("\t")]
        if len(cells) <= max(idx, name) or not cells[idx].isdecimal():
            raise DataError(f"{path}, line {number}: expected a number under Idx and a name under Name, got {row!r}")
        values.append(int(cells[idx]))
        names.append(cells[name])
    return Named(path=path, names=tuple(names), values=tuple(values), ignored=() if 0 in values else (0,))


def read_classes(path: Path) -> Named:
    """A name a line; the first is that of the value 0."""
    lines = decoded(path).rstrip().splitlines()
    if empty := [i for i, line in enumerate(lines, start=1) if not line.strip()]:
        raise DataError(f"{path}, line {empty[0]}: no name, but further classes follow; a line's place is its value")
    names = tuple(line.strip() for line in lines)
    return Named(path=path, names=names, values=tuple(range(len(names))))


def lines_of(path: Path) -> list[tuple[int, str]]:
    """Lines that say something, each with its number."""
    lines = enumerate(decoded(path).splitlines(), start=1)
    return [(number, line.strip("\r\n ")) for number, line in lines if line.strip() and not line.startswith("#")]


READERS: Mapping[str, Callable[[Path], Named]] = {
    "labelmap.txt": read_labelmap,
    "objectinfo150.txt": read_object_info,
    "classes.txt": read_classes,
}
"""By file name in lower case; the first that is there counts."""
