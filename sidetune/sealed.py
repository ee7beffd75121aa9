"""What we write says by itself whether it is still as it was written: JSON, and the bytes of a checkpoint."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

from sidetune.errors import DataError

SEAL = "seal"
"""The key, last in the JSON, of the digest of all the text with zeros in its own place."""
ZEROS = "0" * 64
MAGIC = b"sidetune sealed 1\n"
START = len(MAGIC) + len(ZEROS) + 1


def digest_of(value: Any) -> str:
    """SHA-256 of what JSON can say, however its mappings are ordered."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def sealed_json(value: Mapping[str, Any]) -> str:
    """The text of a JSON object that `unsealed_json` reads."""
    text = json.dumps({**value, SEAL: ZEROS}, indent=1, ensure_ascii=False) + "\n"
    head, zeros, tail = text.rpartition(ZEROS)
    return head + hashlib.sha256(text.encode()).hexdigest() + tail


def parsed(path: Path, begin_again: str) -> dict[str, Any]:
    """A JSON object. Raises DataError for a file that holds none; `begin_again` says what to do then."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as e:
        raise DataError(f"{path} is damaged ({e}); {begin_again}") from e
    if not isinstance(value, dict):
        raise DataError(f"{path} is damaged: expected an object, found {type(value).__name__}; {begin_again}")
    return value


def is_sealed(path: Path, value: Mapping[str, Any]) -> bool:
    """Whether the file still is as `sealed_json` gave it; `value` is what was read from it."""
    seal, text = value.get(SEAL), path.read_text(encoding="utf-8")
    if not isinstance(seal, str) or len(seal) != len(ZEROS):
        return False
    head, _, tail = text.rpartition(seal)
    return hashlib.sha256(f"{head}{ZEROS}{tail}".encode()).hexdigest() == seal


def is_as_written(path: Path, value: Mapping[str, Any]) -> bool:
    """`is_sealed`, or from a version that knew neither seals nor formats of such files."""
    return is_sealed(path, value) if SEAL in value or "format" in value else True


class Sealing:
    """What is written through it goes into a file with its digest in front."""

    def __init__(self, file: BinaryIO) -> None:
        self.file, self.digest = file, hashlib.sha256()
        file.write(MAGIC + ZEROS.encode() + b"\n")

    def write(self, data: bytes | memoryview) -> int:
        self.digest.update(data)
        return self.file.write(data)

    def flush(self) -> None:
        self.file.flush()

    def close(self) -> None:
        """Put the digest in front; the file stays open."""
        self.file.seek(len(MAGIC))
        self.file.write(self.digest.hexdigest().encode())


def unsealed(path: Path, former: bytes, begin_again: str) -> memoryview:
    """The content of a file, checked; one that starts with `former` is of a version that knew no seal.

    Raises DataError for any other.
    """
    data = path.read_bytes()
    if data.startswith(former):
        return memoryview(data)
    content = memoryview(data)[START:]
    if data[:START] != MAGIC + hashlib.sha256(content).hexdigest().encode() + b"\n":
        raise DataError(f"{path} is damaged: it is not as it was written; {begin_again}")
    return content
