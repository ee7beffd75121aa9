"""A disk that fails as a test says: full, torn off in the middle of a write, without a rename."""

import errno
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest

CALLS = ("write", "pwrite", "fsync", "replace", "rename", "posix_fallocate", "ftruncate", "unlink")


@dataclass
class FaultyDisk:
    """The calls of `os` that change a disk: told to fail, and counted."""

    monkeypatch: pytest.MonkeyPatch
    seen: dict[str, int] = field(default_factory=lambda: dict.fromkeys(CALLS, 0))
    """How often each call that was given a fault was made."""

    def fail(self, call: str, error: int = errno.ENOSPC, *, at: int = 1) -> None:
        """Let the `at`-th call from now, and every one after it, fail with an error of the system."""
        self.seen[call] = 0

        def failing(real: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
            if self.seen[call] >= at:
                raise OSError(error, os.strerror(error))
            return real(*args, **kwargs)

        self.stand_in(call, failing)

    def shorten(self, call: str, most: int) -> None:
        """Let `write` or `pwrite` take at most so many bytes a time, as a disk that fills up or a signal makes it."""

        def short(real: Callable[..., int], file: int, data: Any, *args: Any) -> int:
            return real(file, memoryview(data).cast("B")[:most], *args)

        self.stand_in(call, short)

    def stand_in(self, call: str, instead: Callable[..., Any]) -> None:
        real = getattr(os, call)

        def counted(*args: Any, **kwargs: Any) -> Any:
            self.seen[call] += 1
            return instead(real, *args, **kwargs)

        self.monkeypatch.setattr(os, call, counted)

    def mend(self) -> None:
        self.monkeypatch.undo()


@pytest.fixture
def faulty_disk() -> Iterator[FaultyDisk]:
    with pytest.MonkeyPatch.context() as monkeypatch:
        yield FaultyDisk(monkeypatch)
