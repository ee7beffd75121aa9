"""Images of many requests in one pass of the backbone."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Generic, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass(frozen=True, eq=False)
class Waiting(Generic[Item, Result]):
    item: Item
    since: float
    answer: asyncio.Future[tuple[Result, float]]


class Batcher(Generic[Item, Result]):
    """Gathers items of one kind while the last batch computes, and a little longer, and computes them on one thread.

    Items that want different things (`kind`) never share a batch; the kind whose first item waited longest is next.
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
        self.waiting: dict[Hashable, deque[Waiting[Item, Result]]] = {}
        self.arrived = asyncio.Event()
        self.thread = ThreadPoolExecutor(1, thread_name_prefix="backbone")

    async def submit(self, item: Item, kind: Hashable) -> tuple[Result, float]:
        """What `compute` makes of the item, and the seconds its batch took; raises what it raised for its batch."""
        entry: Waiting[Item, Result] = Waiting(item, time.monotonic(), asyncio.get_running_loop().create_future())
        self.waiting.setdefault(kind, deque()).append(entry)
        self.arrived.set()
        return await entry.answer

    async def run(self) -> None:
        """Compute batches until cancelled."""
        try:
            while True:
                kind = await self.next_kind()
                await self.compute_batch(kind, self.pop(kind))
        finally:
            self.thread.shutdown(wait=False)

    async def next_kind(self) -> Hashable:
        """Wait until a kind's batch is full or its first item has waited long enough."""
        while True:
            self.arrived.clear()
            if not self.waiting:
                await self.arrived.wait()
                continue
            kind = min(self.waiting, key=lambda k: self.waiting[k][0].since)
            left = self.waiting[kind][0].since + self.max_delay - time.monotonic()
            if left <= 0 or len(self.waiting[kind]) >= self.max_batch:
                return kind
            try:
                async with asyncio.timeout(left):
                    await self.arrived.wait()
            except TimeoutError:
                pass

    def pop(self, kind: Hashable) -> list[Waiting[Item, Result]]:
        queue = self.waiting[kind]
        batch = [queue.popleft() for _ in range(min(len(queue), self.max_batch))]
        if not queue:
            del self.waiting[kind]
        return batch

    async def compute_batch(self, kind: Hashable, batch: list[Waiting[Item, Result]]) -> None:
        start = time.monotonic()
        loop = asyncio.get_running_loop()
        try:
            results = await loop.run_in_executor(self.thread, self.compute, [b.item for b in batch], kind)
        except Exception as e:
            for b in batch:
                if not b.answer.done():
                    b.answer.set_exception(e)
            return
        seconds = time.monotonic() - start
        for b, result in zip(batch, results, strict=True):
            if not b.answer.done():
                b.answer.set_result((result, seconds))
        self.on_batch(len(batch), seconds)
