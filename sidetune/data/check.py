"""The check that every image can be read, before hours are spent on the others."""

from __future__ import annotations

import os
import warnings
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from sidetune.data.images import read_image
from sidetune.data.names import named
from sidetune.data.objects import Objects
from sidetune.data.reading import Levels
from sidetune.data.samples import Samples
from sidetune.errors import DataError, DataWarning

FLAT = 16
"""Fewer grey levels than these show next to nothing."""


@dataclass(frozen=True, kw_only=True)
class Checked:
    """What the check saw of a file."""

    complaint: str = ""
    """Why it cannot be used."""
    levels: Levels | None = None
    extent: Levels | None = None
    is_flat: bool = False
    """Whether a deep picture has few grey levels left in 8 bits."""
    has_more: bool = False


def check_images(
    samples: Samples,
    *,
    skip_bad: bool = False,
    all_classes: bool = True,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[Samples, list[str]]:
    """Decode every image once, and every mask. Returns the samples that can be used and what was wrong with the others.

    Warns of pictures that are read in a way their owner may not expect: of many pages, of more than 8 bits. Raises
    DataError naming the bad images, unless they are to be skipped; and if skipping them empties a class, or
    leaves no object, where `all_classes` are needed, as in training.
    """
    if isinstance(samples.images, np.ndarray):
        return samples, []
    seen: dict[int, Checked] = {}
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for index, found in enumerate(pool.map(lambda i: look_at(samples, i), range(len(samples)))):
            seen[index] = found
            if progress:
                progress(index + 1, len(samples))
    for note in notes_on({samples.images[i]: found for i, found in seen.items()}):
        warnings.warn(note, DataWarning, stacklevel=2)
    bad = [found.complaint for found in seen.values() if found.complaint]
    if not bad:
        return samples, []
    if not skip_bad:
        raise DataError(f"{summary(bad)}\nRepair or remove them, or leave them out with --skip-bad (skip_bad=True)")
    good = samples.subset([i for i in range(len(samples)) if not seen[i].complaint])
    if all_classes and samples.task == "classification" and (emptied := set(samples.labels) - set(good.labels)):
        names = ", ".join(samples.classes[label] for label in sorted(emptied))
        raise DataError(f"without its bad images a class is empty: {names}\n{summary(bad)}")
    if all_classes and samples.task == "detection" and not any(map(len, good.labels)):
        raise DataError(f"without its bad images no object is left\n{summary(bad)}")
    return good, bad


def look_at(samples: Samples, index: int) -> Checked:
    try:
        read = read_image(samples.images[index], samples.reading)
        target = samples.target(index)
    except DataError as e:
        return Checked(complaint=str(e))
    if isinstance(target, Objects) and target.size != (read.picture.height, read.picture.width):
        own, told = (f"{width} x {height}" for height, width in (read.picture.size[::-1], target.size))
        return Checked(complaint=f"{samples.images[index]} has {own} pixels, the picture of its boxes {told}")
    is_flat = False
    if read.extent is not None and read.extent[0] < read.extent[1]:
        is_flat = bool(np.count_nonzero(read.picture.getchannel(0).histogram()) < FLAT)
    return Checked(levels=read.levels, extent=read.extent, is_flat=is_flat, has_more=read.has_more)


def notes_on(files: Mapping[Path, Checked]) -> list[str]:
    """What their owner should know of files that can be read."""
    notes = []
    if several := [path for path, found in files.items() if found.has_more]:
        told = f"{len(several):,} files hold several pictures (pages, frames)"
        notes.append(f"{told}, of which the first is read: {named(several)}")
    deep = Counter(found.levels for found in files.values() if found.levels)
    if deep:
        ranges = "; ".join(f"{black:,g} to {white:,g} in {count:,}" for (black, white), count in deep.most_common(4))
        own = ", each by its own range; levels=BLACK,WHITE gives all the same" if len(deep) > 1 else ""
        notes.append(f"{deep.total():,} pictures have more than 8 bits; black to white are {ranges}{own}")
    if flat := [found.extent for found in files.values() if found.is_flat and found.extent]:
        low, high = min(low for low, _ in flat), max(high for _, high in flat)
        notes.append(
            f"{len(flat):,} of them have fewer than {FLAT} grey levels left; their values are {low:,g} to {high:,g}, "
            f"which --set levels={low:g},{high:g} would spread"
        )
    return notes


def summary(bad: Sequence[str], most: int = 10) -> str:
    lines = "\n".join(f"  {line}" for line in bad[:most])
    more = f"\n  and {len(bad) - most} more" if len(bad) > most else ""
    return f"{len(bad)} image{'s' if len(bad) > 1 else ''} cannot be used:\n{lines}{more}"
