"""Any image file -> an upright 8-bit RGB picture."""

from __future__ import annotations

import importlib.util
import math
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image, UnidentifiedImageError

from sidetune.data.files import HEIF
from sidetune.data.names import printable
from sidetune.data.pixels import extent_of, is_deep, levels_of, to_rgb, values_of
from sidetune.data.reading import Levels, Reading
from sidetune.errors import DataError

if importlib.util.find_spec("pillow_heif"):
    import pillow_heif

    pillow_heif.register_heif_opener()
# Of odd metadata in photographs, and of large ones, whose pixels are counted here.
warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.")
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)

ORIENTATION = 0x0112
UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""EXIF's orientation -> what makes a picture upright."""
UPPER_ONLY = 16
"""Pillow keeps the upper 8 of 16 bits of a colour. What stays below this has 12 bits or fewer, and would be black."""


@dataclass(frozen=True, kw_only=True)
class Read:
    """A picture, and what its pixels do not show."""

    picture: Image.Image
    levels: Levels | None = None
    """The range that was mapped to 8 bits; None of a picture that has these."""
    extent: Levels | None = None
    """Of such a picture, its smallest and its largest value."""
    has_more: bool = False
    """Whether the file holds further pictures: pages, frames."""


def open_image(path: str | Path, reading: Reading | None = None) -> Image.Image:
    """Read an image: upright after its EXIF, deep pixels by the rule of `sidetune.data.pixels`, of several the first.

    Raises DataError naming the file if it is missing, unreadable, truncated, or larger than allowed.
    """
    return read_image(path, reading).picture


def read_image(path: str | Path, reading: Reading | None = None) -> Read:
    """`open_image`, and what there is to say of the file."""
    return read_from(path, printable(path), reading or Reading())


def read_from(
    source: str | Path | BinaryIO, called: str, reading: Reading, formats: tuple[str, ...] | None = None
) -> Read:
    """A file by its name, or opened, under the name that it has in messages; of any format if none are given."""
    allowed = allow(reading.max_pixels)
    try:
        with Image.open(source, formats=formats) as image:
            if image.width * image.height > allowed:
                raise too_large(called, f"{image.width:,} x {image.height:,}", allowed)
            is_cut = image.mode in ("RGB", "RGBA", "LA") and ";16" in str(getattr(image, "tile", ""))
            has_more = has_frames(image)
            image.load()
            levels, extent = depth_of(image, reading)
            if is_cut and brightest(image) < UPPER_ONLY:
                raise DataError(
                    f"{called} has 16 bits a colour and uses the lowest 12 at most, which Pillow does not "
                    f"give; save it with 8 bits, or stretched to 16"
                )
            picture = to_rgb(image, levels)
            turned = UPRIGHT.get(orientation_of(image))
            return Read(
                picture=picture if turned is None else picture.transpose(turned),
                levels=levels,
                extent=extent,
                has_more=has_more,
            )
    except DataError:
        raise
    except FileNotFoundError:
        raise DataError(f"no image at {called}") from None
    except UnidentifiedImageError:
        heif = " without pillow-heif (pip install pillow-heif)" if Path(called).suffix.lower() in HEIF else ""
        raise DataError(f"{called} is not an image that can be read{heif}") from None
    except Image.DecompressionBombError as e:
        raise too_large(called, str(e), allowed) from None
    except Exception as e:  # decoders of damaged files raise nearly anything
        raise DataError(f"{called} is damaged or cannot be read: {e or type(e).__name__}") from None


def depth_of(image: Image.Image, reading: Reading) -> tuple[Levels | None, Levels | None]:
    """The levels and the extent of a deep picture."""
    if not is_deep(image.mode):
        return None, None
    values = values_of(image)
    return reading.levels or levels_of(image, values), extent_of(values)


def allow(max_pixels: int | None) -> float:
    """How many pixels a picture may have, Pillow's own bound raised to it where it is lower."""
    bound = 2 * Image.MAX_IMAGE_PIXELS if Image.MAX_IMAGE_PIXELS else math.inf  # it warns at one and refuses at two
    if max_pixels is not None and max_pixels > bound:
        Image.MAX_IMAGE_PIXELS = -(-max_pixels // 2)
    return bound if max_pixels is None else max_pixels


def too_large(called: str, size: str, allowed: float) -> DataError:
    return DataError(f"{called} has too many pixels ({size}), at most {allowed:,} are read; max_pixels allows more")


def has_frames(image: Image.Image) -> bool:
    """Whether there are pictures behind the first; a telephone's previews do not count."""
    try:
        return image.format != "MPO" and bool(getattr(image, "is_animated", False))
    except Exception:  # what cannot be found is not there; the first picture is read all the same
        return False


def orientation_of(image: Image.Image) -> int:
    """From EXIF, which may hold anything; 1, upright, if it says nothing that can be used."""
    try:
        found = image.getexif().get(ORIENTATION)
    except Exception:
        return 1
    return found if isinstance(found, int) else 1


def brightest(image: Image.Image) -> int:
    """The largest value of any colour."""
    return max(int(np.asarray(band).max()) for band in image.split()[:3])
