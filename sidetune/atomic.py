"""Files that are either whole or not there: written beside, flushed to disk, renamed."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sidetune.errors import NoSpace


@contextmanager
def replacing(path: Path, num_bytes: int = 0) -> Iterator[Path]:
    """Give a path beside `path` to write to; rename it into place if the block succeeds, remove it if not.

    Raises NoSpace, before anything is written if `num_bytes` are known not to fit.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    if num_bytes > (free := shutil.disk_usage(path.parent).free):
        raise NoSpace(f"{path} needs {num_bytes / 2**20:,.0f} MiB, but its disk has {free / 2**20:,.0f} MiB left")
    beside = path.with_name(f".{path.name}.{os.getpid()}")
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
