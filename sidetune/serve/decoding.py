"""Encoded images or pixels -> what a backbone is given, with every limit checked before anything is decoded."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from sidetune.data.pixels import to_rgb
from sidetune.serve.settings import Settings
from sidetune.wire.message import WireError

LONGEST = 20
"""Times one side may be the other: the shorter is brought to the backbone's size, and the longer follows."""
FORMATS = ("JPEG", "PNG", "WEBP")
Picture = bytes | memoryview | NDArray[np.uint8]
"""An image file, or pixels (height, width, 3)."""


def digest_of(picture: Picture) -> str:
    """SHA-256 of an image file, or of pixels and their shape."""
    if isinstance(picture, np.ndarray):
        sha = hashlib.sha256(f"pixels {picture.shape}".encode())
        sha.update(np.ascontiguousarray(picture).data)
    else:
        sha = hashlib.sha256(picture)
    return sha.hexdigest()


def prepare(picture: Picture, transform: Callable[[Image.Image], Tensor], settings: Settings) -> Tensor:
    """The normalised image (3, height, width); raises WireError for one that cannot be read or is too large."""
    if isinstance(picture, np.ndarray):
        check_pixels(picture.shape[1], picture.shape[0], settings)
        return transform(Image.fromarray(picture))
    if len(picture) > settings.max_image_bytes:
        raise WireError(f"it has {len(picture)} bytes, at most {settings.max_image_bytes} are allowed")
    try:
        with Image.open(io.BytesIO(picture), formats=FORMATS) as image:
            check_pixels(image.width, image.height, settings)
            image.load()
            upright = to_rgb(ImageOps.exif_transpose(image))
    except WireError:
        raise
    except UnidentifiedImageError:
        raise WireError(f"it is none of {', '.join(FORMATS)}, or damaged") from None
    except (Image.DecompressionBombWarning, Image.DecompressionBombError):
        raise WireError(f"it has more than the {settings.max_pixels} pixels allowed") from None
    except Exception as e:  # decoders of damaged files raise nearly anything
        raise WireError(f"it is damaged or cannot be read ({type(e).__name__})") from None
    return transform(upright)


def check_pixels(width: int, height: int, settings: Settings) -> None:
    if width * height > settings.max_pixels:
        raise WireError(f"it is {width} wide and {height} high, at most {settings.max_pixels} pixels are allowed")
    if max(width, height) > LONGEST * min(width, height):
        raise WireError(f"it is {width} wide and {height} high; one side may be at most {LONGEST} times the other")
