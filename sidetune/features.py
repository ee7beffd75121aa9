"""Features: the one value that crosses from the frozen prefix to the trainable suffix, and how it is asked for.

Blocks are counted from 1 as in the papers. The *input* of block i is what the block is called with (behind the
transition of its stage, if it has one); the *output* of block i is tap z_i, and the output of "block 0" is the
stem's, z_0. Features keep no graph.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class Need:
    """What a suffix asks of the prefix. Needs of several tasks join with `|` and are met by one pass."""

    inputs: frozenset[int] = frozenset()
    """Blocks whose input is wanted."""
    outputs: frozenset[int] = frozenset()
    """Blocks whose output is wanted; 0 is the stem."""
    pooled: frozenset[str] = frozenset()
    """Poolings of the last block's output that are wanted; see `Backbone.pools`."""
    gathered: frozenset[int] = frozenset()
    """Each k whose sum of taps z_0 + ... + z_k is wanted (MIST's gather)."""

    def __or__(self, other: Need) -> Need:
        return Need(**{f.name: getattr(self, f.name) | getattr(other, f.name) for f in fields(Need)})

    def names(self) -> set[str]:
        """The taps as `Features.named` names them."""
        return {f"{f.name}.{key}" for f in fields(Need) for key in getattr(self, f.name)}

    def last_block(self, num_blocks: int) -> int:
        """The last block that has to run, 0 if the stem is enough."""
        return num_blocks if self.pooled else max(self.outputs | self.inputs | self.gathered, default=0)


@dataclass(frozen=True, kw_only=True)
class Features:
    """The taps of a batch of images, each of shape (batch, ...) in the backbone's own layout."""

    inputs: Mapping[int, Tensor] = field(default_factory=dict)
    outputs: Mapping[int, Tensor] = field(default_factory=dict)
    pooled: Mapping[str, Tensor] = field(default_factory=dict)
    gathered: Mapping[int, Tensor] = field(default_factory=dict)

    def map(self, function: Callable[[Tensor], Tensor]) -> Features:
        """Apply `function` to every tensor."""
        return from_named([(name, function(t)) for name, t in self.named()])

    def tensors(self) -> list[Tensor]:
        return [t for _, t in self.named()]

    @property
    def nbytes(self) -> int:
        return sum(t.nbytes for t in self.tensors())

    def named(self) -> list[tuple[str, Tensor]]:
        """The tensors by tap: `inputs.3`, `outputs.7`, `pooled.mean`, `gathered.6`."""
        return [(f"{f.name}.{key}", t) for f in fields(self) for key, t in getattr(self, f.name).items()]

    def to(self, device: torch.device | str, non_blocking: bool = False) -> Features:
        """The same features on another device (the signature of `Tensor.to`, so that data loaders can move them)."""
        return self.map(lambda t: t.to(device, non_blocking=non_blocking))


def join(parts: Sequence[Features], how: Callable[[list[Tensor]], Tensor]) -> Features:
    """Combine features that hold the same taps, tap by tap: `torch.stack` for images, `torch.cat` for batches."""
    tensors = [dict(part.named()) for part in parts]
    return from_named([(name, how([t[name] for t in tensors])) for name in tensors[0]])


def from_named(tensors: Iterable[tuple[str, Tensor]]) -> Features:
    """What `Features.named` gave, as features."""
    taps: dict[str, dict[Any, Tensor]] = {f.name: {} for f in fields(Features)}
    for name, tensor in tensors:
        kind, _, key = name.partition(".")
        taps[kind][key if kind == "pooled" else int(key)] = tensor
    return Features(**taps)


def widened(t: Tensor) -> Tensor:
    """In float32 or wider, as sums of taps are kept."""
    return t.to(torch.promote_types(t.dtype, torch.float32))
