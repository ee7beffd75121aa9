"""Pictures that stand in several places of a data set."""

from __future__ import annotations

import warnings
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sidetune.data.digests import digest_of, same_bytes
from sidetune.data.names import named
from sidetune.data.samples import Kind, Samples
from sidetune.errors import DataWarning

TORN: Mapping[Kind, str] = {"segmentation": "with several masks", "detection": "with other objects each time"}


def warn_of_repeats(name: str, parts: Mapping[str, Samples]) -> None:
    """Say which pictures stand in two parts, under two classes (or with other masks or objects), or twice under one,
    byte for byte."""
    places: dict[Path, list[tuple[str, Any]]] = defaultdict(list)
    for part, samples in parts.items():
        for path, label in zip(samples.images, samples.labels, strict=True):
            places[path].append((part, label if isinstance(label, (int, Path)) else str(label)))
    groups = same_bytes(places)
    grouped = {path for group in groups for path in group}
    groups += [[path] for path, stands in places.items() if len(stands) > 1 and path not in grouped]
    task = next(samples.task for samples in parts.values())
    leaks, torn, twice = [], [], []
    for group in groups:
        held_by, classes = zip(*(place for path in group for place in places[path]), strict=True)
        if task == "segmentation":
            classes = tuple(digest_of(mask) for mask in classes)
        told = " = ".join(str(Path(*path.parts[-3:])) for path in group[:3])
        if len(set(classes)) > 1:
            torn.append(told)
        if len(set(held_by)) > 1:
            leaks.append(told)
        elif len(set(classes)) == 1:
            twice.append(told)
    for found, what in (
        (leaks, "in several parts, so that what is scored on was trained on or chosen by"),
        (torn, TORN.get(task, "under several classes")),
        (twice, "several times in one part"),
    ):
        if found:
            told = f"{len(found):,} identical pictures (the same bytes) stand {what}"
            warnings.warn(f"{name}: {told}: {named(found)}", DataWarning, stacklevel=3)
