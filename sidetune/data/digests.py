"""What bytes files hold: whether images are still those that a run began with, and which of them are the same."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from sidetune.errors import DataError


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
