"""Marks on pages -> Objects: held against the pictures, turned and cut with them; what is spoilt is dropped."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from sidetune.data.marks import Mark, Notes, Page
from sidetune.data.names import named, printable
from sidetune.data.objects import Objects
from sidetune.data.outlines import Box, Outline, Polygons, Runs
from sidetune.data.turning import ASIDE, Size, turned_boxes, turned_size
from sidetune.errors import DataError

ROUNDING = 2e-6
"""Of a picture's side: how far a box reaches over the edge because it was written with six digits."""
EMPTY = 0.01
"""Pixels of width or height below which a box holds nothing."""
CUT = "boxes reach over the edge of their pictures and are cut to them"
DROPPED = "boxes are empty, or lie outside of their pictures, and are dropped"
REPEATED = "objects are written twice, with the same class and place, and are read once"
SHAPELESS = "objects have a box and no mask, and are dropped"
PLACELESS = "objects have neither a box nor a shape, and are dropped"
UNTOLD = "pictures are turned by their EXIF, and nothing tells whether before or after they were annotated; "


@dataclass(frozen=True, kw_only=True)
class View:
    """A picture's frames."""

    stored: Size
    orientation: int = 1

    @property
    def upright(self) -> Size:
        return turned_size(self.stored, self.orientation)


def settled(
    pages: Mapping[str, Sequence[Page]],
    places: Mapping[str, int],
    *,
    masks: bool,
    notes: Notes,
    skip_bad: bool = False,
) -> dict[str, list[Objects]]:
    """Of each page its objects, by part; `places` are the classes' numbers by name.

    Raises DataError for pictures of other sizes than the files say, naming the first and how many, and for those that
    cannot be read where no file says their size; with `skip_bad` such are left to `check_images`, without objects.
    """
    every = [page for part in pages.values() for page in part]
    with ThreadPoolExecutor() as pool:
        views = list(pool.map(partial(view_of, skip_bad=skip_bad), every))
    every = [replace(page, marks=()) if view is UNREAD else page for page, view in zip(every, views, strict=True)]
    check_units(every, views)
    check_sizes(every, views)
    turns = turned_with(every, views, notes)
    done = iter(
        objects_of(page, view, turn, places, masks, notes) for page, view, turn in zip(every, views, turns, strict=True)
    )
    return {part: [next(done) for _ in of_part] for part, of_part in pages.items()}


UNREAD = View(stored=(1, 1))


def view_of(page: Page, skip_bad: bool) -> View:
    """From a file's beginning. Where it is damaged, what the annotations say: the check of all images comes later."""
    from PIL import Image  # where folders are only listed, as on the small device, there may be no Pillow

    from sidetune.data.images import allow, orientation_of, too_large

    try:
        with Image.open(page.image) as image:
            orientation = orientation_of(image)
            if image.format == "TIFF":  # Pillow turns these as it reads them
                image.load()
            upright = turned_size((image.height, image.width), orientation_of(image))
        orientation = orientation if orientation in range(1, 9) else 1
        return View(stored=turned_size(upright, orientation), orientation=orientation)
    except Exception as e:  # decoders of damaged files raise nearly anything
        if page.size is not None:
            return View(stored=page.size)
        if skip_bad:
            return UNREAD
        if isinstance(e, Image.DecompressionBombError):
            raise too_large(printable(page.image), str(e), allow(None)) from None
        raise DataError(f"{page.image} cannot be read: {printable(e) or type(e).__name__}") from None


def check_units(pages: Sequence[Page], views: Sequence[View]) -> None:
    """Raises DataError where all boxes are smaller than a pixel."""
    boxes = [(m.box, m, v) for p, v in zip(pages, views, strict=True) if not p.in_fractions for m in p.marks if m.box]
    if boxes and max(max(map(abs, box)) for box, _, _ in boxes) <= 1 and any(min(v.stored) > 2 for _, _, v in boxes):
        told = f"all {len(boxes):,} boxes lie within one pixel; expected pixels, these look like fractions"
        raise DataError(f"{boxes[0][1].place}: {told}")


def check_sizes(pages: Sequence[Page], views: Sequence[View]) -> None:
    sized = [(page, view) for page, view in zip(pages, views, strict=True) if page.size is not None]
    if wrong := [(page, view) for page, view in sized if page.size not in (view.stored, view.upright)]:
        first = [
            f"{page.image.name} has {view.upright[1]} x {view.upright[0]} pixels, not {page.size[1]} x {page.size[0]}"
            for page, view in wrong
            if page.size
        ]
        raise DataError(
            f"{len(wrong):,} of {len(sized):,} pictures have another size than their annotations say, so that boxes "
            f"would be in the wrong place: {named(first)} (the first is {printable(wrong[0][0].image)})"
        )


def turned_with(pages: Sequence[Page], views: Sequence[View], notes: Notes) -> list[bool]:
    """Of each page whether its marks are on the stored pixels, and turn with the picture.

    The size says it, or boxes that fit in one frame only; where neither does, most of the other pages.
    """
    told = [is_stored(page, view) for page, view in zip(pages, views, strict=True)]
    known = [t for t, view in zip(told, views, strict=True) if t is not None and view.orientation != 1]
    usual = sum(known) * 2 > len(known)
    what = "boxes are turned, as those of most others are" if usual else "boxes are taken as of the upright view"
    for page, view, stored in zip(pages, views, told, strict=True):
        if stored is None and page.marks and view.orientation != 1:
            notes.add(UNTOLD + what, page.image)
    return [usual if stored is None else stored for stored in told]


def is_stored(page: Page, view: View) -> bool | None:
    if view.orientation == 1:
        return False
    sizes = {mark.outline.size for mark in page.marks if isinstance(mark.outline, Runs)}
    size = page.size or (sizes.pop() if len(sizes) == 1 else None)
    if view.stored == view.upright:
        return None
    if size is not None:
        return size == view.stored
    if page.in_fractions or view.orientation not in ASIDE:
        return None
    corners = [mark.box[2:] for mark in page.marks if mark.box]
    fits = [
        all(x <= width + 1 and y <= height + 1 for x, y in corners) for height, width in (view.stored, view.upright)
    ]
    return fits[0] if fits[0] != fits[1] else None


def objects_of(page: Page, view: View, turn: bool, places: Mapping[str, int], masks: bool, notes: Notes) -> Objects:
    frame = view.stored if turn else view.upright
    orientation = view.orientation if turn else 1
    kept: list[tuple[np.ndarray, Mark, Outline | None]] = []
    seen: dict[object, list[Outline | None]] = defaultdict(list)
    for mark in page.marks:
        outline, box = in_pixels(page, mark, frame)
        if masks and outline is None:
            notes.add(SHAPELESS, mark.place)
            continue
        if box is None:
            notes.add(PLACELESS, mark.place)
            continue
        before = seen[mark.name, mark.aside, box]
        if any(not masks or is_same(outline, other) for other in before):
            notes.add(REPEATED, mark.place)
            continue
        before.append(outline)
        if (cut := cut_to(box, frame, mark, notes)) is None:
            continue
        if isinstance(outline, Runs) and (masks or mark.box is None) and outline.size != frame:
            told = f"run lengths of {outline.size[0]} rows and {outline.size[1]} columns"
            raise DataError(f"{mark.place}: {told}, in a picture of {frame[0]} rows and {frame[1]} columns")
        kept.append((cut, mark, outline.turned(orientation, frame) if masks and outline else None))
    boxes = np.array([box for box, _, _ in kept], dtype=np.float32).reshape(-1, 4)
    return Objects(
        boxes=turned_boxes(boxes, orientation, frame).astype(np.float32),
        labels=np.array([places[mark.name] for _, mark, _ in kept], dtype=np.int64),
        aside=np.array([mark.aside for _, mark, _ in kept], dtype=bool),
        outlines=tuple(outline for _, _, outline in kept) if masks else None,
        size=view.upright,
    )


def is_same(one: Outline | None, other: Outline | None) -> bool:
    return one is other or (one is not None and other is not None and one.described() == other.described())


def in_pixels(page: Page, mark: Mark, frame: Size) -> tuple[Outline | None, Box | None]:
    outline, box = mark.outline, mark.box
    if page.in_fractions:
        outline = outline.scaled(frame) if isinstance(outline, Polygons) else outline
        if box is not None:
            box = box[0] * frame[1], box[1] * frame[0], box[2] * frame[1], box[3] * frame[0]
    return outline, outline.box() if box is None and outline is not None else box


def cut_to(box: Box, frame: Size, mark: Mark, notes: Notes) -> np.ndarray | None:
    """What of a box lies in the frame; None if nothing does."""
    height, width = frame
    given = np.array(box)
    cut = np.clip(given, 0, [width, height, width, height]).astype(np.float32)
    if min(given[2] - given[0], given[3] - given[1], cut[2] - cut[0], cut[3] - cut[1]) < EMPTY:
        notes.add(DROPPED, mark.place)
        return None
    if np.abs(given - cut).max() > max(ROUNDING * max(frame), 1e-3):
        notes.add(CUT, mark.place)
    return cut
