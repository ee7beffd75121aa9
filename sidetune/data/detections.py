"""Which format a folder of annotated pictures is in, and its parts: COCO JSON, Pascal VOC XML or YOLO's texts."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from sidetune.data.album import Album, below
from sidetune.data.coco import is_coco, read_coco
from sidetune.data.files import tell
from sidetune.data.folders import existing
from sidetune.data.foreign import tool_of
from sidetune.data.marks import Found, Notes, Page
from sidetune.data.names import named, numbered, printable
from sidetune.data.objects import Objects
from sidetune.data.samples import WHOLE, Kind, Samples, Splits, split_up
from sidetune.data.settle import settled
from sidetune.data.voc import is_voc, read_voc
from sidetune.data.yolo import is_yolo, read_yolo
from sidetune.errors import DataError

FORMATS: Mapping[str, tuple[Callable[[Album], bool], Callable[..., Found]]] = {
    "COCO JSON": (is_coco, read_coco),
    "Pascal VOC XML": (is_voc, read_voc),
    "YOLO's texts": (is_yolo, read_yolo),
}
"""Each with how it is known and how it is read; the first that a folder is in counts."""
ALL_ASIDE = (
    "every object is marked as crowd or difficult; taken literally nothing would be left to learn, so that all are "
    "read as objects (CVAT marks all masks as crowds that it writes as run lengths)"
)


def read_objects(
    root: str | Path,
    *,
    val: float,
    test: float,
    seed: int = 0,
    classes: tuple[str, ...] | None = None,
    masks: bool = False,
    skip_bad: bool = False,
) -> Splits:
    """`read_parts`; without parts a set is split as a table's images are."""
    parts = read_parts(root, classes, masks=masks, skip_bad=skip_bad)
    return split_up(printable(Path(root).resolve().name), parts, val=val, test=test, seed=seed)


def read_parts(
    root: str | Path, classes: tuple[str, ...] | None = None, *, masks: bool = False, skip_bad: bool = False
) -> dict[str, Samples]:
    """The parts of a folder of annotated pictures, or all of it under `WHOLE`.

    With `masks` objects have outlines. With `classes` given (a trained model's) their names decide the numbers, and
    there may be no training images. `skip_bad` leaves out pictures that are named and not there. Warns of what is cut,
    dropped, guessed or left out; raises DataError with the file and the line, or the id, for what contradicts itself,
    and where nothing would be left to learn.
    """
    root = existing(root)
    album, notes = Album.at(root), Notes(skip_missing=skip_bad)
    found = without_test(with_wanted(reader_of(album)(album, masks=masks, notes=notes)))
    check_parts(found, root, masks, needs_train=classes is None)
    names = classes or found.names or names_in(found.pages)
    check_names(found, names, root)
    objects = settled(found.pages, numbered(names), masks=masks, notes=notes, skip_bad=skip_bad)
    task: Kind = "instances" if masks else "detection"
    parts = {
        part: Samples(images=[page.image for page in pages], labels=objects[part], classes=names, task=task)
        for part, pages in found.pages.items()
    }
    said = [*found.sayings, *notes.told(), *unlisted(album, found), *shared_by(parts), *alike(names)]
    check_filled(objects, said, root)
    tell(root, said)
    return parts


def reader_of(album: Album) -> Callable[..., Found]:
    for is_it, reader in FORMATS.values():
        if is_it(album):
            return reader
    for path in album.of_suffix(".json"):
        if tool := tool_of(path):
            raise DataError(f"{path} is {tool} JSON, which is not read; export COCO, Pascal VOC or YOLO from there")
    raise DataError(f"{album.root} holds no annotations of objects; expected one of {', '.join(FORMATS)}")


def with_wanted(found: Found) -> Found:
    """Where all objects are to be kept aside, none is, which is said."""
    marks = [mark for pages in found.pages.values() for page in pages for mark in page.marks]
    if not marks or not all(mark.aside for mark in marks):
        return found
    pages = {
        part: [replace(page, marks=[replace(mark, aside=False) for mark in page.marks]) for page in of_part]
        for part, of_part in found.pages.items()
    }
    return replace(found, pages=pages, sayings=(*found.sayings, ALL_ASIDE))


def without_test(found: Found) -> Found:
    """Test images without any object, as of a competition, are left out, which is said."""
    pages = found.pages.get("test")
    if pages is None or any(page.marks for page in pages):
        return found
    told = f"none of the {len(pages):,} test pictures has an object, so that nothing is scored on them"
    return replace(
        found,
        pages={part: of_part for part, of_part in found.pages.items() if part != "test"},
        sayings=(*found.sayings, told),
        left=found.left | {page.image for page in pages},
    )


def check_parts(found: Found, root: Path, masks: bool, *, needs_train: bool) -> None:
    if not found.pages or not any(found.pages.values()):
        raise DataError(f"{root}: no picture is annotated")
    if needs_train and WHOLE not in found.pages and not found.pages.get("train"):
        raise DataError(f"{root} has annotations of {named([*found.pages])} and none of train")
    marks = [mark for pages in found.pages.values() for page in pages for mark in page.marks]
    if masks and marks and not any(mark.outline for mark in marks):
        raise DataError(f"{root}: all {len(marks):,} objects have boxes only; use --task detection (task='detection')")


def names_in(pages: Mapping[str, Sequence[Page]]) -> tuple[str, ...]:
    """The classes of the training images' objects, by name."""
    of_part = pages.get("train", pages.get(WHOLE, ()))
    return tuple(sorted({mark.name for page in of_part for mark in page.marks}))


def check_names(found: Found, names: tuple[str, ...], root: Path) -> None:
    """Raises DataError for objects of classes that are not known."""
    known = numbered(names)
    for part, pages in found.pages.items():
        strange = [mark for page in pages for mark in page.marks if mark.name not in known]
        if strange:
            told = f"{len(strange):,} objects of {part} have classes that are not known: "
            told += named(sorted({mark.name for mark in strange}))
            raise DataError(f"{root}: {told}; known: {named(names, 20)}; the first: {strange[0].place}")


def check_filled(objects: Mapping[str, Sequence[Objects]], said: Sequence[str], root: Path) -> None:
    """Raises DataError where every picture of a part would become a background."""
    for part, of_part in objects.items():
        if not any(len(found) for found in of_part):
            called = "" if part == WHOLE else f"{part} "
            why = f" ({'; '.join(map(printable, said))})" if said else ""
            raise DataError(f"{root}: none of its {len(of_part):,} {called}pictures has an object{why}")


def unlisted(album: Album, found: Found) -> list[str]:
    taken = {page.image for pages in found.pages.values() for page in pages} | found.left
    left = [below(path, album.root) for path in album.pictures if path not in taken]
    return [f"{len(left):,} pictures have no annotations that are read and stay out: {named(left)}"] if left else []


def shared_by(parts: Mapping[str, Samples]) -> list[str]:
    """Of two parts how many pictures stand in both."""
    images = {part: set(samples.images) for part, samples in parts.items()}
    pairs = [
        (one, other)
        for one in ("val", "test")
        for other in ("train", "val")
        if one != other and {one, other} <= images.keys()
    ]
    return [
        f"{len(both):,} of {len(images[one]):,} {one} pictures are {other} pictures too, so that scores measure memory"
        for one, other in pairs
        if (both := images[one] & images[other])
    ]


def alike(names: Sequence[str]) -> list[str]:
    """Classes whose names differ by capitals only."""
    groups = defaultdict(list)
    for name in names:
        groups[name.casefold()].append(name)
    pairs = [" and ".join(group) for group in groups.values() if len(group) > 1]
    return [f"classes whose names differ only by capitals stay apart: {named(pairs)}"] if pairs else []
