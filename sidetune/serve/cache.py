"""Features on disk by image, within a bound: what many devices ask for is computed once."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import re
import threading
from collections import OrderedDict
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from sidetune.errors import InUse, RunExists

BLOCK = 4096
"""A file takes a multiple of this on disk."""
CHECK = 16
MARK, MARKED = ".sidetune-cache", "features that a sidetune service keeps; they may be removed while it is stopped\n"
"""The file that makes a folder ours, and what it says. Who works on the folder holds its lock."""
FORMER_LOCK = ".lock"
"""Stands empty in a folder of version 0.1, which had no mark."""
SHELF, ENTRY, HALF = (re.compile(p) for p in ("[0-9a-f]{2}", "[0-9a-f]{64}", r"\.[0-9a-f]{64}\.\d+"))
"""Names of folders, of entries, and of entries that were being written."""


class Cache:
    """A folder of files, one for each key, used longest ago thrown away first. Safe to use from several threads.

    Files are renamed into place but not flushed: after a power cut some may be torn, and their checksum says so. It is
    of the key too, so that a file under another's name is noticed. Whatever else lies in the folder is left alone.
    """

    def __init__(self, folder: Path, max_bytes: int) -> None:
        self.folder, self.max_bytes = folder, max_bytes
        self.sizes: OrderedDict[str, int] = OrderedDict()
        self.total = 0
        self.lock = threading.Lock()
        folder.mkdir(parents=True, exist_ok=True)
        check_own(folder)
        self.owner = (folder / MARK).open("a+", encoding="utf-8")
        try:
            fcntl.flock(self.owner, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as e:
            self.owner.close()
            if e.errno in (errno.EAGAIN, errno.EACCES):
                raise InUse(f"the cache {folder} is in use by another service; give each its own") from None
            raise
        if not self.owner.tell():
            self.owner.write(MARKED)
            self.owner.flush()
        self.scan()

    def scan(self) -> None:
        """Take over what an earlier service left."""
        found = []
        for path in files(self.folder):
            if ENTRY.fullmatch(path.name):
                about = path.stat()
                found.append((about.st_mtime, path.name, about.st_size))
            else:  # half written when a service was killed
                path.unlink(missing_ok=True)
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
        if len(data) < CHECK or checksum(data[CHECK:], key) != data[:CHECK]:
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
                file.write(checksum(data, key))
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


def checksum(data: bytes | memoryview, key: str = "") -> bytes:
    return hashlib.blake2b(data, digest_size=CHECK, key=hashlib.sha256(key.encode()).digest() if key else b"").digest()


def files(folder: Path) -> Iterator[Path]:
    """What lies in the folder under names of ours."""
    for shelf in folder.iterdir():
        if SHELF.fullmatch(shelf.name) and shelf.is_dir() and not shelf.is_symlink() and os.access(shelf, os.R_OK):
            for path in shelf.iterdir():
                if (ENTRY.fullmatch(path.name) or HALF.fullmatch(path.name)) and path.is_file():
                    yield path


def check_own(folder: Path) -> None:
    """Raises RunExists where names of ours are taken by files of others."""
    mark, former = folder / MARK, folder / FORMER_LOCK
    if mark.exists():
        is_own = mark.is_file() and mark.read_text(encoding="utf-8", errors="replace") in ("", MARKED)
    else:
        found = [path.read_bytes() for path in islice(files(folder), 8)]  # a power cut may have torn some
        is_former = former.is_file() and not former.stat().st_size
        is_own = not found or (is_former and any(checksum(data[CHECK:]) == data[:CHECK] for data in found))
    if not is_own:
        raise RunExists(f"{folder} holds files of others under names that a cache uses; choose another --cache")
