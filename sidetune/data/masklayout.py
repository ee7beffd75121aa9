"""Where the pictures and masks of a set lie: which of its folders holds what, by part."""

from __future__ import annotations

from pathlib import Path

from sidetune.data.filelist import decoded
from sidetune.data.files import folders_in, holds_images, images_in
from sidetune.data.layout import part_of
from sidetune.data.names import named, printable
from sidetune.data.pairs import Place
from sidetune.data.samples import WHOLE
from sidetune.errors import DataError

PICTURES = frozenset({"images", "image", "imgs", "img", "jpegimages"})
MASKS = frozenset({"masks", "mask", "segmentationclass"})
MAYBE = frozenset({"annotations", "labels"})
"""Names, in lower case, of folders that hold masks, or something else such as boxes."""
LISTS = ("ImageSets", "Segmentation")
WHOLE_LIST = "default"
"""What CVAT calls its only list."""


def twins(folder: Path) -> tuple[Path, Path] | None:
    """The folders of pictures and of masks in it. Raises DataError where several could be either."""
    inner = {f.name: f for f in folders_in(folder)}
    pictures = [f for name, f in inner.items() if name.casefold() in PICTURES]
    if not pictures:
        return None
    masks = [f for name, f in inner.items() if name.casefold() in MASKS]
    masks = masks or [f for name, f in inner.items() if name.casefold() in MAYBE and holds_images(f)]
    if not masks:
        return None
    for several in (pictures, masks):
        if len(several) > 1:
            raise DataError(f"{folder} has {named([f.name for f in several])}, which mean the same here; leave one")
    return pictures[0], masks[0]


def places(root: Path) -> dict[str, Place]:
    """By part (`WHOLE` where there are none), or by the name of a folder beside them. Raises DataError."""
    if found := twins(root):
        return listed_parts(root, *found) or inner_parts(*found) or {WHOLE: Place(pictures=found[0], masks=found[1])}
    outer: dict[str, Place] = {}
    for folder in folders_in(root):
        both = twins(folder)
        if both is None and (part_of(folder.name) is None or not holds_images(folder)):
            continue
        pictures, masks = both or (pictures_in(folder), folder / "masks")
        add(outer, folder, Place(pictures=pictures, masks=masks))
    if "train" not in outer:
        there = named([name for name in outer]) or "no images/ beside masks/"
        raise DataError(f"{root} has {there} but no train/ with images/ and masks/")
    return outer


def pictures_in(folder: Path) -> Path:
    return next((f for f in folders_in(folder) if f.name.casefold() in PICTURES), folder)


def add(parts: dict[str, Place], folder: Path, place: Place) -> None:
    part = part_of(folder.name) or folder.name
    if part in parts:
        raise DataError(f"{folder.parent} has two folders for {part}, one of them {folder.name}; remove one")
    parts[part] = place


def inner_parts(pictures: Path, masks: Path) -> dict[str, Place] | None:
    """Parts inside of the two folders; None if there are none."""
    folders = folders_in(pictures)
    if not any(part_of(f.name) for f in folders):
        return None
    beside = {part_of(f.name) or f.name: f for f in folders_in(masks)}
    parts: dict[str, Place] = {}
    for folder in folders:
        there = beside.get(part_of(folder.name) or folder.name, masks / folder.name)
        add(parts, folder, Place(pictures=folder, masks=there))
    if "train" not in parts:
        if images_in(pictures):
            return None
        raise DataError(f"{pictures} has {named([f.name for f in folders])} but no {pictures / 'train'}")
    return parts


def listed_parts(root: Path, pictures: Path, masks: Path) -> dict[str, Place] | None:
    """Parts by Pascal VOC's lists; None if there are none."""
    folder = root.joinpath(*LISTS)
    files = {path.stem.casefold(): path for path in sorted(folder.glob("*.txt"))} if folder.is_dir() else {}
    parts = {part: path for name, path in files.items() if (part := part_of(name))}
    if "train" not in parts and (path := files.get("trainval")):
        parts = {"train": path} | {part: path for part, path in parts.items() if part == "test"}
    if "train" not in parts:
        path = files.get(WHOLE_LIST)
        parts = {WHOLE: path} if path and not parts else {}
    if files and not parts:
        raise DataError(f"{folder} has {named([path.name for path in files.values()])} but no train.txt")
    return {part: Place(pictures=pictures, masks=masks, listed=names_in(path)) for part, path in parts.items()} or None


def names_in(path: Path) -> tuple[str, ...]:
    """Whole lines, for names have blanks; CVAT puts these in quotes."""
    names = tuple(name for line in decoded(path).splitlines() if (name := line.strip().strip('"')))
    if not names:
        raise DataError(f"{printable(path)} lists no picture")
    return names


def lacks_masks(place: Place) -> bool:
    """Whether a part has no mask at all."""
    if not place.masks.is_dir():
        return True
    if place.listed is not None:
        return not any((place.masks / f"{name}.png").is_file() for name in place.listed)
    return not holds_images(place.masks)
