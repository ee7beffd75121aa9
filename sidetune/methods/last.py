"""LAST, Low-rank Attention Side-Tuning (Tang et al., 2024): attention r wide on running sums of a backbone's taps.

With taps z_0, z_1 .. z_m, g blocks between one and the next and z_m the last block's output:

    u_0 = F_0(z_0),   u_i = F_i(u_{i-1} + z_i),   i = 1 .. m
    z   = u_m - (z_0 + ... + z_{m-1})             bias correction, in place of z_m

F_i adds low-rank attention updates to what it is given (MIST's layer): T of them in a row, one in F_0. So u_i is the
sum of the taps so far plus h_i, the sum of all updates so far, and what goes on is z_m + h_m. It is h that is carried:
no large sums are taken from each other, and at the start, h = 0, the network is the plain backbone bit for bit.

Given z_i - z_{i-t} in place of z_i, u_i is h_i plus the sum of the last t taps alone (MIST, section 10: side input).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn

from sidetune.backbones.backbone import Backbone
from sidetune.backbones.family import Family
from sidetune.methods.method import Adaptation, Method, SideNetwork, check_positive
from sidetune.methods.mist import LowRankAttention
from sidetune.seam.features import widened


class Climbed(NamedTuple):
    taps: Tensor
    """z_0 + ... + z_i, or the last t of them, without a graph and in fp32 or wider."""
    h: Tensor
    recent: tuple[Tensor, ...] = ()
    """The last t taps, where t is less than all."""


class AttentionLadder(SideNetwork):
    def __init__(self, backbone: Backbone, rank: int, gap: int, layers: int, window: int | None) -> None:
        super().__init__()
        n, width = backbone.num_blocks, backbone.width(1)
        self.reads, self.writes = tuple(range(1, n + 1, gap)), (n,)
        """The input of block i + 1 is the tap z_i."""

        def make(count: int) -> nn.ModuleList:
            return nn.ModuleList([LowRankAttention(width, rank, backbone.layout) for _ in range(count)])

        self.layers = nn.ModuleDict({str(i - 1): make(1 if i == 1 else layers) for i in (*self.reads, n + 1)})
        """By tap."""
        self.window = window

    def read(self, block: int, x: Tensor, state: Climbed | None) -> Climbed:
        return self.climb(block - 1, x, state)

    def climb(self, tap: int, z: Tensor, state: Climbed | None) -> Climbed:
        recent: tuple[Tensor, ...] = ()
        if self.window is not None:
            recent = (*(state.recent if state else ()), widened(z))[-self.window :]
            taps = torch.stack(recent).sum(0)
        else:
            taps = widened(z) if state is None else state.taps + z
        h = torch.zeros_like(taps) if state is None else state.h
        for layer in cast(Iterable[LowRankAttention], self.layers[str(tap)]):
            h = h + layer.update(taps + h)
        return Climbed(taps, h, recent)

    def write(self, block: int, z: Tensor, state: Climbed) -> Tensor:
        return z + self.climb(block, z, state).h


@dataclass(frozen=True, kw_only=True)
class LAST(Method):
    """On ViT-B/16 rank 16 with T = 2 has 13 layers of 50,688 parameters, 0.66 million; rank 32 with T = 1 has 7."""

    rank: int = 16
    gap: int = 2
    """g: blocks between one tap that is read and the next; the last tap is always read."""
    layers: int = 2
    """T: layers of attention at every tap but the first, which has one."""
    window: int | None = None
    """t: how many taps, the last ones, are summed for a layer; all by default."""
    lr: float = 1e-3

    def __post_init__(self) -> None:
        check_positive(self, "rank", "gap", "layers", "window")

    def refuses(self, family: Family) -> str | None:
        if family.staged:
            return "its taps change shape from stage to stage and cannot be added up"
        return None if family.tokens else "its features are maps, and LAST attends over rows of tokens"

    def adapt(self, backbone: Backbone) -> Adaptation:
        if self.gap > backbone.num_blocks:
            raise ValueError(f"gap {self.gap} is above the number of blocks, {backbone.num_blocks}")
        if self.rank > (width := backbone.width(1)):
            raise ValueError(f"rank {self.rank} is above the width of the backbone, {width}")
        return Adaptation(side=AttentionLadder(backbone, self.rank, self.gap, self.layers, self.window))
