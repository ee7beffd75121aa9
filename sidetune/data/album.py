"""The pictures below a folder, found by what files of annotations call them."""

from __future__ import annotations

import posixpath
import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from urllib.parse import unquote, urlsplit

from sidetune.data.files import Finder
from sidetune.data.layout import part_of
from sidetune.data.names import named, printable
from sidetune.errors import DataError

MASKS = ("segmentationclass", "segmentationobject", "trimaps")
"""Folders, in lower case, of masks, which bear their pictures' names."""


@dataclass(frozen=True, kw_only=True)
class Album:
    root: Path
    pictures: Sequence[Path]
    others: Mapping[str, Path]
    """Files that are no pictures, by their path below root."""
    folded: Mapping[str, Path]
    """The same by their path in lower case."""
    by_path: Mapping[str, Path]
    by_name: Mapping[str, Sequence[Path]]
    by_stem: Mapping[str, Sequence[Path]]
    """By name without extension, in lower case."""

    @classmethod
    def at(cls, root: Path) -> Album:
        finder = Finder()
        pictures = [p for p in finder.find([root])[root] if not is_mask(p.relative_to(root))]
        by_name, by_stem = defaultdict(list), defaultdict(list)
        for path in pictures:
            by_name[plain(path.name)].append(path)
            by_stem[plain(path.stem).casefold()].append(path)
        return cls(
            root=root,
            pictures=pictures,
            others={below(p, root): p for p in sorted(finder.others)},
            folded={below(p, root).casefold(): p for p in sorted(finder.others)},
            by_path={below(p, root): p for p in pictures},
            by_name=dict(by_name),
            by_stem=dict(by_stem),
        )

    def of_suffix(self, *suffixes: str) -> list[Path]:
        """The other files that have one of these extensions."""
        return [path for path in self.others.values() if path.suffix.lower() in suffixes]

    def other(self, path: Path) -> Path | None:
        """The other file at a path, be it in other capitals."""
        place = below(path, self.root)
        return self.others.get(place) or self.folded.get(place.casefold())

    def within(self, bases: Iterable[Path]) -> list[str]:
        """Those folders that lie below root, by their path from there, as `find` and `guess` take them."""
        return list(dict.fromkeys(below(base, self.root) for base in bases if base.is_relative_to(self.root)))

    def under(self, folder: Path) -> list[Path]:
        return [path for path in self.pictures if path.is_relative_to(folder)]

    def find(self, name: str, bases: Sequence[str]) -> Path | None:
        """The picture that is called so: by its path from one of the bases, as it is written, then with what %XX
        stands for; where no path leads to one, the picture of that name below root which shares most of the path.

        Raises DataError where several do.
        """
        forms = forms_of(name)
        for form in forms:
            for base in bases:
                if (path := self.by_path.get(posixpath.normpath(posixpath.join(base, form.lstrip("/"))))) is not None:
                    return path
        for form in forms:
            parts = PurePosixPath(form).parts
            if parts and (found := self.by_name.get(parts[-1])):
                return self.nearest(name, found, parts[:-1], bases)
        return None

    def guess(self, name: str, bases: Sequence[str]) -> Path | None:
        """The one picture that is called so but for its extension and capitals."""
        for form in forms_of(name):
            parts = PurePosixPath(form).parts
            for stem in (PurePosixPath(form).stem, PurePosixPath(form).name):
                if parts and (found := self.by_stem.get(stem.casefold())):
                    same = [path for path in found if plain(path.name).casefold() == parts[-1].casefold()]
                    return self.nearest(name, same or found, parts[:-1], bases)
        return None

    def nearest(self, name: str, found: Sequence[Path], folders: Sequence[str], bases: Sequence[str]) -> Path:
        """Of several pictures the one whose folders end as these do, or that lies below the first of the bases."""
        if len(found) == 1:
            return found[0]

        def nearness(path: Path) -> tuple[int, int]:
            own = PurePosixPath(below(path.parent, self.root)).parts
            first = next(
                (i for i, base in enumerate(bases) if base and own[: base.count("/") + 1] == (*base.split("/"),)), 99
            )
            return shared(reversed(own), reversed(folders)), -first

        best = max(map(nearness, found))
        if len(nearer := [path for path in found if nearness(path) == best]) > 1:
            told = named([below(path, self.root) for path in nearer])
            raise DataError(f"{printable(name)} could be any of {told} in {self.root}; remove or rename the others")
        return nearer[0]

    def part(self, path: Path) -> str | None:
        """The part of a data set that a file lies in, by the names of folders."""
        folders = path.relative_to(self.root).parts[:-1] if path.is_relative_to(self.root) else ()
        return next((part for folder in folders if (part := part_named(folder))), None)


def plain(name: object) -> str:
    """A name as it is compared: é is one letter."""
    return unicodedata.normalize("NFC", str(name))


def below(path: Path, root: Path) -> str:
    """A path from root, as text; empty for root itself."""
    text = plain(path.relative_to(root).as_posix())
    return "" if text == "." else text


def forms_of(name: str) -> list[str]:
    """A path as it is written, with slashes for backslashes, without the server's name, and with %XX resolved."""
    written = plain(name.strip())
    forms = [written, written.replace("\\", "/")]
    forms += [urlsplit(forms[1]).path] if "://" in forms[1] else []
    forms += [plain(unquote(forms[-1]))]
    return list(dict.fromkeys(forms))


def part_named(folder: str) -> str | None:
    """The part that a folder is called by, also with a year, train2017, or as CVAT does, obj_train_data."""
    return part_of(re.sub(r"^obj_(.+)_data$", r"\1", re.sub(r"[-_ ]?\d{0,4}$", "", folder).casefold()))


def is_mask(path: Path) -> bool:
    return any(folder.casefold().startswith(MASKS) for folder in path.parts[:-1])


def shared(first: Iterable[str], second: Iterable[str]) -> int:
    """How many are the same from the beginning."""
    count = 0
    for one, other in zip(first, second, strict=False):
        if one != other:
            break
        count += 1
    return count
