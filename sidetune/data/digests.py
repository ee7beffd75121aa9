"""What bytes files hold: whether images are still those that a run began with, and which of them are the same."""

from __future__ import annotations

import hashlib
import os
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

from sidetune.errors import DataError

K = TypeVar("K", bound=Hashable)
TAIL = 4096
"""Bytes at the end of a file that are compared before the whole: beginnings of photographs are often the same."""


def digest_of(path: Path) -> str:
    """SHA-256 of a file's bytes. Raises DataError for a file that cannot be read."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as e:
        raise DataError(f"{path} cannot be read: {e.strerror or e}") from e


def digests_of(paths: Sequence[Path]) -> list[str]:
    """`digest_of` each, on several threads."""
    with ThreadPoolExecutor() as pool:
        return list(pool.map(digest_of, paths))


def same_bytes(paths: Iterable[Path]) -> list[list[Path]]:
    """Groups of files that hold the same bytes, in order; most files are told apart without being read."""
    groups = [list(paths)]
    for key in (size_of, tail_of, digest_of):
        groups = [group for candidates in groups for group in alike(candidates, key)]
    return groups


def alike(paths: Sequence[Path], key: Callable[[Path], K]) -> list[list[Path]]:
    """Those of which two or more have the same key."""
    groups = defaultdict(list)
    for path in paths:
        groups[key(path)].append(path)
    return [group for group in groups.values() if len(group) > 1]


def size_of(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError as e:
        raise DataError(f"{path} cannot be read: {e.strerror or e}") from e


def tail_of(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            file.seek(-min(TAIL, os.fstat(file.fileno()).st_size), os.SEEK_END)
            return hashlib.sha256(file.read()).digest()
    except OSError as e:
        raise DataError(f"{path} cannot be read: {e.strerror or e}") from e
