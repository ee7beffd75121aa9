"""What the head of an image file says it will cost to decode, found without a decoder."""

from __future__ import annotations

import struct
from dataclasses import dataclass

from sidetune.serve.settings import Settings
from sidetune.wire.message import WireError

FORMATS = ("JPEG", "PNG", "WEBP")
LONGEST = 20
"""Times one side may be the other: the shorter is brought to the backbone's size, and the longer follows."""
SEGMENTS = 1000
"""That a JPEG may have before its frame; what cameras write has some dozen."""
FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
"""Markers that begin a frame; the others of this range are tables."""
START_OF_SCAN = b"\xff\xda"


@dataclass(frozen=True, kw_only=True)
class Look:
    width: int
    height: int
    scans: int = 1
    """Passes over the picture that a decoder makes."""

    @property
    def pixels(self) -> int:
        return self.width * self.height

    @property
    def cost(self) -> int:
        """Pixels that are worked on in all."""
        return self.pixels * self.scans


def look(data: bytes | memoryview, settings: Settings) -> Look:
    """Raises WireError for a file of another format, for a damaged head, and for more than the settings allow."""
    if len(data) > settings.max_image_bytes:
        raise WireError(f"it has {len(data)} bytes, at most {settings.max_image_bytes} are allowed")
    found = size_of(data)
    check_size(found.width, found.height, settings)
    if found.scans > settings.max_scans:
        raise WireError(f"it is a JPEG of {found.scans} scans, at most {settings.max_scans} are decoded")
    return found


def check_size(width: int, height: int, settings: Settings) -> None:
    if width * height > settings.max_pixels:
        raise WireError(f"it is {width} wide and {height} high, at most {settings.max_pixels} pixels are allowed")
    if max(width, height) > LONGEST * min(width, height):
        raise WireError(f"it is {width} wide and {height} high; one side may be at most {LONGEST} times the other")


def size_of(data: bytes | memoryview) -> Look:
    head = bytes(data[:30])
    try:
        if head.startswith(b"\x89PNG\r\n\x1a\n"):
            width, height = struct.unpack_from(">II", head, 16)
            return Look(width=width, height=height)
        if head.startswith(b"\xff\xd8"):
            return of_jpeg(data)
        if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
            return of_webp(head)
    except (struct.error, IndexError):
        raise WireError("it is damaged: its head is cut off") from None
    raise WireError(f"it is none of {', '.join(FORMATS)}, or damaged")


def of_webp(head: bytes) -> Look:
    kind = head[12:16]
    if kind == b"VP8 ":
        width, height = (side & 0x3FFF for side in struct.unpack_from("<HH", head, 26))
    elif kind == b"VP8L":
        (bits,) = struct.unpack_from("<I", head, 21)
        width, height = (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    elif kind == b"VP8X" and len(head) == 30:
        width, height = (1 + int.from_bytes(head[at : at + 3], "little") for at in (24, 27))
    else:
        raise WireError(f"it is none of {', '.join(FORMATS)}, or damaged")
    return Look(width=width, height=height)


def of_jpeg(data: bytes | memoryview) -> Look:
    """Walks from segment to segment up to the frame's. Within a scan 0xFF is always followed by something else, so
    that counting their starts finds all, and those of a thumbnail with them."""
    at = 2
    for _ in range(SEGMENTS):
        while data[at] == 0xFF and data[at + 1] == 0xFF:  # padding
            at += 1
        if data[at] != 0xFF:
            raise WireError("it is damaged: a segment of it does not begin where the one before ends")
        marker, length = data[at + 1], int.from_bytes(data[at + 2 : at + 4], "big")
        if marker in FRAMES:
            height, width = struct.unpack_from(">HH", data, at + 5)
            return Look(width=width, height=height, scans=max(bytes(data).count(START_OF_SCAN), 1))
        at += 2 + max(length, 2)
    raise WireError(f"it is damaged: no frame begins within {SEGMENTS} segments")
