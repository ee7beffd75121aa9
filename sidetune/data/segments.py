"""Folders of pictures with masks: which folder holds what, and its parts."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from sidetune.data.classnames import find_names
from sidetune.data.codings import check_values, decide
from sidetune.data.files import Finder, folders_in, tell
from sidetune.data.folders import existing
from sidetune.data.layout import part_of
from sidetune.data.masklayout import lacks_masks, places, twins
from sidetune.data.names import printable
from sidetune.data.pairs import Pairs, Place, pair
from sidetune.data.samples import WHOLE, Samples, Splits, split_up
from sidetune.data.survey import faults, survey
from sidetune.errors import DataError


def has_masks(root: Path) -> bool:
    """Whether a folder, by the names of what it holds, is of pictures with masks."""
    return bool(root.is_dir() and (twins(root) or any(part_of(f.name) and twins(f) for f in folders_in(root))))


def read_segments(
    root: str | Path,
    *,
    val: float,
    test: float,
    seed: int = 0,
    classes: tuple[str, ...] | None = None,
    skip_bad: bool = False,
) -> Splits:
    """Pictures with their masks: the parts that there are, or one set split by the shares `val` and `test`.

    Beside training pictures, missing validation pictures are split off these and a missing test stays missing. What
    masks say is decided once over all that are trained on; with `classes` given (a trained model's), their names decide
    the numbers. `skip_bad` leaves out pictures without a mask, and leaves masks that can be none to `check_images`.

    Warns of what is passed over and of what had to be decided; raises DataError for what cannot be used.
    """
    root = existing(root)
    name, parts = printable(root.resolve().name), read_parts(root, classes, skip_bad)
    return split_up(name, parts, val=val, test=test, seed=seed)


def read_whole(root: str | Path, classes: tuple[str, ...] | None = None, skip_bad: bool = False) -> Samples | None:
    """A set without parts as it is; None if it has some."""
    root = existing(root)
    return read_parts(root, classes, skip_bad)[WHOLE] if WHOLE in places(root) else None


def read_part(root: str | Path, part: str, classes: tuple[str, ...], skip_bad: bool = False) -> Samples | None:
    """A part, of any name, of a set whose classes are known; None if there is none."""
    root = existing(root)
    if part == WHOLE or part not in places(root):
        return None
    return read_parts(root, classes, skip_bad, only=part).get(part)


def read_parts(
    root: Path, classes: tuple[str, ...] | None, skip_bad: bool, only: str | None = None
) -> dict[str, Samples]:
    """By part, its samples; of a set without parts under `WHOLE`."""
    found = pairs_of(root, places(root), skip_bad, only)
    first = next(part for part in (WHOLE, "train", only) if part in found)
    assert first is not None
    seen = {part: survey(pairs.images, pairs.masks) for part, pairs in found.items()}
    everything = [mask for masks in seen.values() for mask in masks]
    fault = faults(everything)
    if fault and (not skip_bad or all(mask.fault for mask in everything)):
        raise fault
    if not any(mask.is_good for mask in seen[first]):
        raise DataError(f"none of the {len(seen[first]):,} masks in {root} can be read: {seen[first][0].damage}")
    decided = decide(root, seen[first], find_names(root), classes)
    for part, masks in seen.items():
        if part != first:
            check_values(masks, decided.coding, f" (the classes are those of {first})")
    tell(root, (*(note for pairs in found.values() for note in pairs.notes), *decided.notes))
    return {
        part: Samples(
            images=pairs.images,
            labels=pairs.masks,
            classes=decided.classes,
            task="segmentation",
            coding=decided.coding,
        )
        for part, pairs in found.items()
    }


def pairs_of(root: Path, where: Mapping[str, Place], skip_bad: bool, only: str | None) -> dict[str, Pairs]:
    """By part, its pairs; a part beside the training pictures may lack all masks, to be predicted."""
    wanted = (WHOLE, "train", only) if only else (WHOLE, "train", "val", "test")
    found: dict[str, Pairs] = {}
    for part, place in where.items():
        if part not in wanted:
            continue
        if part in ("val", "test") and lacks_masks(place):
            tell(root, [f"{part} has no masks; `sidetune predict MODEL {printable(place.pictures)}` makes them"])
            continue
        found[part] = pair(place, skip_missing=skip_bad)
        if not found[part].images:
            raise DataError(f"{place.pictures} holds no pictures; expected them there, their masks in {place.masks}")
    if lists := [place for place in where.values() if place.listed is not None]:
        there = Finder().find([lists[0].pictures])[lists[0].pictures]
        if out := len(there) - len({name for place in lists for name in place.listed or ()}):
            tell(root, [f"passed over {out:,} pictures that stand in no list"])
    return found
