"""A YOLO set as a whole: what `data.yaml` or `classes.txt` say of classes, and which pictures are in which part."""

from __future__ import annotations

import math
import posixpath
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from sidetune.data.album import Album, below
from sidetune.data.filelist import decoded
from sidetune.data.layout import PARTS
from sidetune.data.marks import Notes, trimmed
from sidetune.data.names import named, printable
from sidetune.data.plainyaml import read_yaml
from sidetune.data.samples import WHOLE
from sidetune.errors import DataError, shown

NAME_FILES = ("classes.txt", "obj.names", "classes.names", "_darknet.labels")
"""Files of names, one a line, in lower case."""


@dataclass(frozen=True, kw_only=True)
class Config:
    """`data.yaml`, or a file of this form by another name."""

    path: Path
    said: Mapping[str, Any]

    def entries(self, part: str) -> list[str] | None:
        """Folders or lists of pictures; None where there is none."""
        found = [entry for name in PARTS[part] if (entry := self.said.get(name))]
        if not found:
            return None
        entries = found[0] if isinstance(found[0], list) else [found[0]]
        if not all(isinstance(entry, str) for entry in entries):
            raise DataError(f"{self.path}: expected a folder, or a list of them, as {part}, got {shown(found[0])}")
        return entries

    @property
    def num_point_values(self) -> int:
        """How many numbers of points follow a box, by `kpt_shape`."""
        shape = self.said.get("kpt_shape")
        try:
            return math.prod(int(side) for side in shape) if isinstance(shape, list) and shape else 0
        except ValueError:
            raise DataError(f"{self.path}: expected two numbers as kpt_shape, got {shown(shape)}") from None


def config_of(album: Album) -> Config | None:
    """Raises DataError for a file that is damaged, and for several."""
    found = []
    for path in album.of_suffix(".yaml", ".yml"):
        if path.parent != album.root or not looks_like_config(path):
            continue
        try:
            said = read_yaml(decoded(path))
        except ValueError as e:
            raise DataError(f"{path}, {e}") from None
        if isinstance(said, dict):
            found.append(Config(path=path, said=said))
    if len(found) > 1 and (usual := [config for config in found if config.path.stem == "data"]):
        return usual[0]
    if len(found) > 1:
        raise DataError(f"{album.root} has {named([config.path.name for config in found])}; keep one of them")
    return found[0] if found else None


def looks_like_config(path: Path) -> bool:
    """Whether there are names of classes, or their number, and a part."""
    text = decoded(path).lstrip("\ufeff")
    keys = {line.partition(":")[0].strip("\"' ") for line in text.splitlines() if ":" in line and line[:1].strip()}
    return bool(keys & {"names", "nc"}) and bool(keys & {"path", *(name for names in PARTS.values() for name in names)})


def names_of(album: Album, config: Config | None, numbers: set[int]) -> dict[int, str]:
    """Classes by number. Raises DataError where two files, or two numbers, contradict each other."""
    files = {path: listed_names(path) for path in album.others.values() if path.name.casefold() in NAME_FILES}
    given = {path: names for path, names in files.items() if names}
    if config is not None and (names := config_names(config)):
        given = {config.path: names} | given
    if not given:
        return {number: str(number) for number in (range(max(numbers) + 1) if numbers else ())}
    (path, first), *others = given.items()
    for other, names in others:
        if names != first:
            raise DataError(
                f"{path} and {other} name other classes: {named([*first.values()])}; {named([*names.values()])}"
            )
    check_twice(path, first)
    return first


def listed_names(path: Path) -> dict[int, str]:
    lines = [trimmed(line) for line in decoded(path).lstrip("\ufeff").splitlines()]
    return {number: name for number, name in enumerate(lines) if name}


def config_names(config: Config) -> dict[int, str]:
    given, count = config.said.get("names"), str(config.said.get("nc"))
    if isinstance(given, dict):
        if wrong := [key for key in given if not str(key).isdecimal()]:
            raise DataError(f"{config.path}: expected numbers of classes under names, got {shown(wrong[0])}")
        pairs = {int(key): name for key, name in given.items()}
    elif isinstance(given, list):
        pairs = dict(enumerate(given))
    elif given is None:
        pairs = {i: str(i) for i in range(int(count))} if count.isdecimal() else {}
    else:
        raise DataError(f"{config.path}: expected a list of names, or a mapping from numbers, got {shown(given)}")
    if empty := [number for number, name in pairs.items() if not isinstance(name, str) or not name.strip()]:
        raise DataError(f"{config.path}: class {empty[0]} has no name")
    if given is not None and count.isdecimal() and int(count) != len(pairs):
        raise DataError(f"{config.path}: nc is {count}, but there are {len(pairs)} names: {named([*pairs.values()])}")
    return {number: trimmed(name) for number, name in pairs.items()}


def check_twice(path: Path, names: Mapping[int, str]) -> None:
    seen: dict[str, int] = {}
    for number, name in names.items():
        if (before := seen.setdefault(name, number)) != number:
            raise DataError(f"{path}: the classes {before} and {number} are both called {name}; rename one of them")


def pictures_of(album: Album, config: Config | None, notes: Notes) -> tuple[dict[str, list[Path]], list[str]]:
    """The pictures by part, and what there is to say. Raises DataError where the training images are not there."""
    if config is None or not any(config.entries(part) for part in PARTS):
        return by_folder(album), []
    found: dict[str, list[Path]] = {}
    sayings = []
    for part in PARTS:
        pictures: list[Path] = []
        for entry in config.entries(part) or ():
            pictures += pictures_at(entry, album, config, notes) or ()
        if pictures:
            found[part] = list(dict.fromkeys(pictures))
        elif entries := config.entries(part):
            told = f"{config.path} names {named(entries)} as {part}, which leads to no pictures"
            if part == "train":
                raise DataError(f"{told} under {album.root}")
            sayings.append(f"{told}: there are no {part} images")
    if "train" not in found:
        raise DataError(f"{config.path} names no training images; expected a line such as 'train: train/images'")
    return found, sayings


def by_folder(album: Album) -> dict[str, list[Path]]:
    parts = defaultdict(list)
    for picture in album.pictures:
        parts[album.part(picture) or WHOLE].append(picture)
    if len(parts) > 1:
        parts.pop(WHOLE, None)
    return dict(parts)


def pictures_at(entry: str, album: Album, config: Config, notes: Notes) -> list[Path] | None:
    """Of a folder, or of a list of pictures; None if the entry leads nowhere."""
    for place in places_of(entry, album, config):
        if place.is_dir():
            return album.under(place) if place.is_relative_to(album.root) else list(Album.at(place).pictures)
        if place.is_file() and place.suffix.lower() == ".txt":
            return listed(place, album, config, notes)
    return None


def places_of(entry: str, album: Album, config: Config) -> list[Path]:
    """Where an entry may lead: as it is written if that is in the data set, else by its last parts, else outside."""
    entry = entry.replace("\\", "/")
    base = str(config.said.get("path") or "").replace("\\", "/")
    root = album.root
    written = [Path(posixpath.normpath(posixpath.join(root.as_posix(), base, entry)))]
    written += [Path(posixpath.normpath(posixpath.join(root.as_posix(), entry)))]
    parts = [part for part in PurePosixPath(entry).parts if part not in ("/", ".", "..")]
    tails = [root.joinpath(*parts[i:]) for i in range(len(parts)) if parts[i:] != ["images"] or len(parts) == 1]
    inside = [place for place in written if place.is_relative_to(root)]
    return [*inside, *tails, *(place for place in written if place not in inside)]


def listed(path: Path, album: Album, config: Config, notes: Notes) -> list[Path]:
    """The pictures that a list names, a line each. Raises DataError for those that are not there, unless they are to
    be left out."""
    bases = album.within([path.parent, config.path.parent, album.root / "images"])
    found, missing = [], []
    for number, line in enumerate(decoded(path).lstrip("\ufeff").splitlines(), start=1):
        if not line.strip():
            continue
        picture = album.find(line, bases)
        found += [picture] if picture else []
        missing += [] if picture else [f"line {number} ({printable(line.strip())})"]
    if missing:
        told = f"{len(missing):,} of {len(missing) + len(found):,} pictures that are not under {album.root}"
        notes.missing(f"{below(path, album.root) or path} names {told}: {named(missing)}")
    return found
