"""Images of many requests in one pass of the backbone."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Hashable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Generic, TypeVar

MOST_TURNS = 4096
LATELY = 5.0
"""Seconds for which somebody who was served counts as one who asks."""
SHORT = 1.5
"""Times as long as a pass of one item one may take while several callers ask: who comes at the worst moment waits for
one and is in another, three times what it takes alone."""
FORGETTING, FIRST_GUESS = 0.95, 2
Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass(frozen=True, eq=False)
class Waiting(Generic[Item, Result]):
    item: Item
    caller: str
    since: float
    answer: asyncio.Future[tuple[Result, float]]


class Pace:
    """Seconds of a pass as a + b n by its number of items, fitted to the last ones by least squares."""

    def __init__(self) -> None:
        self.sums: tuple[float, ...] = (0.0,) * 5

    def add(self, n: int, seconds: float) -> None:
        now = (1.0, n, seconds, n * n, n * seconds)
        self.sums = tuple(FORGETTING * old + new for old, new in zip(self.sums, now, strict=True))

    def short(self) -> int:
        """How many items take at most SHORT times as long as one; a guess as long as passes were all of one size."""
        w, n, s, nn, ns = self.sums
        spread = w * nn - n * n
        if spread <= 1e-6 * (w * nn + 1):
            return FIRST_GUESS
        b = max((w * ns - n * s) / spread, 1e-9)
        a = max(s / w - b * n / w, 0.0)
        return int(min(SHORT + (SHORT - 1) * a / b, MOST_TURNS))


class Batcher(Generic[Item, Result]):
    """Gathers items of one kind while the last batch computes, and a little longer, and computes them on one thread.

    Items that want different things (`kind`) never share a batch. Callers take turns: the kind is next that somebody
    wants whose last turn was longest ago, among these the one whose first item waited longest, and a batch takes an
    item of each of its callers before it takes another. Items that nobody waits for any more are left out. While
    several callers ask, a pass takes little longer than one of a single item: where many together take as long as one
    after the other, none waits for all of another's.
    """

    def __init__(
        self,
        compute: Callable[[Sequence[Item], Hashable], Sequence[Result]],
        *,
        max_batch: int,
        max_delay: float,
        on_batch: Callable[[int, float], None],
    ) -> None:
        self.compute, self.max_batch, self.max_delay, self.on_batch = compute, max_batch, max_delay, on_batch
        self.waiting: dict[Hashable, dict[str, deque[Waiting[Item, Result]]]] = {}
        self.turns: dict[str, int] = {}
        """Of callers that wait or waited lately, the number of the batch that was last theirs."""
        self.number = 0
        self.pace = Pace()
        self.guests: dict[str, float] = {}
        """When callers were last served."""
        self.arrived = asyncio.Event()
        self.thread = ThreadPoolExecutor(1, thread_name_prefix="backbone")

    async def submit(self, item: Item, kind: Hashable, caller: str = "") -> tuple[Result, float]:
        """What `compute` makes of the item, and the seconds its batch took; raises what it raised for its batch."""
        answer = asyncio.get_running_loop().create_future()
        entry: Waiting[Item, Result] = Waiting(item, caller, time.monotonic(), answer)
        self.waiting.setdefault(kind, {}).setdefault(caller, deque()).append(entry)
        self.arrived.set()
        return await entry.answer

    async def run(self) -> None:
        """Compute batches until cancelled."""
        try:
            while True:
                kind = await self.next_kind()
                if batch := self.pop(kind):
                    await self.compute_batch(kind, batch)
        finally:
            self.thread.shutdown(wait=False)

    async def next_kind(self) -> Hashable:
        """Wait until a kind's batch is full or its first item has waited long enough."""
        while True:
            self.arrived.clear()
            if not self.waiting:
                await self.arrived.wait()
                continue
            kind = min(self.waiting, key=lambda k: (self.last_turn(k), self.since(k)))
            left = self.since(kind) + self.max_delay - time.monotonic()
            if left <= 0 or sum(map(len, self.waiting[kind].values())) >= self.most(self.waiting[kind]):
                return kind
            try:
                async with asyncio.timeout(left):
                    await self.arrived.wait()
            except TimeoutError:
                pass

    def most(self, callers: Iterable[str]) -> int:
        """Items of the next batch, at most."""
        now = time.monotonic()
        lately = {caller for caller, at in self.guests.items() if now - at < LATELY}
        return self.max_batch if len(lately | set(callers)) < 2 else min(self.pace.short(), self.max_batch)

    def last_turn(self, kind: Hashable) -> int:
        return min(self.turns.get(caller, -1) for caller in self.waiting[kind])

    def since(self, kind: Hashable) -> float:
        return min(queue[0].since for queue in self.waiting[kind].values())

    def pop(self, kind: Hashable) -> list[Waiting[Item, Result]]:
        """The next batch of a kind."""
        queues = self.waiting[kind]
        batch: list[Waiting[Item, Result]] = []
        if len(self.turns) > MOST_TURNS:
            self.turns.clear()
            self.guests.clear()
        order = deque(sorted(queues, key=lambda caller: self.turns.get(caller, -1)))
        most = self.most(queues)
        while order and len(batch) < most:
            caller = order.popleft()
            entry = queues[caller].popleft()
            if queues[caller]:
                order.append(caller)
            else:
                del queues[caller]
            if not entry.answer.done():
                batch.append(entry)
                self.turns[caller], self.guests[caller] = self.number, time.monotonic()
        self.number += 1
        if not queues:
            del self.waiting[kind]
        return batch

    async def compute_batch(self, kind: Hashable, batch: list[Waiting[Item, Result]]) -> None:
        start = time.monotonic()
        loop = asyncio.get_running_loop()
        try:
            results = await loop.run_in_executor(self.thread, self.compute, [b.item for b in batch], kind)
            pairs = list(zip(batch, results, strict=True))
        except Exception as e:
            for b in batch:
                if not b.answer.done():
                    b.answer.set_exception(e)
            return
        seconds = time.monotonic() - start
        self.pace.add(len(batch), seconds)
        for b, result in pairs:
            if not b.answer.done():
                b.answer.set_result((result, seconds))
        self.on_batch(len(batch), seconds)
