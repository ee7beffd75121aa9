"""Taps: the places at which a backbone's features are taken, as values with one spelling. Free of PyTorch.

Blocks are counted from 1 as in the papers. The *input* of block i is what the block is called with (behind the
transition of its stage, if it has one); the *output* of block i is tap z_i, and the output of "block 0" is the stem's,
z_0.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Self, get_args

Kind = Literal["input", "output", "sum", "pool"]
KINDS: tuple[str, ...] = get_args(Kind)


@dataclass(frozen=True, order=True)
class Tap:
    """`input.3`, `output.7`, `sum.6` (z_0 + ... + z_6, MIST's gather) or `pool.mean` (of the last block's output).

    Made by the functions below or from its spelling, which check what they are given: a class that checks itself cannot
    be a key where `torch.compile` looks.
    """

    kind: Kind
    at: int | str
    """A block, or the name of a pooling."""

    def __str__(self) -> str:
        return f"{self.kind}.{self.at}"

    @classmethod
    def named(cls, name: str) -> Self:
        """The tap of a spelling. Raises ValueError for one that is none."""
        kind, dot, at = name.partition(".")
        if not dot or kind not in KINDS or (kind != "pool" and str(digits(at)) != at) or name == "input.0":
            raise ValueError(f"unknown tap {name!r}; known: input.I, output.I, sum.K with numbers of blocks, pool.NAME")
        return cls(kind, at if kind == "pool" else int(at))  # type: ignore[arg-type]


Need = frozenset[Tap]
"""Taps that are asked for together. Needs of several tasks join with `|` and are met by one pass."""


def at_least(first: int, number: int) -> int:
    if number < first:
        raise ValueError(f"blocks count from 1, and only outputs and sums have one for the stem, 0; got {number}")
    return number


def digits(text: str) -> int | None:
    return int(text) if text.isascii() and text.isdigit() and len(text) < 5 else None


def block_input(number: int) -> Tap:
    return Tap("input", at_least(1, number))


def block_output(number: int) -> Tap:
    return Tap("output", at_least(0, number))


def sum_of_taps(last: int) -> Tap:
    """z_0 + ... + z_last."""
    return Tap("sum", at_least(0, last))


def pooled(name: str) -> Tap:
    return Tap("pool", name)


def last_block(need: Need, num_blocks: int) -> int:
    """The last block that has to run for these taps, 0 if the stem is enough."""
    return max([0, *(num_blocks if isinstance(tap.at, str) else tap.at for tap in need)])


def poolings(need: Need) -> list[str]:
    """Names of the poolings that are asked for."""
    return sorted(str(tap.at) for tap in need if tap.kind == "pool")


def numbers(need: Need, kind: Kind) -> set[int]:
    """The blocks whose tap of a kind is asked for."""
    return {tap.at for tap in need if tap.kind == kind and isinstance(tap.at, int)}
