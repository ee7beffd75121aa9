"""Bodies that come compressed, unpacked piece by piece, so that a bomb is refused before it is held."""

from __future__ import annotations

import zlib
from collections.abc import Iterator

from sidetune.wire.message import WireError

CODINGS = {"gzip": 31, "x-gzip": 31, "deflate": 15}
"""By HTTP's name of the content coding: zlib's `wbits`."""
BARE = -15
"""Of what some senders call deflate: without the zlib header that HTTP means."""
READ, PIECE = 2**16, 2**20
"""Bytes that are read, and at most unpacked, at once."""


def inflate(data: bytes | bytearray, coding: str) -> Iterator[bytes]:
    """Pieces of what a body holds, none of them empty or larger than PIECE; how many to take is up to the caller.

    Raises WireError for a body that is not in this coding, cut off, or longer than its one stream.
    """
    view = memoryview(data)
    stream = zlib.decompressobj(BARE if coding == "deflate" and not has_zlib_header(view) else CODINGS[coding])
    read = 0
    try:
        while read < len(view) and not stream.eof:
            rest: bytes | memoryview = view[read : read + READ]
            read += len(rest)
            while len(rest) and not stream.eof:
                yield from filter(None, [stream.decompress(rest, PIECE)])
                rest = stream.unconsumed_tail
        while not stream.eof and (piece := stream.decompress(b"", PIECE)):
            yield piece
    except zlib.error as e:
        raise WireError(f"the body is not the {coding} that its Content-Encoding says: {e}") from None
    if not stream.eof:
        raise WireError(f"the body's {coding} is cut off")
    if read < len(view) or stream.unused_data:
        raise WireError(f"something follows the end of the body's {coding}")


def count(pieces: Iterator[bytes], limit: int) -> int:
    """Bytes in all of them; beyond the limit, of as many as it takes to be there."""
    total = 0
    for piece in pieces:
        total += len(piece)
        if total > limit:
            break
    return total


def collect(pieces: Iterator[bytes], size: int) -> bytearray:
    """All of them, which are so many bytes together."""
    body, end = bytearray(size), 0
    for piece in pieces:
        body[end : end + len(piece)] = piece
        end += len(piece)
    return body


def has_zlib_header(data: memoryview) -> bool:
    return len(data) >= 2 and data[0] & 15 == 8 and (data[0] << 8 | data[1]) % 31 == 0
