"""LoRand (Yin et al., CVPR 2023): bottleneck adapters whose weights are sums of low-rank products.

    adapter(x) = x + P_2(gelu(P_1 x)),   P x = sum_b x A_b K_b C_b + bias

P_1 goes from d to d / 2 and P_2 back. One adapter stands after the attention and one after the MLP of every block,
inside its residual branch. Nothing starts at zero, so the network is not the plain backbone at the start.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sidetune.backbones.backbone import Backbone
from sidetune.backbones.family import Family, Role
from sidetune.methods.layers import lacks
from sidetune.methods.method import Adaptation, Method, check_positive

PLACES: tuple[Role, ...] = ("projection", "fc2")
"""The last layers of the attention and of the MLP; an adapter is put behind each."""


class LowRankSum(nn.Module):
    """P: a linear layer whose weight is sum_b A_b K_b C_b, never formed."""

    def __init__(self, num_inputs: int, num_outputs: int, rank: int, branches: int) -> None:
        super().__init__()
        self.a = nn.Parameter(torch.empty(branches, num_inputs, rank))
        self.k = nn.Parameter(torch.empty(branches, rank, rank))
        self.c = nn.Parameter(torch.empty(branches, rank, num_outputs))
        for factor in (self.a, self.k, self.c):
            for branch in factor:
                nn.init.kaiming_uniform_(branch, a=math.sqrt(5))
        self.bias = nn.Parameter(torch.empty(num_outputs).uniform_(-1, 1) / math.sqrt(num_inputs))

    def forward(self, x: Tensor) -> Tensor:
        codes = F.linear(x, self.a.transpose(1, 2).flatten(0, 1))
        return F.linear(codes, (self.k @ self.c).flatten(0, 1).T, self.bias)


class LoRandAdapter(nn.Module):
    """The layer it stands behind, and the adapter."""

    def __init__(self, base: nn.Linear, rank: int, branches: int) -> None:
        super().__init__()
        width = base.out_features
        self.base = base
        self.down = LowRankSum(width, width // 2, rank, branches)
        self.up = LowRankSum(width // 2, width, rank, branches)

    def forward(self, x: Tensor) -> Tensor:
        x = self.base(x)
        return x + self.up(F.gelu(self.down(x)))


@dataclass(frozen=True, kw_only=True)
class LoRand(Method):
    """Two branches of rank 8 are the 1.20 million of the tables on Swin-B, four are the DTL journal's 2.4 million."""

    starts_as_identity = False

    rank: int = 8
    branches: int = 2
    lr: float = 1e-3

    def __post_init__(self) -> None:
        check_positive(self, "rank", "branches")

    def refuses(self, family: Family) -> str | None:
        known = all(map(family.has, PLACES))
        return None if known else f"{lacks(family, *PLACES)}; adapters stand behind the attention and the MLP"

    def adapt(self, backbone: Backbone) -> Adaptation:
        wraps: dict[int, dict[str, Callable[[nn.Module], nn.Module]]] = {}
        names = tuple(map(backbone.path, PLACES))
        for i, block in backbone.blocks.items():
            for name in names:
                layer = block.get_submodule(name)
                if not isinstance(layer, nn.Linear):
                    raise ValueError(f"{name} of block {i} is a {type(layer).__name__}; LoRand follows linear layers")
            if self.rank > (narrow := backbone.output_width(i) // 2):
                raise ValueError(f"rank {self.rank} is above half the width of block {i}, {narrow}")
            wraps[i] = dict.fromkeys(names, partial(LoRandAdapter, rank=self.rank, branches=self.branches))
        return Adaptation(wraps=wraps, num_units=len(names) * len(wraps))
