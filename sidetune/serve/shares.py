"""Something that runs out, shared so that nobody can take all of it."""

from __future__ import annotations

from collections.abc import Hashable

PART = 3
"""Times what is left free that a holder may have: one alone gets three quarters, and the next still finds some."""


class Shares:
    """So much of something, and who holds how much of it."""

    def __init__(self, total: int) -> None:
        self.total, self.taken = total, 0
        self.held: dict[Hashable, int] = {}

    @property
    def free(self) -> int:
        return self.total - self.taken

    def take(self, holder: Hashable, amount: int = 1) -> bool:
        """Whether the holder gets so much more; who has nothing yet gets what there is."""
        mine, left = self.held.get(holder, 0), self.free - amount
        if left < 0 or (mine and mine + amount > PART * left):
            return False
        self.held[holder] = mine + amount
        self.taken += amount
        return True

    def give_back(self, holder: Hashable, amount: int = 1) -> None:
        """Of what was taken."""
        self.taken -= amount
        self.held[holder] -= amount
        if not self.held[holder]:
            del self.held[holder]
