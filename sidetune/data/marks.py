"""What a file of annotations says, before it is held against the pictures: marks on pages, and what is to be said."""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from sidetune.data.names import printable
from sidetune.data.outlines import Box, Outline
from sidetune.data.turning import Size
from sidetune.errors import DataError


@dataclass(frozen=True, kw_only=True, slots=True)
class Mark:
    """One object as it is written: finite numbers, but the box may be empty, or outside of the picture."""

    name: str
    """Its class."""
    box: Box | None
    """None: the one around the outline."""
    outline: Outline | None = None
    aside: bool = False
    place: str
    """Where it stands, for messages."""


@dataclass(frozen=True, kw_only=True)
class Page:
    image: Path
    marks: Sequence[Mark]
    size: Size | None = None
    """Of the picture as the file says, if it does."""
    in_fractions: bool = False
    """Whether places are fractions of the picture's sides."""


@dataclass(kw_only=True)
class Notes:
    """What was met, by kind: how often, and where first."""

    seen: dict[str, tuple[int, str]] = field(default_factory=dict)
    skip_missing: bool = False
    """Whether pictures that files name and that are not there are left out."""
    left_out: list[str] = field(default_factory=list)

    def add(self, kind: str, place: object, count: int = 1) -> None:
        """`kind` is a sentence that goes on after the number."""
        before, first = self.seen.get(kind, (0, printable(place)))
        self.seen[kind] = before + count, first

    def missing(self, told: str, instead: str = "add them") -> None:
        """Pictures are not there, which a sentence tells. Raises DataError, unless they are to be left out."""
        if not self.skip_missing:
            raise DataError(f"{told}; {instead}, or leave them out with --skip-bad (skip_bad=True)")
        self.left_out.append(f"left out: {told}")

    def told(self) -> list[str]:
        counted = [f"{count:,} {kind}; the first: {first}" for kind, (count, first) in self.seen.items()]
        return [*counted, *self.left_out]


@dataclass(frozen=True, kw_only=True)
class Found:
    """What a reader gives."""

    pages: Mapping[str, Sequence[Page]]
    """By part, or all under WHOLE."""
    names: tuple[str, ...] | None
    """The classes as they are declared, in order; None: those that objects have, by name."""
    sayings: tuple[str, ...] = ()
    """What there is to say but what is counted."""
    left: frozenset[Path] = frozenset()
    """Pictures that stay out, and of which this is said."""


def trimmed(name: object) -> str:
    """A class as it is called: no blanks around it, é as one letter."""
    return unicodedata.normalize("NFC", printable(name)).strip()


def once(places: Sequence[tuple[Path, str]]) -> None:
    """Raises DataError where two places, each said beside its picture, give the same picture."""
    seen: dict[Path, str] = {}
    for image, place in places:
        if (before := seen.setdefault(image, place)) != place:
            raise DataError(f"{before} and {place} are both of the picture {image}; keep one of them")
