"""Evolutionary search for the best of very many candidates that are cheap to score (NOAH's, AutoFormer's)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Generic, TypeVar

C = TypeVar("C")

TRIES = 10
"""Proposals for each candidate that is wanted; in a small or a nearly exhausted space fewer are found."""


@dataclass(frozen=True, kw_only=True)
class Evolution:
    """How long to search; the defaults are NOAH's."""

    generations: int = 15
    population: int = 50
    """Candidates that are scored in each generation, those filled up at random included."""
    parents: int = 10
    mutations: int = 25
    crossovers: int = 25

    @staticmethod
    def of(generations: int, population: int) -> Evolution:
        """The same shares of another population."""
        half = population // 2
        return Evolution(
            generations=generations,
            population=population,
            parents=max(population // 5, 1),
            mutations=half,
            crossovers=half,
        )

    def __post_init__(self) -> None:
        for name in ("generations", "population", "parents"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if min(self.mutations, self.crossovers) < 0 or self.mutations + self.crossovers > self.population:
            raise ValueError(f"mutations and crossovers are parts of the population, {self.population}")


@dataclass(frozen=True, kw_only=True)
class Scored(Generic[C]):
    candidate: C
    score: float
    generation: int
    """Counted from 1."""


def evolve(
    draw: Callable[[], C],
    mutate: Callable[[C], C],
    cross: Callable[[C, C], C],
    admissible: Callable[[C], bool],
    score: Callable[[C], float],
    choose: Callable[[list[C]], C],
    how: Evolution,
    first: C,
    report: Callable[[int, int], None] = lambda done, total: None,
) -> list[Scored[C]]:
    """Every candidate that was scored, best first, none twice; among equals the earlier stands first.

    Starts from `first`, which must be admissible, and random ones; goes on with mutations and crossovers of the best so
    far and more random ones. `report` hears after each score how many of how many at most are done.
    """
    assert admissible(first)
    found: dict[C, Scored[C]] = {}

    def new(propose: Callable[[], C], count: int) -> Iterator[C]:
        """Up to `count` admissible candidates that were not met before."""
        met: set[C] = set()
        for _ in range(TRIES * count):
            if len(met) == count:
                return
            candidate = propose()
            if candidate not in found and candidate not in met and admissible(candidate):
                met.add(candidate)
                yield candidate

    def add(candidate: C, generation: int) -> None:
        found[candidate] = Scored(candidate=candidate, score=score(candidate), generation=generation)
        report(len(found), how.generations * how.population)

    def ranked() -> list[Scored[C]]:
        return sorted(found.values(), key=lambda s: -s.score)

    add(first, 1)
    for candidate in new(draw, how.population - 1):
        add(candidate, 1)
    for generation in range(2, how.generations + 1):
        best = [s.candidate for s in ranked()[: how.parents]]
        count = len(found)
        for propose, share in (
            (lambda best=best: mutate(choose(best)), how.mutations),
            (lambda best=best: cross(choose(best), choose(best)), how.crossovers),
        ):
            for candidate in new(propose, share):
                add(candidate, generation)
        for candidate in new(draw, how.population - (len(found) - count)):
            add(candidate, generation)
    return ranked()
