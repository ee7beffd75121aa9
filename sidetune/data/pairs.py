"""Which mask belongs to which picture."""

from __future__ import annotations

import re
import unicodedata
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from sidetune.data.files import Finder
from sidetune.data.names import named
from sidetune.errors import DataError

OF_MASK = re.compile(
    r"[ _.-](masks?|labels?|seg(mentation)?|gt|label_?ids|(gtfine|gtcoarse)_labelids|annotations?)$", re.I
)
OF_PICTURE = re.compile(r"[ _.-](image|img|leftimg8bit|sat)$", re.I)
"""What tools put behind the names of masks and of pictures."""


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where the pictures and masks of a part lie."""

    pictures: Path
    masks: Path
    listed: tuple[str, ...] | None = None
    """Names of the pictures that belong to it, without extensions; None: all."""


@dataclass(frozen=True, kw_only=True)
class Pairs:
    images: list[Path]
    masks: list[Path]
    notes: list[str]
    """What there is to say."""


def pair(place: Place, *, skip_missing: bool = False) -> Pairs:
    """The pictures of a place, each with its mask: of the same name in the same folder below, or of the same but for
    what tools put behind it.

    Raises DataError for pictures without a mask, unless they are to be skipped, and where several masks fit.
    """
    finder = Finder()
    found = finder.find([place.pictures, place.masks])
    notes = finder.passed.told()
    pictures, masks = found[place.pictures], found[place.masks]
    if place.listed is not None:
        pictures, out = listed(pictures, place)
        notes += out
    taken = matched(pictures, masks, place)
    if missing := [path for path in pictures if path not in taken]:
        told = f"{len(missing):,} of {len(pictures):,} pictures have no mask in {place.masks}"
        first = named([path.relative_to(place.pictures) for path in missing])
        if not skip_missing or not taken:
            raise DataError(
                f"{told}: {first}; a picture without a mask is no background: add the masks, or move the pictures away"
            )
        notes.append(f"{told} and are left out: {first}")
    used = set(taken.values())
    over = [path for path in masks if path not in used]
    if over and place.listed is None:
        first = named([path.relative_to(place.masks) for path in over])
        notes.append(f"passed over {len(over):,} masks without a picture: {first}")
    images = [path for path in pictures if path in taken]
    return Pairs(images=images, masks=[taken[path] for path in images], notes=notes)


def matched(pictures: Sequence[Path], masks: Sequence[Path], place: Place) -> dict[Path, Path]:
    """By picture, its mask, where there is one."""
    taken: dict[Path, Path] = {}
    for of_picture, of_mask in TIERS:
        left = set(masks) - set(taken.values())
        by_key: dict[str, list[Path]] = defaultdict(list)
        for mask in masks:
            if mask in left:
                by_key[of_mask(mask.relative_to(place.masks))].append(mask)
        wanting: dict[str, list[Path]] = defaultdict(list)
        for picture in pictures:
            if picture not in taken:
                wanting[of_picture(picture.relative_to(place.pictures))].append(picture)
        for key, same in wanting.items():
            fitting = by_key.get(key, [])
            if len(fitting) > 1 or (fitting and len(same) > 1):
                what = "masks fit the picture" if len(fitting) > 1 else "pictures have the name of the mask"
                many, one = (fitting, same[0]) if len(fitting) > 1 else (same, fitting[0])
                raise DataError(f"several {what} {one}: {named(many)}; leave one of them")
            if fitting:
                taken[same[0]] = fitting[0]
    return taken


def plain(path: Path) -> str:
    return unicodedata.normalize("NFC", path.with_suffix("").as_posix())


def whole(path: Path) -> str:
    return unicodedata.normalize("NFC", path.as_posix())


def folded(path: Path) -> str:
    return plain(path).casefold()


TIERS: tuple[tuple[Callable[[Path], str], Callable[[Path], str]], ...] = (
    (plain, plain),
    (whole, plain),
    (folded, folded),
    (lambda path: folded(path), lambda path: OF_MASK.sub("", folded(path))),
    (lambda path: OF_PICTURE.sub("", folded(path)), lambda path: OF_MASK.sub("", folded(path))),
)
"""What of a picture's name and of a mask's must be the same, the plainest first; the second is a.jpg beside
a.jpg.png."""


def listed(pictures: Sequence[Path], place: Place) -> tuple[list[Path], list[str]]:
    """The pictures that a list names, in order. Raises DataError for names without a picture."""
    assert place.listed is not None
    names = {unicodedata.normalize("NFC", name) for name in place.listed}
    kept = [
        path
        for path in pictures
        if names & {plain(path.relative_to(place.pictures)), whole(path.relative_to(place.pictures))}
    ]
    there = {form(path.relative_to(place.pictures)) for path in kept for form in (plain, whole)}
    if missing := sorted(names - there):
        raise DataError(
            f"{len(missing):,} of {len(names):,} listed pictures are not in {place.pictures}: {named(missing)}"
        )
    return kept, []
