"""Every mask of a set looked at once: which values or colours it holds, and in which frame it lies."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from sidetune.data.frames import Frame, frame_of, sized, turn_of
from sidetune.data.masks import GREY, By, Stored, open_mask, plane_of, tally
from sidetune.data.names import named, printable
from sidetune.errors import DataError

Form = Literal["grey", "palette", "equal", "colour"]
"""One channel, indices of a palette, three equal channels, three that differ."""


@dataclass(frozen=True, kw_only=True)
class Seen:
    """A mask, as far as the coding of its set depends on it."""

    path: Path
    form: Form = "grey"
    counts: dict[int, int] = field(default_factory=dict)
    """Pixels by value; of the form `colour`, by colour."""
    palette: dict[int, int] = field(default_factory=dict)
    """Of the indices that occur, the colours."""
    frame: Literal["plain", "upright", "stored", "open"] = "plain"
    """The frame of a mask whose picture EXIF turns, `open` where its size does not tell."""
    has_shape_in_alpha: bool = False
    fault: str = ""
    """Why it can be no mask of the set."""
    damage: str = ""
    """Why it, or its picture, cannot be read."""

    @property
    def is_good(self) -> bool:
        return not self.fault and not self.damage

    def by(self, by: By) -> dict[int, int] | None:
        """Pixels by what says the class; None if this mask has no such thing."""
        if self.form == "colour":
            if by == "value":
                return None
            if by == "colour":
                return self.counts
            is_red = len({colour & 0xFFFF for colour in self.counts}) == 1
            return {colour >> 16: count for colour, count in self.counts.items()} if is_red else None
        if by != "colour":
            return self.counts
        colours: Counter[int] = Counter()
        for value, count in self.counts.items():
            colours[self.palette.get(value, value * GREY)] += count
        return dict(colours)


def survey(pictures: Sequence[Path], masks: Sequence[Path]) -> list[Seen]:
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return list(pool.map(look, pictures, masks))


def look(picture: Path, mask: Path) -> Seen:
    try:
        stored, frame = open_mask(mask), frame_of(picture)
    except DataError as e:
        return Seen(path=mask, damage=str(e))
    if stored.fault:
        return Seen(path=mask, fault=f"{printable(mask)} {stored.fault}")
    if turn_of(stored.size, stored.orientation, frame, False) is None:
        return Seen(
            path=mask,
            fault=f"the mask {printable(mask)} has {sized(stored.size)} pixels, its picture {printable(picture)} "
            f"{sized(frame)}; stretched or cut, nobody knows",
        )
    form: Form = "palette" if stored.palette is not None else "grey"
    plane = plane_of(stored, "value")
    if stored.values.ndim == 3:
        form = "equal" if plane is not None else "colour"
        plane = plane if plane is not None else plane_of(stored, "colour")
    assert plane is not None
    counts = tally(plane)
    return Seen(
        path=mask,
        form=form,
        counts=counts,
        palette={value: int(stored.palette[value]) for value in counts} if stored.palette is not None else {},
        frame=frame_told(stored, frame),
        has_shape_in_alpha=stored.has_shape_in_alpha,
    )


def frame_told(stored: Stored, frame: Frame) -> Literal["plain", "upright", "stored", "open"]:
    if frame.orientation == 1 or stored.orientation != 1:
        return "plain"
    if not frame.is_told_by_size:
        return "open"
    return "upright" if stored.size == frame.upright else "stored"


def faults(seen: Sequence[Seen]) -> DataError | None:
    """The error for masks that can be none; damaged ones are left to the check of every image."""
    bad = [mask.fault for mask in seen if mask.fault]
    if not bad:
        return None
    many = f"{len(bad):,} of {len(seen):,} masks cannot be used; the first: " if len(bad) > 1 else ""
    return DataError(f"{many}{bad[0]}. Correct or remove the pair, or leave it out with --skip-bad (skip_bad=True)")


def torn_palette(seen: Sequence[Seen]) -> str:
    """How two masks' palettes contradict each other in an index that both use; nothing if none do."""
    first: dict[int, tuple[int, Path]] = {}
    for mask in seen:
        for index, colour in mask.palette.items():
            other, path = first.setdefault(index, (colour, mask.path))
            if other != colour:
                return (
                    f"the index {index} is #{other:06x} in {printable(path)} and #{colour:06x} in "
                    f"{printable(mask.path)}"
                )
    return ""


def first_few(seen: Sequence[Seen]) -> str:
    return named([mask.path.name for mask in seen])
