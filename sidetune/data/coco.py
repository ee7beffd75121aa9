"""COCO JSON: `annotations/instances_train2017.json`, `train/_annotations.coco.json`, or one beside the pictures."""

from __future__ import annotations

import json
import math
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from sidetune.data.album import Album, below, part_named
from sidetune.data.foreign import looks_like_coco, tool_of
from sidetune.data.marks import Found, Mark, Notes, Page, once, trimmed
from sidetune.data.names import named, printable
from sidetune.data.outlines import Box, Outline, Polygons, Runs, polygons_of, unpacked
from sidetune.data.samples import WHOLE
from sidetune.data.turning import Size
from sidetune.errors import DataError, shown

GUESSED = "pictures have another extension or other capitals than the annotations say"
FEW = 3
"""Boxes below which what they have in common may be chance."""
TWICE_LISTED = "pictures are listed twice, and have the objects of both entries"


@dataclass(frozen=True, kw_only=True)
class Sheet:
    """One JSON."""

    path: Path
    images: Mapping[object, Mapping[str, Any]]
    """By id."""
    categories: Mapping[object, Mapping[str, Any]]
    """By id, in order."""
    annotations: Sequence[Mapping[str, Any]]

    def at(self, index: int) -> str:
        """Where an annotation stands."""
        found = self.annotations[index].get("id")
        return f"{self.path}, annotation {found if found is not None else f'number {index + 1}, without id'}"

    def used(self) -> set[object]:
        """The categories that annotations have."""
        return {key_of(annotation.get("category_id")) for annotation in self.annotations}


def is_coco(album: Album) -> bool:
    return any(looks_like_coco(path) for path in album.of_suffix(".json"))


def read_coco(album: Album, *, masks: bool, notes: Notes) -> Found:
    """The parts by their files. Raises DataError with the file and the id for what contradicts itself."""
    sheets = {part: sheet_of(path) for part, path in files_of(album).items()}
    roots = {part: root_of(sheet) for part, sheet in sheets.items()}
    if any(root in sheets[part].used() for part, root in roots.items() if root is not None):
        roots = dict.fromkeys(sheets)
    sayings = []
    if left := {trimmed(sheets[part].categories[root]["name"]) for part, root in roots.items() if root is not None}:
        sayings.append(f"left out, for it only stands above the others and no object has it: category {named([*left])}")
    names = {part: names_of(sheet, roots[part]) for part, sheet in sheets.items()}
    pages = {part: pages_of(sheet, names[part], part, album, masks, notes) for part, sheet in sheets.items()}
    first = "train" if "train" in names else next(iter(names))
    return Found(pages=pages, names=tuple(names[first].values()), sayings=tuple(sayings))


def files_of(album: Album) -> dict[str, Path]:
    """By part its JSON. Raises DataError where there is none of COCO's, or several are of one part."""
    every = album.of_suffix(".json")
    found = [path for path in every if looks_like_coco(path)]
    if not found:
        tool, path = next((tool, path) for path in every if (tool := tool_of(path)))
        raise DataError(f"{path} is {tool} JSON, which is not read; export COCO, Pascal VOC or YOLO from there")
    instances = [path for path in found if path.name.startswith("instances")]
    by_part = defaultdict(list)
    for path in instances or found:
        by_part[part_of_file(path, album)].append(path)
    parts = {part: paths for part, paths in by_part.items() if part is not None} or {WHOLE: by_part[None]}
    for part, paths in parts.items():
        if len(paths) > 1:
            told = named([below(path, album.root) for path in paths])
            raise DataError(f"{album.root} has several COCO files for {part}: {told}; keep one of them")
    return {part or WHOLE: paths[0] for part, paths in parts.items()}


def part_of_file(path: Path, album: Album) -> str | None:
    """By its own name, instances_train2017.json, or by its folder's."""
    words = re.findall(r"[^\W\d_]+\d*", path.stem)
    return next((part for word in words if (part := part_named(word))), None) or album.part(path)


def sheet_of(path: Path) -> Sheet:
    try:
        data = json.loads(path.read_bytes())
    except json.JSONDecodeError as e:
        raise DataError(f"{path}, line {e.lineno}: no JSON, or a damaged one: {e.msg}") from None
    except (ValueError, RecursionError) as e:
        raise DataError(f"{path} is damaged, or no JSON: {e}") from None
    if not isinstance(data, dict):
        raise DataError(f"{path}: expected an object of images, categories and annotations, as in COCO")
    lists: dict[str, list[dict[str, Any]]] = {}
    for key in ("images", "categories", "annotations"):
        given = data.get(key, [] if key == "annotations" else None)
        if not isinstance(given, list) or not all(isinstance(entry, dict) for entry in given):
            raise DataError(f"{path}: expected a list of objects under {key!r}, as in COCO, got {shown(given)}")
        lists[key] = given
    for key, entries in (("image", lists["images"]), ("category", lists["categories"])):
        name = "file_name" if key == "image" else "name"
        for index, entry in enumerate(entries):
            if entry.get("id") is None or not str(entry.get(name) or entry.get(name) == 0 or "").strip():
                raise DataError(f"{path}: {key} number {index + 1} lacks its id or {name}: {shown(entry)}")
    return Sheet(
        path=path,
        images=by_id(path, "image", lists["images"], "file_name"),
        categories=by_id(path, "category", lists["categories"], "name"),
        annotations=lists["annotations"],
    )


def key_of(value: object) -> object:
    """An id as it is compared: "7" and 7.0 are 7."""
    if isinstance(value, str):
        return int(value) if re.fullmatch(r"0|-?[1-9]\d{0,17}", value.strip()) else value
    return int(value) if isinstance(value, float) and value.is_integer() else value


def by_id(path: Path, what: str, entries: Sequence[Mapping[str, Any]], name: str) -> dict[object, Mapping[str, Any]]:
    found: dict[object, Mapping[str, Any]] = {}
    for entry in entries:
        if not isinstance(entry["id"], int | float | str):
            raise DataError(f"{path}: the {what} {shown(entry[name])} has an id that is none: {shown(entry['id'])}")
        before = found.setdefault(key_of(entry["id"]), entry)
        if before[name] != entry[name]:
            told = f"{shown(before[name])} and {shown(entry[name])}"
            raise DataError(f"{path}: {told} share the {what} id {entry['id']}; nothing tells whose its objects are")
    return found


def root_of(sheet: Sheet) -> object | None:
    """The category that stands above all others, as Roboflow writes one, and has nothing above it."""
    for key, category in sheet.categories.items():
        others = [other for k, other in sheet.categories.items() if k != key]
        above = category.get("supercategory")
        is_top = above in (None, "", "none", category["name"])
        if others and is_top and all(other.get("supercategory") == category["name"] for other in others):
            return key
    return None


def names_of(sheet: Sheet, root: object | None) -> dict[object, str]:
    """Names of classes by id, in order of these. Raises DataError where two have the same."""
    keys = [key for key in sheet.categories if root is None or key != root]
    keys.sort(key=lambda key: (isinstance(key, str), key))
    names: dict[object, str] = {}
    for key in keys:
        name = trimmed(sheet.categories[key]["name"])
        if name in names.values():
            other = next(k for k, n in names.items() if n == name)
            raise DataError(
                f"{sheet.path}: the categories {other} and {key} are both called {name}; rename one of them"
            )
        names[key] = name
    return names


def pages_of(
    sheet: Sheet, names: Mapping[object, str], part: str, album: Album, masks: bool, notes: Notes
) -> list[Page]:
    marks = marks_of(sheet, names, masks)
    bases = album.within(bases_of(sheet.path, part, album))
    pages: dict[Path, Page] = {}
    found: list[tuple[Path, str]] = []
    missing = []
    for key, entry in sheet.images.items():
        name = str(entry["file_name"])
        if (image := album.find(name, bases)) is None:
            if (image := album.guess(name, bases)) is None:
                missing.append(name)
                continue
            notes.add(GUESSED, f"{printable(name)} -> {below(image, album.root)}")
        page = Page(image=image, size=size_of(sheet, entry), marks=marks.get(key, ()))
        found.append((image, f"the entry {printable(name)} of {sheet.path}"))
        if (before := pages.get(image)) is not None:
            notes.add(TWICE_LISTED, name)
            page = Page(image=image, size=page.size or before.size, marks=[*before.marks, *page.marks])
        pages[image] = page
    if missing:
        told = f"{len(missing):,} of {len(sheet.images):,} pictures that are not under {album.root}: {named(missing)}"
        notes.missing(f"{sheet.path} lists {told}", "add them, or take them out of the file")
    once(found)
    return list(pages.values())


def bases_of(path: Path, part: str, album: Album) -> list[Path]:
    """Where the pictures of a JSON may lie, the likeliest first."""
    folders = {folder for picture in album.pictures for folder in picture.parents if folder.is_relative_to(album.root)}
    own = sorted((f for f in folders if part_named(f.name) == part), key=lambda f: (len(f.parts), f))
    beside = [folder / name for folder in (path.parent, path.parent.parent) for name in ("", "images", "data")]
    return [*beside[:3], *own, *beside[3:], album.root, album.root / "images"]


def size_of(sheet: Sheet, entry: Mapping[str, Any]) -> Size | None:
    """None where the entry does not say it, or says 0 or less."""
    given = [entry.get(side) for side in ("height", "width")]
    if any(value is None or value == "" for value in given):
        return None
    height, width = numbers_of(given, f"{sheet.path}, image {entry['id']}", "height and width")
    return (int(height), int(width)) if height > 0 and width > 0 else None


def numbers_of(values: object, place: str, what: str) -> list[float]:
    """Finite numbers. Raises DataError with the place for others."""
    if not isinstance(values, list):
        raise DataError(f"{place}: expected a list of numbers as {what}, got {shown(values)}")
    try:
        found = [float(value) for value in values]
    except (TypeError, ValueError, OverflowError):
        raise DataError(f"{place}: expected numbers as {what}, got {shown(values)}") from None
    if wrong := [value for value in found if not math.isfinite(value)]:
        raise DataError(f"{place}: {what} holds {wrong[0]}, so that nothing tells where the object is: {shown(values)}")
    return found


def marks_of(sheet: Sheet, names: Mapping[object, str], masks: bool) -> dict[object, list[Mark]]:
    """By image. Raises DataError for annotations of images or categories that are not listed."""
    orphans = [i for i, a in enumerate(sheet.annotations) if key_of(a.get("image_id")) not in sheet.images]
    if orphans:
        image = shown(sheet.annotations[orphans[0]].get("image_id"))
        told = f"{len(orphans):,} of {len(sheet.annotations):,} annotations are of images that are not listed"
        raise DataError(f"{sheet.at(orphans[0])}: {told}, this one of image {image}")
    marks = defaultdict(list)
    corners = []
    for index, annotation in enumerate(sheet.annotations):
        place = sheet.at(index)
        category = key_of(annotation.get("category_id"))
        if category not in names:
            raise DataError(
                f"{place}: category {shown(annotation.get('category_id'))} is not listed; known: {named([*names], 20)}"
            )
        box = box_of(annotation.get("bbox"), place)
        outline = outline_of(annotation.get("segmentation"), place) if masks or box is None else None
        aside = any(str(annotation.get(word)).strip().lower() in ("1", "1.0", "true") for word in ("iscrowd", "ignore"))
        key = key_of(annotation["image_id"])
        marks[key].append(Mark(name=names[category], box=box, outline=outline, aside=aside, place=place))
        if box is not None and (size := size_of(sheet, sheet.images[key])):
            corners.append((*box, *size))
    check_corners(sheet, corners)
    return marks


def box_of(given: object, place: str) -> Box | None:
    if given is None or given == []:
        return None
    numbers = numbers_of(given, place, "bbox")
    if len(numbers) != 4:
        raise DataError(f"{place}: expected bbox as x, y, width, height, got {len(numbers)} numbers: {shown(given)}")
    x, y, width, height = numbers
    return x, y, x + width, y + height


def check_corners(sheet: Sheet, corners: Sequence[Sequence[float]]) -> None:
    """Raises DataError where boxes are written as corners: most reach over the edge, and as corners all fit."""
    if len(corners) < FEW:
        return
    x1, y1, x2, y2, height, width = np.array(corners).T
    right, low = x2 - x1, y2 - y1
    fit = (x1 < right) & (y1 < low) & (right <= width) & (low <= height) & (x1 >= 0) & (y1 >= 0)
    over = (x2 > width + 1) | (y2 > height + 1)
    if fit.all() and over.mean() > 0.5:
        told = f"{over.sum():,} of {len(over):,} boxes reach over the edge; they look like x1, y1, x2, y2"
        raise DataError(f"{sheet.path}: {told}, expected x, y, width, height")


def outline_of(given: object, place: str) -> Outline | None:
    """Polygons as a list of lists, one as a flat list or as a list of points; run lengths as a list or packed."""
    if not given:
        return None
    if isinstance(given, dict):
        return runs_of(given, place)
    if not isinstance(given, list):
        raise DataError(f"{place}: expected polygons or run lengths as segmentation, got {shown(given)}")
    if isinstance(given[0], dict):
        if len(given) > 1:
            raise DataError(f"{place}: expected one mask as run lengths, got {len(given)}")
        return runs_of(given[0], place)
    if not isinstance(given[0], list):
        return polygons_from([given], place)
    if len(given) > 2 and all(isinstance(point, list) and len(point) == 2 for point in given):
        return polygons_from([[value for point in given for value in point]], place)
    if all(isinstance(ring, list) and ring and all(isinstance(point, list) for point in ring) for ring in given):
        return polygons_from([[value for point in ring for value in point] for ring in given], place)
    return polygons_from(given, place)


def polygons_from(rings: Sequence[object], place: str) -> Polygons | None:
    return polygons_of([numbers_of(ring, place, "segmentation") for ring in rings])


def runs_of(given: Mapping[str, Any], place: str) -> Runs | None:
    counts, size = given.get("counts"), numbers_of(given.get("size"), place, "the size of run lengths")
    if len(size) != 2:
        raise DataError(f"{place}: expected height and width as the size of run lengths, got {shown(given['size'])}")
    try:
        found = unpacked(counts) if isinstance(counts, str) else numbers_of(counts, place, "counts")
        runs = Runs(size=(int(size[0]), int(size[1])), counts=tuple(int(count) for count in found))
    except DataError:
        raise
    except ValueError as e:
        raise DataError(f"{place}: {e}") from None
    return runs if any(runs.counts[1::2]) else None
