"""Names of files and folders as they are shown, compared and saved."""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping, Sequence
from pathlib import Path


def printable(name: object) -> str:
    """Text that can be printed and saved anywhere: bytes of a name that are no UTF-8 stand as \\xNN."""
    return str(name).encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def class_name(folder: Path) -> str:
    """A class is called like its folder; é is one letter (NFC) however the system that packed the folder wrote it."""
    return unicodedata.normalize("NFC", printable(folder.name))


def numbered(classes: Sequence[str]) -> Mapping[str, int]:
    """Classes' places by name as `class_name` writes it."""
    return {unicodedata.normalize("NFC", name): i for i, name in enumerate(classes)}


def find(root: Path, name: str) -> Path | None:
    """The file that a list means: as it is written, with backslashes for slashes, or with é as one letter or two."""
    for written in (name, name.replace("\\", "/")):
        for form in (written, unicodedata.normalize("NFC", written), unicodedata.normalize("NFD", written)):
            if (path := root / form).is_file():
                return path
    return None


def named(items: Sequence[object], most: int = 3) -> str:
    """The first of them, and how many more."""
    more = f" and {len(items) - most:,} more" if len(items) > most else ""
    return ", ".join(map(printable, items[:most])) + more
