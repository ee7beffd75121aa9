"""What a method adds to one backbone: a side network, wraps inside blocks, a rule for what is trained in it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

from torch import Tensor, nn

from sidetune.seam.taps import Tap

State = Any
"""What a side network carries from block to block (DTL's h)."""


class SideNetwork(nn.Module):
    """A small trainable network beside the blocks. This base reads and writes nothing."""

    reads: tuple[int, ...] = ()
    """Blocks, counted from 1, whose input is read."""
    writes: tuple[int, ...] = ()
    """Blocks whose output is changed; 0 is the stem. Blocks up to the first of them stay frozen."""
    source: Tap | None = None
    """A tap of the frozen half that the first of `writes` is given in place of that block's output, which then need not
    be there: MIST goes on from a sum of taps."""

    def read(self, block: int, x: Tensor, state: State) -> State:
        """Take in the input `x` of a block; `state` is None at first. Called in order for every block in `reads`."""
        return state

    def write(self, block: int, z: Tensor, state: State) -> Tensor:
        """Return what goes on in place of the output `z` of a block. Called for every block in `writes`."""
        return z


Make = Callable[[Any], nn.Module]
"""Given a sub-layer, its replacement."""
Wraps = Mapping[Any, Make]
"""By name of a sub-layer within its part (`attn.qkv`): what makes its replacement. A tuple names sub-layers that run
one straight after the other and are replaced by one; `Make` is given them as an `nn.Sequential`."""


@runtime_checkable
class Folds(Protocol):
    """A replacement that can be folded away again."""

    def merge(self) -> nn.Module:
        """A plain layer that computes the same. Raises CannotMerge where there is none."""
        ...


def nothing(_: str) -> bool:
    return False


@dataclass(frozen=True, kw_only=True, eq=False)
class Adaptation:
    """What a method adds to one backbone."""

    side: SideNetwork = field(default_factory=SideNetwork)
    wraps: Mapping[Any, Wraps] = field(default_factory=dict)
    """By block, or by name of another part (`stem`, `transitions.3`, `pool`): what is replaced in it. Parts not named
    stay as they are."""
    trains: Callable[[str], bool] = nothing
    """Which backbone parameters are trained, by name (`blocks.7.attn.qkv.bias`, `stem...`, `pool.norm.weight`)."""
    num_units: int = 0
    """Minimal structural units inserted into the backbone (DTL, AAAI 2024, table 1)."""

    def wraps_in(self, part: str) -> Wraps:
        """What is replaced in a part, by its name in `Parts.named_parts`."""
        place, _, number = part.partition(".")
        return self.wraps.get(int(number) if place == "blocks" else part, {})
