"""Threads for short work; callers take turns."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from sidetune.serve.lane import Lane

T = TypeVar("T")


class Hands:
    """No more is handed to the threads than they can begin: what waits, waits where callers take turns."""

    def __init__(self, number: int) -> None:
        self.threads = ThreadPoolExecutor(number, thread_name_prefix="images")
        self.lane = Lane(number, 0)

    async def do(self, work: Callable[[], T], caller: str) -> T:
        async with self.lane.turn(caller, 0):
            return await asyncio.get_running_loop().run_in_executor(self.threads, work)

    def close(self) -> None:
        """Waits for what has begun."""
        self.threads.shutdown()
