"""A process that decodes: an image file comes in, what is seen of it goes out. It may be killed at any moment.

in:  JSON with the bytes of the file, the most pixels it may have and the geometry, on a line of its own | the file
out: width, height (8 bytes each) | pixels (height, width, 3), or 0, bytes of a message | the message
"""

from __future__ import annotations

import json
import os
import resource
import signal
import struct
import sys
from dataclasses import asdict
from typing import BinaryIO

from sidetune.data.geometry import Geometry
from sidetune.serve.decoding import decoded
from sidetune.wire.message import WireError

PAIR = struct.Struct("<QQ")
MEMORY = 3 * 2**30
"""Bytes of address space; of 32 million pixels with transparency, decoding takes about a fifth."""


def request(data: bytes | memoryview, max_pixels: int, geometry: Geometry) -> bytes:
    """What stands in front of a file."""
    return json.dumps({"length": len(data), "max_pixels": max_pixels, **asdict(geometry)}).encode() + b"\n"


def serve(requests: BinaryIO, answers: BinaryIO) -> None:
    """Answer until the requests end."""
    while (line := requests.readline()).endswith(b"\n"):
        told = json.loads(line)
        length, max_pixels = told.pop("length"), told.pop("max_pixels")
        try:
            picture = Geometry(**told)(decoded(requests.read(length), max_pixels))
        except WireError as e:
            message = str(e).encode("utf-8", "replace")
            answers.write(PAIR.pack(0, len(message)) + message)
        else:
            answers.write(PAIR.pack(*picture.size))
            answers.write(picture.tobytes())
            del picture
        answers.flush()


def main() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal sends it to everyone; the service ends this one
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a library prints is no answer
    serve(sys.stdin.buffer, answers)


if __name__ == "__main__":
    main()
