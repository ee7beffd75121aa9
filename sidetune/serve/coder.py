"""What a process that decodes does: an image file comes in, pixels go out. It may be killed at any moment.

in:  bytes of the file, most pixels (8 bytes each) | the file
out: width, height (8 bytes each) | pixels (height, width, 3), or 0, bytes of a message | the message
"""

from __future__ import annotations

import os
import resource
import signal
import struct
import sys
from typing import BinaryIO

from sidetune.serve.decoding import decoded
from sidetune.wire.message import WireError

PAIR = struct.Struct("<QQ")
MEMORY = 3 * 2**30
"""Bytes of address space; of 32 million pixels with transparency, decoding takes about a fifth."""


def serve(requests: BinaryIO, answers: BinaryIO) -> None:
    """Answer until the requests end."""
    while len(head := requests.read(PAIR.size)) == PAIR.size:
        length, max_pixels = PAIR.unpack(head)
        try:
            picture = decoded(requests.read(length), max_pixels)
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
