"""The features of a folder of images in one file: header, marks, records.

    "SIDETUNE" | length and CRC-32 of the header, 4 bytes each | header (JSON)                            | to 4096
    for each image: state, then the CRC-32 of its record under each k, 4 bytes each                       | to 4096
    for each k, for each image: its features as the service sent them (`sidetune.wire.codec`), unpacked

The file has its full size from the start, so that a disk that is too small is noticed before anything is sent. A record
counts once its mark is set and its bytes have the mark's CRC, whatever was cut off by a loss of power. Records are read
one by one, not mapped into memory: that works for files of any size where addresses have 32 bits, and with memory
pages of any size.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import os
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np

from sidetune.atomic import replacing
from sidetune.edge.images import Item
from sidetune.edge.parameters import Array
from sidetune.errors import DataError, NoSpace
from sidetune.wire.ask import Ask
from sidetune.wire.codec import decode, num_bytes
from sidetune.wire.metadata import ModelCard

MAGIC, FORMAT, PAGE = b"SIDETUNE", 1, 4096
MISSING, DONE, REFUSED = 0, 1, 2
"""States of an image; the service could not read those that it refused."""


@dataclass(frozen=True, kw_only=True)
class Header:
    card: ModelCard
    ks: tuple[int, ...]
    """Each k whose sum of taps z_0 + ... + z_k is kept."""
    precision: str
    classes: tuple[str, ...]
    images: tuple[Item, ...]

    @property
    def shape(self) -> tuple[int, int]:
        """Tokens and channels of an image's features."""
        return self.card.num_tokens, self.card.width

    @property
    def record_bytes(self) -> int:
        return num_bytes(self.shape, self.precision)

    def asks(self, compression: str = "none") -> list[Ask]:
        return [Ask(k=k, precision=self.precision, compression=compression) for k in self.ks]

    def written(self) -> bytes:
        return json.dumps({"format": FORMAT, **asdict(self)}, separators=(",", ":")).encode()

    @classmethod
    def read(cls, data: bytes) -> Header:
        told: dict[str, Any] = json.loads(data)
        if told.pop("format") != FORMAT:
            raise ValueError(f"this version reads format {FORMAT}")
        card: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in told["card"].items()}
        return cls(
            card=ModelCard(**card),
            ks=tuple(told["ks"]),
            precision=told["precision"],
            classes=tuple(told["classes"]),
            images=tuple(Item(**item) for item in told["images"]),
        )


def paged(num: int) -> int:
    return -(-num // PAGE) * PAGE


@dataclass(frozen=True, kw_only=True)
class Places:
    """Where things lie in the file."""

    marks: int
    records: int
    end: int

    @classmethod
    def of(cls, header: Header, header_bytes: int) -> Places:
        marks = paged(len(MAGIC) + 8 + header_bytes)
        records = marks + paged(4 * (1 + len(header.ks)) * len(header.images))
        return cls(
            marks=marks, records=records, end=records + len(header.ks) * len(header.images) * header.record_bytes
        )


def create(path: Path, header: Header) -> None:
    """Write a file in which all images are missing. Raises NoSpace, leaving none, if the disk cannot hold it."""
    data = header.written()
    places = Places.of(header, len(data))
    with replacing(path, places.end) as beside, beside.open("wb") as file:
        allocate(file.fileno(), places.end, path)
        file.write(MAGIC + np.array([len(data), zlib.crc32(data)], "<u4").tobytes() + data)


def allocate(descriptor: int, size: int, path: Path) -> None:
    """Give a file its size, and its blocks where the system can tell at once whether there are enough."""
    try:
        os.ftruncate(descriptor, size)
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(descriptor, 0, size)
    except OSError as e:
        if e.errno == errno.EFBIG:
            raise NoSpace(f"{path} needs {size:,} bytes, more than its file system allows a file to have") from e
        if e.errno not in (errno.EOPNOTSUPP, errno.EINVAL):  # some C libraries leave it to the file system
            raise


class FeatureFile:
    """An open file; `writable` to fill it, which one process may do at a time."""

    def __init__(self, path: Path, *, writable: bool = False) -> None:
        """Raises FileNotFoundError, or DataError for a file that is not one of these, or cut off."""
        self.path = path
        self.file = path.open("r+b" if writable else "rb", buffering=0)
        try:
            if writable:
                lock(self.file.fileno(), path)
            self.header, self.places = read_header(self.file, path)
            num, ks = len(self.header.images), len(self.header.ks)
            marks = np.frombuffer(self.read(4 * num * (1 + ks), self.places.marks), "<u4").reshape(num, 1 + ks)
        except BaseException:
            self.file.close()
            raise
        known = np.isin(marks[:, 0], (DONE, REFUSED))  # a mark that was damaged is none
        self.states, self.checksums = np.where(known, marks[:, 0], MISSING), marks[:, 1:].copy()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, at: TracebackType | None) -> None:
        self.file.close()

    def place(self, image: int, k: int) -> int:
        number = self.header.ks.index(k) * len(self.header.images) + image
        return self.places.records + number * self.header.record_bytes

    def record(self, image: int, k: int) -> np.ndarray:
        """An image's bytes (record_bytes). Raises DataError for a file that was cut off since it was opened."""
        return np.frombuffer(self.read(self.header.record_bytes, self.place(image, k)), np.uint8)

    def read(self, num: int, place: int) -> bytes:
        data = os.pread(self.file.fileno(), num, place)
        while len(data) < num:
            if not (more := os.pread(self.file.fileno(), num - len(data), place + len(data))):
                raise DataError(f"{self.path} ends at {place + len(data):,} bytes, before the features at {place:,} do")
            data += more
        return data

    def put(self, image: int, records: Mapping[int, bytes | memoryview]) -> None:
        """Write an image's record under each k, then its mark."""
        checksums = []
        for k in self.header.ks:
            assert len(records[k]) == self.header.record_bytes
            self.write(records[k], self.place(image, k))
            checksums.append(zlib.crc32(records[k]))
        self.mark(image, DONE, checksums)

    def mark(self, image: int, state: int, checksums: Sequence[int]) -> None:
        row = np.array([state, *checksums], "<u4")
        self.write(row.tobytes(), self.places.marks + image * row.nbytes)
        self.states[image], self.checksums[image] = state, checksums

    def write(self, data: bytes | memoryview, place: int) -> None:
        try:
            done = os.pwrite(self.file.fileno(), data, place)
            while done < len(data):
                done += os.pwrite(self.file.fileno(), memoryview(data)[done:], place + done)
        except OSError as e:
            if e.errno in (errno.ENOSPC, errno.EDQUOT):
                raise NoSpace(f"no space left on the disk of {self.path}; what is in it stays good") from e
            raise

    def damaged(self, ks: Sequence[int]) -> list[int]:
        """Images marked done whose bytes are not those that were written."""
        bad = set()
        for column, k in enumerate(self.header.ks):
            for image in np.flatnonzero(self.states == DONE) if k in ks else ():
                if zlib.crc32(self.record(int(image), k).data) != self.checksums[image, column]:
                    bad.add(int(image))
        return sorted(bad)

    def sync(self) -> None:
        os.fsync(self.file.fileno())

    def part(self, name: str) -> np.ndarray:
        """Indices of the images of a part that are there."""
        return np.array(
            [i for i, item in enumerate(self.header.images) if item.part == name and self.states[i] == DONE], np.int64
        )

    def digest(self, part: str, k: int) -> str:
        """SHA-256 of a part's labels and of what is kept of its images under `k`, by their checksums."""
        images, column = self.part(part), self.header.ks.index(k)
        rows = np.stack([self.labels()[images].astype("<u4"), self.checksums[images, column]], axis=1)
        return hashlib.sha256(rows.tobytes()).hexdigest()

    def labels(self) -> np.ndarray:
        return np.array([item.label for item in self.header.images], np.int64)

    def batch(self, images: Sequence[int] | np.ndarray, k: int, out: Array) -> Array:
        """Decode images' features into the first rows of `out` (at least as many, tokens, channels)."""
        for row, image in zip(out, images, strict=False):
            decode(self.record(int(image), k), self.header.shape, self.header.precision, out=row)
        return out[: len(images)]


def read_header(file: Any, path: Path) -> tuple[Header, Places]:
    start = file.read(len(MAGIC) + 8)
    if start[: len(MAGIC)] != MAGIC or len(start) < len(MAGIC) + 8:
        raise DataError(f"{path} is no file of features; `sidetune edge enroll` writes one")
    length, crc = (int(n) for n in np.frombuffer(start, "<u4", 2, len(MAGIC)))
    data = file.read(length)
    if len(data) != length or zlib.crc32(data) != crc:
        raise DataError(f"the header of {path} is damaged; remove the file and enrol again")
    try:
        header = Header.read(data)
    except (KeyError, TypeError, ValueError) as e:
        raise DataError(f"the header of {path} cannot be read: {e}") from e
    places = Places.of(header, length)
    if (size := os.fstat(file.fileno()).st_size) != places.end:
        raise DataError(f"{path} should have {places.end:,} bytes but has {size:,}; it was cut off or is not whole")
    return header, places


def lock(descriptor: int, path: Path) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as e:
        raise DataError(f"another process is writing to {path}") from e
