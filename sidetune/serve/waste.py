"""What callers sent that was refused: who sends much of it waits while others ask."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from sidetune.serve.bucket import Bucket, busy
from sidetune.serve.crowd import Crowd

RATE, SAVED = 16 * 2**20, 1.0
"""Bytes a second of refused requests that a caller may send beside others, saved up for so many seconds."""
LEAST = RATE // 64
"""What a refused request counts, however short it is."""
PATIENCE, WORST = 2.0, 4.0
"""Seconds that a request is held back before it is read, and that a caller is in debt, at most."""
MOST_CALLERS, MOST_HELD = 4096, 32
"""That are kept in mind, and requests of one caller that are held back at once."""


@dataclass
class Waste:
    crowd: Crowd
    clock: Callable[[], float] = time.monotonic
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep
    buckets: dict[str, Bucket] = field(default_factory=dict)
    held: Counter[str] = field(default_factory=Counter)
    """How many requests of each caller wait here."""

    async def passed(self, who: str) -> None:
        """Hold a caller back that is in debt while others ask. Raises 429 where the debt is too long for that.

        Each that is held back adds to the debt as if it were to be refused, so that they go on one after the other.
        """
        if (bucket := self.buckets.get(who)) is None or not self.crowd.others(who):
            return
        if (seconds := bucket.debt()) <= 0:
            return
        if self.held[who] < MOST_HELD:
            self.held[who] += 1
            bucket.take(LEAST)
            try:
                await self.sleep(min(seconds, PATIENCE))
            finally:
                bucket.take(-LEAST)
                self.held[who] -= 1
            if seconds <= PATIENCE:
                return
        raise busy("too much was sent that had to be refused", seconds, 429)

    def add(self, who: str, size: int) -> None:
        """Count a refused request of so many bytes."""
        if who not in self.buckets and len(self.buckets) >= MOST_CALLERS:
            self.buckets.clear()
        bucket = self.buckets.setdefault(who, Bucket(rate=RATE, burst=SAVED, clock=self.clock))
        bucket.debt()  # brings it up to now
        bucket.level = max(bucket.level - max(size, LEAST), -RATE * WORST)
