"""Files that are either whole or not there: written beside, flushed to disk, renamed."""

from __future__ import annotations

import errno
import glob
import os
import platform
import shutil
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from sidetune.errors import NoSpace

STALE_SECONDS = 24 * 3600


@contextmanager
def replacing(path: Path, num_bytes: int = 0) -> Iterator[Path]:
    """Give a path in a folder beside `path` to write to; rename it into place if the block succeeds.

    The folder is for temporary files of the writer's too. It is removed at the end, or by the next writer of `path` if
    this one is killed. Raises NoSpace, before anything is written if `num_bytes` are known not to fit.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    remove_stale(path.parent, glob.escape(path.name))
    if num_bytes > (free := shutil.disk_usage(path.parent).free):
        raise NoSpace(f"{path} needs {num_bytes / 2**20:,.0f} MiB, but its disk has {free / 2**20:,.0f} MiB left")
    writer = f"{platform.node()}~{os.getpid()}~{threading.get_ident()}"
    folder = path.with_name(f".{path.name}.{writer}")
    folder.mkdir(exist_ok=True)
    try:
        yield (half := folder / path.name)
        with half.open("rb+") as file:
            os.fsync(file.fileno())
        os.replace(half, path)
    except OSError as e:
        if e.errno in (errno.ENOSPC, errno.EDQUOT):
            raise NoSpace(f"no space left on the disk of {path}; what stood there before is untouched") from e
        raise
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def write_text(path: Path, text: str) -> None:
    with replacing(path, len(text)) as beside:
        beside.write_text(text, encoding="utf-8")


def remove_stale(parent: Path, pattern: str) -> None:
    """Take away what writers of files of this pattern that were killed have left."""
    for folder in parent.glob(f".{pattern}.*~*~*"):
        host, pid, _ = folder.name.rsplit("~", 2)
        gone = host.endswith(f".{platform.node()}") and not is_running(int(pid))
        with suppress(FileNotFoundError):  # its writer has just finished
            if gone or time.time() - folder.stat().st_mtime > STALE_SECONDS:
                shutil.rmtree(folder, ignore_errors=True)


def is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True
