"""One mask file -> an array of class numbers, by the coding of its set."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from sidetune.data.frames import Frame, frame_of, sized, turn_of, turned
from sidetune.data.names import named, printable
from sidetune.errors import DataError

if TYPE_CHECKING:
    from PIL import Image

IGNORED = -1
"""Of pixels that belong to no class."""
UNKNOWN = -2
GREY = 0x010101
"""Times a grey value, the number of its colour."""
By = Literal["value", "red", "colour"]
Plane = NDArray[Any]
"""Whole numbers (row, column)."""
WRITE = "write masks without loss, as PNG"


@dataclass(frozen=True, kw_only=True)
class Coding:
    """How the masks of a set say classes."""

    by: By = "value"
    """By the value (a palette's index, or one of equal channels), the red channel, or the colour."""
    classes: tuple[tuple[int, int], ...]
    """Values, each with the number of its class; a colour is 0xrrggbb."""
    ignored: tuple[int, ...] = ()
    """Values of pixels that belong to no class."""
    is_stored: bool = False
    """Whether a mask has the stored frame where EXIF turns the picture and the sizes leave open which one it has."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "classes", tuple((int(value), int(number)) for value, number in self.classes))
        object.__setattr__(self, "ignored", tuple(map(int, self.ignored)))

    def numbers(self) -> dict[int, int]:
        return dict.fromkeys(self.ignored, IGNORED) | dict(self.classes)

    def shown(self, value: int) -> str:
        return f"#{value:06x}" if self.by == "colour" else str(value)


@dataclass(frozen=True, kw_only=True)
class Stored:
    """A mask as its file has it."""

    values: Plane
    """(row, column), or (row, column, channel) of three."""
    palette: Plane | None = None
    """Of a picture with one, the numbers of its colours."""
    has_shape_in_alpha: bool = False
    """Whether there is an alpha channel that varies."""
    orientation: int = 1
    """The mask's own, from EXIF."""
    fault: str = ""
    """Why it cannot be a mask, although it is a picture."""

    @property
    def size(self) -> tuple[int, int]:
        return self.values.shape[1], self.values.shape[0]


def read_mask(path: Path, coding: Coding, picture: Path | tuple[int, int]) -> NDArray[np.int16]:
    """Class numbers (row, column), `IGNORED` where there is none, in the frame of the upright picture, which is given
    by its file or its upright (width, height).

    Raises DataError for a file that is no mask, has another size than its picture, or holds what is no class.
    """
    stored = open_mask(path)
    if stored.fault:
        raise DataError(f"{printable(path)} {stored.fault}")
    frame = frame_of(picture) if isinstance(picture, Path) else Frame(size=(picture[0], picture[1]))
    turn = turn_of(stored.size, stored.orientation, frame, coding.is_stored)
    if turn is None:
        beside = f" {printable(picture)}" if isinstance(picture, Path) else ""
        raise DataError(
            f"the mask {printable(path)} has {sized(stored.size)} pixels, its picture{beside} {sized(frame)}"
        )
    plane = plane_of(stored, coding.by)
    if plane is None:
        raise DataError(f"{printable(path)} {misfit(coding.by)}")
    numbers = look_up(plane, coding.numbers())
    if (numbers == UNKNOWN).any():
        raise strange(path, tally(plane[numbers == UNKNOWN]), coding)
    return np.ascontiguousarray(turned(numbers, turn))


def open_mask(path: Path) -> Stored:
    """Raises DataError for a file that is missing or damaged."""
    from PIL import Image  # only a mask that is read needs Pillow

    from sidetune.data.images import orientation_of

    try:
        with Image.open(path) as image:
            fault = lossy(image, path)
            orientation = orientation_of(image)
            image.load()
            if fault or image.mode in ("CMYK", "YCbCr", "LAB", "HSV", "RGBX", "RGBa", "La"):
                fault = fault or f"has the mode {image.mode}; expected one channel, a palette or RGB"
                return Stored(values=np.zeros((image.height, image.width), np.uint8), fault=fault)
            return stored_in(image, orientation)
    except FileNotFoundError:
        raise DataError(f"no mask at {printable(path)}") from None
    except Exception as e:  # decoders of damaged files raise nearly anything
        raise DataError(f"the mask {printable(path)} is damaged or cannot be read: {e or type(e).__name__}") from None


def lossy(image: Image.Image, path: Path) -> str:
    """What is wrong with formats that smear values over their neighbours."""
    if image.format in ("JPEG", "MPO", "AVIF", "HEIF") or (image.format == "WEBP" and b"VP8 " in head_of(path)):
        return f"is a {image.format}, which changes the values of pixels, so that classes are lost; {WRITE}"
    return ""


def head_of(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(4096)


def stored_in(image: Image.Image, orientation: int) -> Stored:
    values = np.asarray(image)
    alpha, palette, fault = None, None, ""
    if image.mode == "1":
        values = values.astype(np.uint8) * np.uint8(255)  # black and white, as the same picture with 8 bits has it
    elif image.mode in ("LA", "PA", "RGBA"):
        values, alpha = values[..., :-1], values[..., -1]
        values = values[..., 0] if values.shape[-1] == 1 else values
    elif image.mode == "F":
        if np.isfinite(values).all() and (values == np.round(values)).all():
            values = values.astype(np.int64)
        else:
            values, fault = values.astype(np.uint8, casting="unsafe"), f"has values that are no whole numbers; {WRITE}"
    if image.mode in ("P", "PA"):
        table = np.asarray(image.getpalette("RGB"), dtype=np.int64).reshape(-1, 3)
        palette = np.zeros(256, np.int64)
        palette[: len(table)] = packed(table)
    return Stored(
        values=values,
        palette=palette,
        has_shape_in_alpha=alpha is not None and bool((alpha != alpha.flat[0]).any()),
        orientation=orientation,
        fault=fault,
    )


def plane_of(stored: Stored, by: By) -> Plane | None:
    """What says the class of each pixel; None if this mask has no such thing."""
    values = stored.values
    if by == "colour":
        if stored.palette is not None:
            return stored.palette[values]
        return packed(values) if values.ndim == 3 else values.astype(np.int64) * GREY
    if values.ndim == 2:
        return values
    red, green, blue = (values[..., i] for i in range(3))
    fits = is_constant(green) and is_constant(blue) if by == "red" else (red == green).all() and (red == blue).all()
    return red if fits else None


def is_constant(channel: Plane) -> bool:
    return bool((channel == channel.flat[0]).all())


def packed(colours: Plane) -> Plane:
    """Colours (..., 3) as numbers 0xrrggbb."""
    wide = colours.astype(np.int64)
    return (wide[..., 0] << 16) | (wide[..., 1] << 8) | wide[..., 2]


def tally(plane: Plane) -> dict[int, int]:
    """Values, in order, with their numbers of pixels."""
    flat = plane.ravel()
    if flat.dtype.kind == "u" and flat.dtype.itemsize <= 2:
        counts = np.bincount(flat)
        return {int(value): int(counts[value]) for value in np.flatnonzero(counts)}
    if not flat.size:
        return {}
    # neighbours are mostly of one class: far fewer runs than pixels are sorted
    starts = np.flatnonzero(np.concatenate([[True], flat[1:] != flat[:-1]]))
    values, places = np.unique(flat[starts], return_inverse=True)
    counts = np.bincount(places.ravel(), weights=np.diff(np.append(starts, flat.size)))
    return {int(value): int(count) for value, count in zip(values, counts, strict=True)}


def look_up(plane: Plane, numbers: Mapping[int, int]) -> NDArray[np.int16]:
    """The class numbers of values, `UNKNOWN` for others."""
    known = np.array(sorted(numbers), np.int64)
    classes = np.array([numbers[value] for value in known.tolist()], np.int16)
    if plane.dtype == np.uint8:
        return look_up(np.arange(256), numbers)[plane]
    places = np.searchsorted(known, plane).clip(max=len(known) - 1)
    return np.where(known[places] == plane, classes[places], np.int16(UNKNOWN))


def strange(path: Path, values: Mapping[int, int], coding: Coding, why: str = "") -> DataError:
    """The error for values, with their numbers of pixels, that are no class."""
    value, count = max(values.items(), key=lambda item: item[1])
    what = "the colour" if coding.by == "colour" else "the value"
    more = f" (and {len(values) - 1:,} more)" if len(values) > 1 else ""
    known = named([coding.shown(v) for v, _ in coding.classes], 20)
    beside = f" or ignored ({named(list(map(coding.shown, coding.ignored)))})" if coding.ignored else ""
    return DataError(
        f"the mask {printable(path)} holds {what} {coding.shown(value)} in {count:,} pixels{more}, which is no class "
        f"of the set{beside}; known: {known}{why}"
    )


def misfit(by: By) -> str:
    if by == "red":
        return "says more than its red channel, by which the other masks of the set say classes"
    return "has colours, but the other masks of the set have one channel"
