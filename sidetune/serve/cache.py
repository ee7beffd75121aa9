"""Features on disk by image, within a bound: what many devices ask for is computed once."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import threading
from collections import OrderedDict
from pathlib import Path

BLOCK = 4096
"""A file takes a multiple of this on disk."""
CHECK = 16


class Cache:
    """A folder of files, one for each key, used longest ago thrown away first. Safe to use from several threads.

    Files are renamed into place but not flushed: after a power cut some may be torn, and their checksum says so.
    """

    def __init__(self, folder: Path, max_bytes: int) -> None:
        self.folder, self.max_bytes = folder, max_bytes
        self.sizes: OrderedDict[str, int] = OrderedDict()
        self.total = 0
        self.lock = threading.Lock()
        folder.mkdir(parents=True, exist_ok=True)
        self.owner = (folder / ".lock").open("w")
        try:
            fcntl.flock(self.owner, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as e:
            self.owner.close()
            if e.errno in (errno.EAGAIN, errno.EACCES):
                raise ValueError(f"the cache {folder} is in use by another service; give each its own") from None
            raise
        self.scan()

    def scan(self) -> None:
        """Take over what an earlier service left."""
        found = []
        for path in self.folder.glob("??/*"):
            if path.name.startswith("."):
                path.unlink(missing_ok=True)  # half written when a service was killed
            else:
                about = path.stat()
                found.append((about.st_mtime, path.name, about.st_size))
        for _, name, size in sorted(found):
            self.note(name, size)
        self.make_room()

    def get(self, key: str) -> bytes | None:
        name = name_of(key)
        with self.lock:
            if name not in self.sizes:
                return None
            self.sizes.move_to_end(name)
        try:
            data = self.path(name).read_bytes()
        except OSError:
            data = b""
        if len(data) < CHECK or checksum(data[CHECK:]) != data[:CHECK]:
            self.forget(name)
            return None
        return data[CHECK:]

    def put(self, key: str, data: bytes | memoryview) -> None:
        """Raises OSError if the disk cannot take it."""
        name = name_of(key)
        path = self.path(name)
        path.parent.mkdir(exist_ok=True)
        beside = path.with_name(f".{name}.{threading.get_ident()}")
        try:
            with beside.open("wb") as file:
                file.write(checksum(data))
                file.write(data)
            os.replace(beside, path)
        finally:
            beside.unlink(missing_ok=True)
        with self.lock:
            self.note(name, CHECK + len(data))
        self.make_room()

    def note(self, name: str, size: int) -> None:
        self.total -= self.sizes.pop(name, 0)
        self.sizes[name] = -(-size // BLOCK) * BLOCK
        self.total += self.sizes[name]

    def make_room(self) -> None:
        while True:
            with self.lock:
                if self.total <= self.max_bytes:
                    return
                name, size = self.sizes.popitem(last=False)
                self.total -= size
                self.path(name).unlink(missing_ok=True)

    def forget(self, name: str) -> None:
        with self.lock:
            self.total -= self.sizes.pop(name, 0)
            self.path(name).unlink(missing_ok=True)

    def close(self) -> None:
        self.owner.close()

    def path(self, name: str) -> Path:
        return self.folder / name[:2] / name


def name_of(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()


def checksum(data: bytes | memoryview) -> bytes:
    return hashlib.blake2b(data, digest_size=CHECK).digest()
