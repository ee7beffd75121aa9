"""Turns: callers share what there is one after the other, however much one of them asks for."""

from __future__ import annotations

import asyncio
from collections import Counter, OrderedDict, deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

SLACK = 1.5


class Lane:
    """Work that takes one of `slots` and a part of a ration; callers take turns.

    What would not fit into the ration now lets the next caller pass. Of several slots, one is kept from `large` work.
    """

    def __init__(self, slots: int, ration: int) -> None:
        self.slots, self.left, self.large_slots = slots, ration, max(slots - 1, 1)
        self.waiting: OrderedDict[str, deque[Ticket]] = OrderedDict()

    @asynccontextmanager
    async def turn(self, caller: str, cost: int, *, large: bool = False) -> AsyncIterator[None]:
        """Wait for a turn, and have it while the block lasts. `cost` must be at most the ration."""
        ticket = Ticket(cost, large, asyncio.get_running_loop().create_future())
        self.waiting.setdefault(caller, deque()).append(ticket)
        self.go_on()
        try:
            await ticket.given
            yield
        finally:
            if ticket.given.done() and not ticket.given.cancelled():
                self.slots, self.left = self.slots + 1, self.left + cost
                self.large_slots += large
            else:
                self.remove(caller, ticket)
            self.go_on()

    def go_on(self) -> None:
        """Give as many turns as there is room for."""
        while (
            self.slots and (caller := next((c for c, q in self.waiting.items() if self.fits(q[0])), None)) is not None
        ):
            ticket = self.waiting[caller][0]
            self.remove(caller, ticket)
            if caller in self.waiting:
                self.waiting.move_to_end(caller)
            if not ticket.given.done():  # whoever waited for it may be gone
                self.slots, self.left = self.slots - 1, self.left - ticket.cost
                self.large_slots -= ticket.large
                ticket.given.set_result(None)

    def fits(self, ticket: Ticket) -> bool:
        return ticket.given.done() or (ticket.cost <= self.left and (not ticket.large or self.large_slots > 0))

    def remove(self, caller: str, ticket: Ticket) -> None:
        queue = self.waiting.get(caller)
        if queue is not None and ticket in queue:
            queue.remove(ticket)
            if not queue:
                del self.waiting[caller]


@dataclass(frozen=True, eq=False)
class Ticket:
    cost: int
    large: bool
    given: asyncio.Future[None]


class Allowance:
    """An amount that callers hold parts of. One alone may hold `limit`; several hold less each and up to half as much
    again together, so that one who takes all that it may leaves room for the next."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.held: Counter[str] = Counter()

    @property
    def total(self) -> int:
        return self.held.total()

    def take(self, caller: str, amount: int) -> bool:
        """Whether the caller may have so much more; it is counted if so."""
        if self.held[caller] + amount > 2 * (SLACK * self.limit - self.total - amount):
            return False
        self.held[caller] += amount
        return True

    def give_back(self, caller: str, amount: int) -> None:
        self.held[caller] -= amount
        if not self.held[caller]:
            del self.held[caller]
