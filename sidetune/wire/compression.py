"""zstd around one image's bytes, where both sides have it."""

from __future__ import annotations

import importlib.util

from sidetune.errors import MissingExtra
from sidetune.wire.message import WireError

COMPRESSIONS = ("none", "zstd")
LEVEL = 3


def has_zstd() -> bool:
    return importlib.util.find_spec("zstandard") is not None


def compress(data: bytes | memoryview) -> bytes:
    """Raises MissingExtra without the package `zstandard`."""
    try:
        import zstandard
    except ModuleNotFoundError as e:
        raise MissingExtra("zstd compression", "zstd") from e
    return zstandard.ZstdCompressor(level=LEVEL, write_content_size=True).compress(data)


def decompress(data: bytes | memoryview, size: int) -> bytes:
    """What must become `size` bytes; raises WireError, before anything is unpacked, for a frame that says otherwise."""
    try:
        import zstandard
    except ModuleNotFoundError as e:
        raise MissingExtra("zstd compression", "zstd") from e
    try:
        announced = zstandard.frame_content_size(data)
        if announced != size:
            raise WireError(f"expected a zstd frame of {size} bytes, got one of {announced}")
        return zstandard.ZstdDecompressor().decompress(data)
    except zstandard.ZstdError as e:
        raise WireError(f"this is no zstd frame, or a damaged one: {e}") from None
