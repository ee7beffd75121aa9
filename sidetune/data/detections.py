"""Which format a folder of annotated pictures is in, and its parts: COCO JSON, Pascal VOC XML or YOLO's texts."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from sidetune.data.album import Album, below, part_named
from sidetune.data.coco import is_coco, read_coco
from sidetune.data.files import entries_of, folders_in, kind_of, readable, tell
from sidetune.data.folders import existing, some
from sidetune.data.foreign import looks_like_coco, tool_of
from sidetune.data.marks import WHOLE, Found, Notes, Page
from sidetune.data.names import named, numbered, printable
from sidetune.data.objects import Objects
from sidetune.data.samples import Kind, Samples, Splits, split
from sidetune.data.settle import settled
from sidetune.data.voc import is_annotation, is_voc, read_voc
from sidetune.data.yolo import holds_rows, is_yolo, read_yolo
from sidetune.data.yoloset import NAME_FILES, looks_like_config
from sidetune.errors import DataError

FORMATS: Mapping[str, tuple[Callable[[Album], bool], Callable[..., Found]]] = {
    "COCO JSON": (is_coco, read_coco),
    "Pascal VOC XML": (is_voc, read_voc),
    "YOLO's texts": (is_yolo, read_yolo),
}
"""Each with how it is known and how it is read; the first that a folder is in counts."""
LABELS = frozenset({"labels", "label"})
HOLDERS = LABELS | {"annotations", "images", "xmls", "obj_train_data", "data", "jpegimages"}
"""Folders, in lower case, in which annotations are looked for beside parts."""
DEEPEST = 4
ALL_ASIDE = (
    "every object is marked as crowd or difficult; taken literally nothing would be left to learn, so that all are "
    "read as objects (CVAT marks all masks as crowds that it writes as run lengths)"
)


def has_objects(root: Path) -> bool:
    """Whether a folder holds annotations of objects, by the names of folders and files and the beginnings of some."""
    return any(map(tells, holders(root)))


def holders(folder: Path, depth: int = 0, of_labels: bool = False) -> Iterator[Path]:
    """A folder and those below it in which annotations may lie."""
    yield folder
    of_labels = of_labels or (depth > 0 and folder.name.casefold() in LABELS)
    for inner in folders_in(folder) if depth < DEEPEST else ():
        name = inner.name.casefold()
        if of_labels or name in HOLDERS or part_named(name) or name.startswith("voc"):
            yield from holders(inner, depth + 1, of_labels)


def tells(folder: Path) -> bool:
    """Whether one of the files in a folder is of annotations of objects; of each kind the first few are looked at."""
    files = [Path(entry.path) for entry in entries_of(folder) if kind_of(entry) == "file"]
    by_suffix = defaultdict(list)
    for path in files:
        by_suffix[path.suffix.lower()].append(path)
    stems = {path.stem for path in files if path.suffix.lower() in readable()}
    return (
        any(path.name.casefold() in NAME_FILES[1:] for path in files)
        or any(looks_like_coco(path) or tool_of(path) for path in by_suffix[".json"][:20])
        or any(is_annotation(path) for path in by_suffix[".xml"][:20])
        or any(looks_like_config(path) for path in (*by_suffix[".yaml"], *by_suffix[".yml"]))
        or any(is_text(path, stems) for path in by_suffix[".txt"][:200])
    )


def is_text(path: Path, stems: set[str]) -> bool:
    """Whether a text could be YOLO's: in a folder of labels by a row, elsewhere by one beside an image of its name."""
    if LABELS & {name.casefold() for name in path.parent.parts[-DEEPEST:]}:
        return holds_rows(path, least=2)
    return path.stem in stems and holds_rows(path)


def read_objects(
    root: str | Path,
    *,
    val: float,
    test: float,
    seed: int = 0,
    classes: tuple[str, ...] | None = None,
    masks: bool = False,
) -> Splits:
    """The parts of a folder of annotated pictures; without parts it is split as a table's images are.

    With `masks` objects have outlines. With `classes` given (a trained model's) their names decide the numbers. Warns
    of what is cut, dropped, guessed or left out; raises DataError with the file and the line, or the id, for what
    contradicts itself, and where nothing would be left to learn.
    """
    root = existing(root)
    album, notes = Album.at(root), Notes()
    found = without_test(with_wanted(reader_of(album)(album, masks=masks, notes=notes)))
    check_parts(found, root, masks)
    names = classes or found.names or names_in(found.pages)
    check_names(found, names, root)
    objects = settled(found.pages, numbered(names), masks=masks, notes=notes)
    task: Kind = "instances" if masks else "detection"
    parts = {
        part: Samples(images=[page.image for page in pages], labels=objects[part], classes=names, task=task)
        for part, pages in found.pages.items()
    }
    said = [*found.sayings, *notes.told(), *unlisted(album, found), *shared_by(parts), *alike(names)]
    check_filled(objects, said, root)
    tell(root, said)
    return split_up(printable(root.resolve().name), parts, val, test, seed)


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


def check_parts(found: Found, root: Path, masks: bool) -> None:
    if not found.pages or not any(found.pages.values()):
        raise DataError(f"{root}: no picture is annotated")
    if WHOLE not in found.pages and not found.pages.get("train"):
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


def split_up(name: str, parts: Mapping[str, Samples], val: float, test: float, seed: int) -> Splits:
    if WHOLE in parts:
        rest, tested = split(parts[WHOLE], test, seed)
        train, validated = split(rest, val / (1 - test), seed)
        return Splits(name=name, train=train, val=some(validated), test=some(tested))
    train, given = parts["train"], parts.get("val")
    if given is None:
        train, off = split(train, val, seed)
        given = some(off)
    return Splits(name=name, train=train, val=given, test=parts.get("test"))
