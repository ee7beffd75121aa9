"""Whether a folder is of pictures with annotations of objects: told by names, and the beginnings of some files."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

from sidetune.data.album import part_named
from sidetune.data.files import entries_of, folders_in, images_in, kind_of, readable
from sidetune.data.foreign import looks_like_coco, tool_of
from sidetune.data.layout import part_of
from sidetune.data.masklayout import MASKS, PICTURES
from sidetune.data.voc import is_annotation
from sidetune.data.yolo import holds_rows
from sidetune.data.yoloset import NAME_FILES, looks_like_config

LABELS = frozenset({"labels", "label"})
HOLDERS = LABELS | {"annotations", "images", "xmls", "obj_train_data", "data", "jpegimages"}
"""Folders, in lower case, in which annotations are looked for beside parts."""
DEEPEST = 4


def has_objects(root: Path) -> bool:
    """Whether a folder holds annotations of objects, by the names of folders and files and the beginnings of some."""
    return root.is_dir() and any(map(tells, holders(root)))


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


def like_classes(root: Path) -> list[Path]:
    """The folders of a folder, or of its train, that could as well be classes: several with pictures in them, none
    called as those of annotated sets are."""
    top = next((folder for folder in folders_in(root) if part_of(folder.name) == "train"), root)
    full = [folder for folder in folders_in(top) if images_in(folder)]
    return full if len(full) > 1 and not any(is_usual(folder.name.casefold()) for folder in full) else []


def is_usual(name: str) -> bool:
    return name in HOLDERS | PICTURES | MASKS or part_named(name) is not None or name.startswith("voc")
