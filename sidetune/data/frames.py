"""In which frame a mask lies beside a picture that EXIF turns."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from sidetune.data.names import printable
from sidetune.errors import DataError


@dataclass(frozen=True, kw_only=True)
class Frame:
    """Width and height of a picture as they are stored, and how EXIF turns it."""

    size: tuple[int, int]
    orientation: int = 1

    @property
    def upright(self) -> tuple[int, int]:
        return self.size[::-1] if self.orientation >= 5 else self.size

    @property
    def is_told_by_size(self) -> bool:
        """Whether a mask's size shows if it is turned like the picture, or stored."""
        return self.orientation == 1 or self.upright != self.size


def frame_of(picture: Path) -> Frame:
    """Reads the head of a file only. Raises DataError."""
    from PIL import Image

    from sidetune.data.images import orientation_of

    try:
        with Image.open(picture) as image:
            orientation = orientation_of(image)
            return Frame(size=image.size, orientation=orientation if 1 <= orientation <= 8 else 1)
    except Exception as e:
        raise DataError(f"the picture {printable(picture)} cannot be read: {e or type(e).__name__}") from None


def turn_of(size: tuple[int, int], own: int, frame: Frame, is_stored: bool) -> int | None:
    """The orientation by which a mask of this size, and of its `own` by EXIF, becomes upright beside a picture;
    `is_stored` decides where sizes do not tell. None if its size is not its picture's."""
    if own in range(2, 9):
        return own if Frame(size=size, orientation=own).upright == frame.upright else None
    if size not in (frame.size, frame.upright):
        return None
    if frame.is_told_by_size:
        return 1 if size == frame.upright else frame.orientation
    return frame.orientation if is_stored else 1


def turned(plane: NDArray[Any], orientation: int) -> NDArray[Any]:
    """What `sidetune.data.images.UPRIGHT` does to pictures."""
    if orientation >= 5:
        plane = plane.T
    if orientation in (2, 3, 6, 7):
        plane = plane[:, ::-1]
    return plane[::-1] if orientation in (3, 4, 7, 8) else plane


def sized(size: tuple[int, int] | Frame) -> str:
    if isinstance(size, Frame):
        return sized(size.size) + (" before EXIF turns it" if size.upright != size.size else "")
    return f"{size[0]:,} x {size[1]:,}"
