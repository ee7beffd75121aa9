"""Features: the one value that crosses from the frozen prefix to the trainable suffix, and how it is asked for.

Blocks are counted from 1 as in the papers. The *input* of block i is what the block is called with (behind the
transition of its stage, if it has one); the *output* of block i is tap z_i, and the output of "block 0" is the
stem's, z_0. Features keep no graph.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

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

    def __or__(self, other: Need) -> Need:
        return Need(
            inputs=self.inputs | other.inputs,
            outputs=self.outputs | other.outputs,
            pooled=self.pooled | other.pooled,
        )

    def names(self) -> set[str]:
        """The taps as `Features.named` names them."""
        outputs = {f"outputs.{i}" for i in self.outputs}
        return {f"inputs.{i}" for i in self.inputs} | outputs | {f"pooled.{p}" for p in self.pooled}

    def last_block(self, num_blocks: int) -> int:
        """The last block that has to run, 0 if the stem is enough."""
        return num_blocks if self.pooled else max(self.outputs | self.inputs, default=0)


@dataclass(frozen=True, kw_only=True)
class Features:
    """The taps of a batch of images, each of shape (batch, ...) in the backbone's own layout."""

    inputs: Mapping[int, Tensor] = field(default_factory=dict)
    outputs: Mapping[int, Tensor] = field(default_factory=dict)
    pooled: Mapping[str, Tensor] = field(default_factory=dict)

    def map(self, function: Callable[[Tensor], Tensor]) -> Features:
        """Apply `function` to every tensor."""
        return Features(
            inputs={i: function(t) for i, t in self.inputs.items()},
            outputs={i: function(t) for i, t in self.outputs.items()},
            pooled={p: function(t) for p, t in self.pooled.items()},
        )

    def tensors(self) -> list[Tensor]:
        return [t for _, t in self.named()]

    @property
    def nbytes(self) -> int:
        return sum(t.nbytes for t in self.tensors())

    def named(self) -> list[tuple[str, Tensor]]:
        """The tensors by tap: `inputs.3`, `outputs.7`, `pooled.mean`."""
        return [
            *((f"inputs.{i}", t) for i, t in self.inputs.items()),
            *((f"outputs.{i}", t) for i, t in self.outputs.items()),
            *((f"pooled.{p}", t) for p, t in self.pooled.items()),
        ]

    def to(self, device: torch.device | str, non_blocking: bool = False) -> Features:
        """The same features on another device (the signature of `Tensor.to`, so that data loaders can move them)."""
        return self.map(lambda t: t.to(device, non_blocking=non_blocking))


def join(parts: Sequence[Features], how: Callable[[list[Tensor]], Tensor]) -> Features:
    """Combine features that hold the same taps, tap by tap: `torch.stack` for images, `torch.cat` for batches."""
    first = parts[0]
    return Features(
        inputs={i: how([p.inputs[i] for p in parts]) for i in first.inputs},
        outputs={i: how([p.outputs[i] for p in parts]) for i in first.outputs},
        pooled={k: how([p.pooled[k] for p in parts]) for k in first.pooled},
    )
