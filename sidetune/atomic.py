"""Files that are either whole or not there: written beside, flushed to disk, renamed."""

from __future__ import annotations

import errno
import os
import platform
import shutil
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sidetune.errors import NoSpace

STALE_SECONDS = 24 * 3600


@contextmanager
def replacing(path: Path, num_bytes: int = 0) -> Iterator[Path]:
    """Give a path beside `path` to write to; rename it into place if the block succeeds, remove it if not.

    Raises NoSpace, before anything is written if `num_bytes` are known not to fit.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    if num_bytes > (free := shutil.disk_usage(path.parent).free):
        raise NoSpace(f"{path} needs {num_bytes / 2**20:,.0f} MiB, but its disk has {free / 2**20:,.0f} MiB left")
    writer = f"{platform.node()}~{os.getpid()}~{threading.get_ident()}"
    beside = path.with_name(f".{path.name}.{writer}")
    try:
        yield beside
        with beside.open("rb+") as file:
            os.fsync(file.fileno())
        os.replace(beside, path)
    except OSError as e:
        if e.errno in (errno.ENOSPC, errno.EDQUOT):
            raise NoSpace(f"no space left on the disk of {path}; what stood there before is untouched") from e
        raise
    finally:
        beside.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    with replacing(path, len(text)) as beside:
        beside.write_text(text, encoding="utf-8")


def remove_stale(folder: Path, pattern: str) -> None:
    """Take away what was left half written beside files of this pattern by writers that were killed."""
    for beside in folder.glob(f".{pattern}.*~*~*"):
        host, pid, _ = beside.name.rsplit("~", 2)
        gone = host.endswith(f".{platform.node()}") and not is_running(int(pid))
        if gone or time.time() - beside.stat().st_mtime > STALE_SECONDS:
            beside.unlink(missing_ok=True)


def is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True
