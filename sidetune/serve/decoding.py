"""Encoded images or pixels -> what a backbone is given, with every limit checked before anything is decoded."""

from __future__ import annotations

import hashlib
import io

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from sidetune.data.images import read_from
from sidetune.data.reading import Reading
from sidetune.errors import DataError
from sidetune.serve.look import FORMATS, Look, check_size, look
from sidetune.serve.settings import Settings
from sidetune.wire.message import WireError

Picture = bytes | memoryview | NDArray[np.uint8]
"""An image file, or pixels (height, width, 3)."""
CHEAP_BYTES, CHEAP_PIXELS = 2**18, 2_000_000
"""What a thread decodes in some hundredths of a second whatever it is; everything else is for a process."""


def digest_of(picture: Picture) -> str:
    """SHA-256 of an image file, or of pixels and their shape."""
    if isinstance(picture, np.ndarray):
        sha = hashlib.sha256(f"pixels {picture.shape}".encode())
        sha.update(np.ascontiguousarray(picture).data)
    else:
        sha = hashlib.sha256(picture)
    return sha.hexdigest()


def looked_at(picture: Picture, settings: Settings) -> Look:
    """What it will cost to decode. Raises WireError for what is not decoded at all."""
    if not isinstance(picture, np.ndarray):
        return look(picture, settings)
    height, width = picture.shape[:2]
    check_size(width, height, settings)
    return Look(width=width, height=height)


def is_cheap(picture: Picture, seen: Look) -> bool:
    return isinstance(picture, np.ndarray) or (len(picture) <= CHEAP_BYTES and seen.cost <= CHEAP_PIXELS)


def decoded(picture: Picture, max_pixels: int) -> Image.Image:
    """Upright RGB, as `sidetune.data.images` reads files. Raises WireError for what cannot be read."""
    if isinstance(picture, np.ndarray):
        return Image.fromarray(picture)
    try:
        return read_from(io.BytesIO(picture), "it", Reading(max_pixels=max_pixels), FORMATS).picture
    except DataError as e:
        raise WireError(str(e)[:200]) from None
