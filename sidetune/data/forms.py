"""What says how a folder's pictures are labelled: a table, masks, lists, annotations of objects, or its folders."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Literal

from sidetune.data.boxlayout import has_objects, like_classes
from sidetune.data.filelist import LISTS
from sidetune.data.layout import Layout
from sidetune.data.names import named
from sidetune.data.samples import NO_INSTANCES, Kind
from sidetune.data.segments import has_masks
from sidetune.data.table import PARTS, SAY, TABLE, has_table
from sidetune.errors import DataError, unknown

Form = Literal["table", "masks", "lists", "boxes", "folders"]


def has_lists(folder: Path) -> bool:
    """Whether a folder is in VTAB-1k's form."""
    return any((folder / name).is_file() for name in LISTS)


KNOWN: Mapping[Form, Callable[[Path], bool]] = {
    "table": has_table,
    "masks": has_masks,
    "lists": has_lists,
    "boxes": has_objects,
}
"""How each is known; where no task is asked for, the first that a folder has counts; without any, it is of classes."""
SERVES: Mapping[Kind, tuple[Form, ...]] = {
    "classification": ("table", "lists", "folders"),
    "multilabel": ("table",),
    "regression": ("table",),
    "segmentation": ("masks",),
    "detection": ("boxes",),
}
"""What a task's labels may come from, the first that there is."""
LACKS: Mapping[Form, str] = {
    "table": f"no {TABLE} or {PARTS['train']}; {{task}} needs a table of images and numbers",
    "masks": "no pictures with masks; expected images/ and masks/ in it, or in its train/, val/ and test/, with a mask "
    "of the same name for every picture (images/1.jpg, masks/1.png)",
    "boxes": "no annotations of objects; expected COCO JSON, Pascal VOC XML or YOLO's texts where their tools leave "
    "them, such as train/_annotations.coco.json, Annotations/1.xml or images/1.jpg and labels/1.txt",
}
HAS: Mapping[Form, tuple[str, Kind | None]] = {
    "table": ("a table", None),
    "masks": ("pictures with masks", "segmentation"),
    "lists": ("file lists", "classification"),
    "boxes": ("annotations of objects", "detection"),
}
"""What to say of what there is instead, and the task that takes it."""


def form_of(path: Path, task: Kind | None = None, layout: Layout = "auto") -> Form:
    """What labels a folder's pictures for a task, or if none is asked for by itself; a `layout` is for folders.

    Raises DataError where there is none for the task, or where both boxes and classes could be meant.
    """
    if task == "instances":
        raise ValueError(NO_INSTANCES)
    if task is not None:
        return form_for(path, task)
    for form, has in KNOWN.items():
        if (layout == "auto" or form in ("table", "lists")) and has(path):
            if form == "boxes" and (folders := like_classes(path)):
                raise DataError(
                    f"{path} has annotations of objects, and folders that could be classes "
                    f"({named([folder.name for folder in folders])}). Say which: {SAY.format('detection')}, or "
                    f"{SAY.format('classification')} (on the device: --layout classes, or parts)"
                )
            return form
    return "folders"


def form_for(path: Path, task: Kind) -> Form:
    if task not in SERVES:
        raise unknown("task", task, SERVES)
    for form in SERVES[task]:
        if form == "folders" or KNOWN[form](path):
            return form
    there = [HAS[form] for form, has in KNOWN.items() if has(path)]
    instead = [f"it has {what}" + (f": {SAY.format(kind)}" if kind else "") for what, kind in there]
    raise DataError("; ".join([f"{path} has {LACKS[form].format(task=task)}", *instead]))
