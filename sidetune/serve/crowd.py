"""How many requests of one caller are worked on at once while others ask."""

from __future__ import annotations

import asyncio
import time
from collections import Counter, deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

LATELY = 5.0
"""Seconds for which a caller that was answered counts as one who asks."""
AT_ONCE = 4
"""Requests of a caller that are read and worked on beside others'; more would fill queues and not go faster."""
MOST_CALLERS = 4096


@dataclass
class Crowd:
    clock: Callable[[], float] = time.monotonic
    answered: dict[str, float] = field(default_factory=dict)
    """When callers got what they asked for; the one who did last comes last."""
    inside: Counter[str] = field(default_factory=Counter)
    outside: dict[str, deque[asyncio.Future[None]]] = field(default_factory=dict)

    def others(self, who: str) -> bool:
        """Whether somebody else was answered lately."""
        last = next((at for caller, at in reversed(self.answered.items()) if caller != who), None)
        return last is not None and self.clock() - last < LATELY

    def served(self, who: str) -> None:
        self.answered.pop(who, None)
        self.answered[who] = self.clock()
        if len(self.answered) > MOST_CALLERS:
            del self.answered[next(iter(self.answered))]

    @asynccontextmanager
    async def place(self, who: str) -> AsyncIterator[None]:
        """Wait until the caller may have one more request worked on, and have it while the block lasts."""
        if self.is_full(who) or who in self.outside:
            place = asyncio.get_running_loop().create_future()
            self.outside.setdefault(who, deque()).append(place)
            try:
                await place
            except asyncio.CancelledError:
                if not place.cancelled():
                    self.leave(who)
                raise
        else:
            self.inside[who] += 1
        try:
            yield
        finally:
            self.leave(who)

    def is_full(self, who: str) -> bool:
        return self.inside[who] >= AT_ONCE and self.others(who)

    def leave(self, who: str) -> None:
        self.inside[who] -= 1
        queue = self.outside.get(who)
        while queue and not self.is_full(who):
            if not (place := queue.popleft()).done():
                self.inside[who] += 1
                place.set_result(None)
        if queue is not None and not queue:
            del self.outside[who]
        if not self.inside[who]:
            del self.inside[who]
