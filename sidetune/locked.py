"""A folder that one process works on at a time."""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sidetune.errors import InUse

try:
    import fcntl
except ImportError:  # Windows has other locks
    fcntl = None  # type: ignore[assignment]

WITHOUT_LOCKS = (errno.ENOLCK, errno.EBADF, errno.EINVAL, errno.ENOTSUP)
"""What disks of other machines answer where they lock no folders."""
held: dict[tuple[Path, int], int] = {}
"""File descriptors by folder and the thread that works on it."""


@contextmanager
def worked_on(folder: Path) -> Iterator[None]:
    """Make the folder and keep others out of it until the block ends, or the process does; no file is left behind.

    A thread may enter a folder again that it works on already. Raises InUse where somebody else does.
    """
    folder.mkdir(parents=True, exist_ok=True)
    mine = folder.resolve(), threading.get_ident()
    if fcntl is None or mine in held:
        yield
        return
    held[mine] = os.open(folder, os.O_RDONLY)
    try:
        lock(held[mine], folder)
        yield
    finally:
        os.close(held.pop(mine))


def lock(place: int, folder: Path) -> None:
    try:
        fcntl.flock(place, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as e:
        if e.errno in (errno.EAGAIN, errno.EACCES):
            raise InUse(
                f"{folder} is being worked on by another process; wait for it, stop it, or choose another folder"
            ) from None
        if e.errno not in WITHOUT_LOCKS:
            raise


def leave_to_parent() -> None:
    """In a process that was forked: what it inherited would keep a folder locked after its parent was killed."""
    for place in held.values():
        os.close(place)
    held.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=leave_to_parent)
