"""How much somebody may ask for in the long run."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from starlette.exceptions import HTTPException


def busy(message: str, seconds: float, status: int = 503) -> HTTPException:
    """A refusal that names when to come again: 503 if all callers are too many, 429 if this one is."""
    return HTTPException(status, message, headers={"Retry-After": str(min(max(math.ceil(seconds), 1), 60))})


@dataclass(kw_only=True)
class Bucket:
    """What may be asked for: `rate` a second, saved up for `burst` seconds; who takes more goes into debt."""

    rate: float
    burst: float = 10.0
    clock: Callable[[], float] = time.monotonic
    level: float = field(init=False)
    seen: float = field(init=False)

    def __post_init__(self) -> None:
        self.level, self.seen = self.rate * self.burst, self.clock()

    def debt(self) -> float:
        """Seconds until what was taken is paid back; 0 for who may take more."""
        now = self.clock()
        self.level = min(self.level + self.rate * (now - self.seen), self.rate * self.burst)
        self.seen = now
        return -self.level / self.rate if self.rate and self.level < 0 else 0.0

    def check(self) -> None:
        """Raises 429 while in debt."""
        if (seconds := self.debt()) > 0:
            raise busy(f"more than {self.rate:g} images a second were asked for", seconds, 429)

    def take(self, images: int) -> None:
        self.level -= images
