"""Pascal VOC XML, one file a picture: VOCdevkit with its lists, `Annotations/` beside pictures, or XML among these."""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from sidetune.data.album import Album, below, forms_of, plain, shared
from sidetune.data.filelist import decoded
from sidetune.data.layout import PARTS
from sidetune.data.marks import Found, Mark, Notes, Page, once, trimmed
from sidetune.data.names import named, printable
from sidetune.data.outlines import Box, Polygons, polygons_of
from sidetune.data.samples import WHOLE
from sidetune.data.turning import Size
from sidetune.data.xmltree import Node, read_xml
from sidetune.errors import DataError, shown

CORNERS = ("xmin", "ymin", "xmax", "ymax")
ROTATED = ("cx", "cy", "w", "h", "angle")
SWAPPED = "boxes have their corners the wrong way round (xmin above xmax, or ymin above ymax), which are swapped back"
RENAMED = "pictures are found by <filename>, for none is called like the XML"
STRANGE = "XML files are no annotations of a picture and are passed over"
UNLABELLED = "pictures are named in lists and have no XML, so that nothing is known of them; they stay out"
UNLISTED = "annotated pictures are in no list and stay out"
CLASS_LINE = re.compile(r"(.*\S)\s+(-1|0|1)")
"""What VOC's lists of one class have after the name."""


@dataclass(frozen=True, kw_only=True)
class Sheet:
    """One XML and its picture."""

    path: Path
    image: Path | None
    """None where it is not there."""
    root: Node


def is_voc(album: Album) -> bool:
    return any(is_annotation(path) for path in album.of_suffix(".xml"))


def is_annotation(path: Path) -> bool:
    """By its beginning, also in UTF-16."""
    with path.open("rb") as file:
        return b"<annotation" in file.read(2048).replace(b"\0", b"")


def read_voc(album: Album, *, masks: bool, notes: Notes) -> Found:
    """The parts by VOC's lists if there are some, by folders otherwise. Whether places are counted from 0 or 1 is
    decided over all files. Raises DataError with the file and the line."""
    files = album.of_suffix(".xml")
    sheets = [sheet for path in files if (sheet := sheet_of(path, album, notes))]
    missing = [sheet.path for sheet in sheets if sheet.image is None]
    once([(sheet.image, str(sheet.path)) for sheet in sheets if sheet.image])
    lists = lists_of(album)
    if missing and not lists:
        told = f"{len(missing):,} of {len(sheets):,} XML files have no picture under {album.root}"
        notes.missing(f"{told}: {named([below(path, album.root) for path in missing])}", "add them, or remove the XML")
    there = [sheet for sheet in sheets if sheet.image]
    parts = listed(lists, sheets, album, notes) if lists else by_folder(there, album)
    first = first_of(sheets)
    pages = {
        part: [page_of(sheet, first, masks, notes) for sheet in of_part] for part, of_part in parts.items() if of_part
    }
    sayings = (
        () if first else ("counted from 0: there are corners below 1, so that all boxes are taken as counted from 0",)
    )
    taken = {page.image for of_part in pages.values() for page in of_part}
    return Found(pages=pages, names=None, sayings=sayings, left=frozenset(s.image for s in sheets if s.image) - taken)


def sheet_of(path: Path, album: Album, notes: Notes) -> Sheet | None:
    """None, with a note, for XML of something else."""
    if not is_annotation(path) and plain(path.stem).casefold() not in album.by_stem:
        notes.add(STRANGE, path)
        return None
    root = read_xml(path)
    if root.tag == "annotations":
        raise DataError(f"{path} is CVAT's own XML, which is not read; export COCO, Pascal VOC or YOLO from there")
    if root.tag != "annotation":
        notes.add(STRANGE, path)
        return None
    return Sheet(path=path, image=picture_of(path, root.said("filename"), album, notes), root=root)


def picture_of(path: Path, called: str, album: Album, notes: Notes) -> Path | None:
    """The picture of the own stem, of several that of <filename>, then the nearest; if none has it, by <filename>."""
    found = album.by_stem.get(plain(path.stem).casefold(), ())
    if found:
        names = {plain(Path(form).name) for form in forms_of(called)}
        found = [picture for picture in found if plain(picture.name) in names] or found
        nearest = max(nearness(path, picture, album) for picture in found)
        found = [picture for picture in found if nearness(path, picture, album) == nearest]
        if len(found) > 1:
            told = named([below(picture, album.root) for picture in found])
            raise DataError(f"{path} could be of any of {told}; remove or rename the others")
        return found[0]
    if not called:
        return None
    bases = album.within([path.parent, album.root])
    picture = album.find(called, bases) or album.guess(called, bases)
    if picture is not None:
        notes.add(RENAMED, f"{below(path, album.root)} -> {below(picture, album.root)}")
    return picture


def nearness(path: Path, picture: Path, album: Album) -> tuple[bool, int, int, bool]:
    ours, theirs = (p.relative_to(album.root).parts[:-1] for p in (path, picture))
    same = plain(path.stem) == plain(picture.stem)
    return ours == theirs, shared(reversed(ours), reversed(theirs)), shared(ours, theirs), same


def by_folder(sheets: Sequence[Sheet], album: Album) -> dict[str, list[Sheet]]:
    parts = defaultdict(list)
    for sheet in sheets:
        parts[album.part(sheet.path) or (sheet.image and album.part(sheet.image)) or WHOLE].append(sheet)
    if len(parts) > 1 and WHOLE in parts:
        told = f"{len(parts[WHOLE]):,} XML files lie in no part, though there are {named(sorted({*parts} - {WHOLE}))}"
        raise DataError(f"{album.root}: {told}; the first: {parts[WHOLE][0].path}")
    return dict(parts)


def lists_of(album: Album) -> dict[str, list[Path]]:
    """By part VOC's lists, `ImageSets/Main/train.txt`; `trainval.txt`, or one of another name, where there is no
    `train.txt`."""
    mains = sorted({path.parent for path in album.of_suffix(".txt") if is_main(path.parent)})
    found = defaultdict(list)
    for main in mains:
        here = {path.stem.casefold(): path for path in album.of_suffix(".txt") if path.parent == main}
        parts = {part: here[name] for part, names in PARTS.items() for name in names if name in here}
        if "train" not in parts and "trainval" in here:
            parts = {"train": here["trainval"]} | {k: v for k, v in parts.items() if k == "test"}
        if not parts and len(here) == 1:
            parts = {WHOLE: next(iter(here.values()))}
        for part, path in parts.items():
            found[part].append(path)
    if WHOLE in found and len(found) > 1:
        found["train"] += found.pop(WHOLE)
    return dict(found)


def is_main(folder: Path) -> bool:
    """ImageSets/Main, or ImageSets alone."""
    return set_folder(folder).name.casefold() == "imagesets"


def set_folder(folder: Path) -> Path:
    return folder.parent if folder.name.casefold() == "main" else folder


def listed(
    lists: Mapping[str, Sequence[Path]], sheets: Sequence[Sheet], album: Album, notes: Notes
) -> dict[str, list[Sheet]]:
    """By part the files that the lists name, each list those of its own year. Raises DataError for missing pictures."""
    parts: dict[str, list[Sheet]] = {part: [] for part in lists}
    used: set[Path] = set()
    for part, paths in lists.items():
        for path in paths:
            top = set_folder(path.parent).parent
            ours = {plain(s.path.stem): s for s in sheets if s.path.is_relative_to(top)}
            pictures = {plain(p.stem) for p in album.under(top)}
            missing = []
            for number, stem in lines_of(path, ours.keys() | pictures):
                sheet = ours.get(stem)
                if sheet is None and stem in pictures:
                    notes.add(UNLABELLED, f"{path}, line {number} ({printable(stem)})")
                elif sheet is None or sheet.image is None:
                    missing.append(f"line {number} ({printable(stem)})")
                else:
                    parts[part].append(sheet)
                    used.add(sheet.path)
            if missing:
                notes.missing(f"{path} names {len(missing):,} pictures that are not under {top}: {named(missing)}")
    for sheet in sheets:
        if sheet.path not in used and sheet.image:
            notes.add(UNLISTED, below(sheet.path, album.root))
    return parts


def lines_of(path: Path, known: set[str]) -> list[tuple[int, str]]:
    """The stems that a list names, a line each, with their lines."""
    found: dict[str, int] = {}
    for number, line in enumerate(decoded(path).lstrip("\ufeff").splitlines(), start=1):
        if not (name := plain(line.strip())):
            continue
        if (
            name not in known
            and (flagged := CLASS_LINE.fullmatch(name))
            and Path(flagged[1]).stem in {flagged[1], *known}
        ):
            name = flagged[1]
        if name not in known:
            name = Path(forms_of(name)[-1]).name
            name = name if name in known else Path(name).stem
        found.setdefault(name, number)
    return [(number, name) for name, number in found.items()]


def first_of(sheets: Sequence[Sheet]) -> int:
    """What the first column and row are called: 1 as in VOC, but 0 where some corner lies there."""
    corners = [
        value
        for sheet in sheets
        for found in sheet.root.all("object")
        if (node := found.first("bndbox")) is not None
        for value in numbers_of(node, CORNERS, sheet.path)[:2]
    ]
    return 0 if any(0 <= value < 1 for value in corners) else 1


def page_of(sheet: Sheet, first: int, masks: bool, notes: Notes) -> Page:
    marks = [mark_of(node, sheet, first, masks, notes) for node in sheet.root.all("object")]
    assert sheet.image is not None
    return Page(image=sheet.image, size=size_of(sheet), marks=marks)


def size_of(sheet: Sheet) -> Size | None:
    """None where the file does not say it, or says 0."""
    node = sheet.root.first("size")
    if node is None or not node.said("height") or not node.said("width"):
        return None
    height, width = numbers_of(node, ("height", "width"), sheet.path)
    return (int(height), int(width)) if height > 0 and width > 0 else None


def numbers_of(node: Node, tags: Sequence[str], path: Path) -> list[float]:
    """What stands under these tags. Raises DataError with the line for what are no finite numbers."""
    values = []
    for tag in tags:
        found = node.first(tag)
        line = found.line if found else node.line
        try:
            values.append(float(node.said(tag)))
        except ValueError:
            raise DataError(f"{path}, line {line}: expected a number in <{tag}>, got {shown(node.said(tag))}") from None
        if not math.isfinite(values[-1]):
            raise DataError(f"{path}, line {line}: <{tag}> is {values[-1]}; nothing tells where the object is")
    return values


def mark_of(node: Node, sheet: Sheet, first: int, masks: bool, notes: Notes) -> Mark:
    place = f"{sheet.path}, line {node.line}"
    if not (name := trimmed(node.said("name"))):
        raise DataError(f"{place}: an object without <name>")
    box = box_of(node, sheet.path, first, place, notes)
    outline = outline_of(node, sheet.path) if masks or box is None else None
    if outline is not None:
        if box is None:
            box = counted_from(first, outline.box())
        outline = outline.moved(-first / 2)  # corners are pixels, and these have their middles half a pixel further
    return Mark(name=name, box=box, outline=outline, aside=is_difficult(node), place=place)


def box_of(node: Node, path: Path, first: int, place: str, notes: Notes) -> Box | None:
    if (corners := node.first("bndbox")) is None:
        return None
    x1, y1, x2, y2 = numbers_of(corners, CORNERS, path)
    if x1 > x2 or y1 > y2:
        notes.add(SWAPPED, place)
    return counted_from(first, (min(x1, x2), min(y1, y2), max(x1, x2), max(y1, y2)))


def counted_from(first: int, box: Box) -> Box:
    """Half-open edges of corners, which belong to the box where they are counted from 1."""
    return box[0] - first, box[1] - first, box[2], box[3]


def is_difficult(node: Node) -> bool:
    return node.said("difficult").casefold() in ("1", "1.0", "true", "yes")


def outline_of(node: Node, path: Path) -> Polygons | None:
    """From <polygon> with x1, y1, x2, y2 ... or with points, or from roLabelImg's turned box."""
    rings = []
    for polygon in node.all("polygon"):
        points = [*polygon.all("pt"), *polygon.all("point")]
        if points:
            rings.append([value for point in points for value in numbers_of(point, ("x", "y"), path)])
        else:
            tags = {int(found[1]) for child in polygon.children if (found := re.fullmatch(r"x(\d+)", child.tag))}
            rings.append([v for i in sorted(tags) for v in numbers_of(polygon, (f"x{i}", f"y{i}"), path)])
    if (turned := node.first("robndbox")) is not None:
        rings.append(corners_of(*numbers_of(turned, ROTATED, path)))
    return polygons_of(rings)


def corners_of(x: float, y: float, width: float, height: float, angle: float) -> list[float]:
    """Of a box turned about its middle by so many radians."""
    cosine, sine = math.cos(angle), math.sin(angle)
    sides = [(u * width / 2, v * height / 2) for u, v in ((-1, -1), (1, -1), (1, 1), (-1, 1))]
    return [value for u, v in sides for value in (x + u * cosine - v * sine, y + u * sine + v * cosine)]
