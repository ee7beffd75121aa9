"""LoRA (Hu et al., 2022): X' = X W + X A B, equation 2 of the DTL paper."""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sidetune.backbones.backbone import Backbone
from sidetune.backbones.family import Family, Role
from sidetune.methods.layers import lacks
from sidetune.methods.method import Adaptation, Make, Method, check_positive

IN_ATTENTION: tuple[Role, ...] = ("qkv", "q", "v")
WITHOUT_ATTENTION: tuple[Role, ...] = ("fc1", "fc2")
"""Linear layers that are wrapped. ConvNeXt has no attention; at rank 4 this is the journal's 0.72 M."""


class LowRank(nn.Module):
    """A frozen linear layer (or 1 x 1 convolution) plus low-rank updates of `num_parts` equal slices of its output.

    `slices` says which of the slices are updated: (0, 2) of 3 are q and v of a fused qkv.
    """

    def __init__(
        self,
        base: nn.Linear | nn.Conv2d,
        rank: int,
        scale: float,
        num_parts: int,
        slices: tuple[int, ...],
        dropout: float,
    ) -> None:
        super().__init__()
        self.base, self.scale, self.num_parts, self.slices = base, scale, num_parts, slices
        self.dropout = nn.Dropout(dropout)
        num_outputs, num_inputs = base.weight.shape[:2]
        self.down = nn.Parameter(torch.empty(len(slices), rank, num_inputs))
        self.up = nn.Parameter(torch.zeros(len(slices), num_outputs // num_parts, rank))
        for part in self.down:
            nn.init.kaiming_uniform_(part, a=math.sqrt(5))

    def forward(self, x: Tensor) -> Tensor:
        down, up = self.down.flatten(0, 1), self.scale * spread(self.up, self.slices, self.num_parts)
        if isinstance(self.base, nn.Conv2d):
            return self.base(x) + F.conv2d(F.conv2d(self.dropout(x), down[:, :, None, None]), up[:, :, None, None])
        return self.base(x) + F.linear(F.linear(self.dropout(x), down), up)

    @torch.no_grad()
    def merge(self) -> nn.Linear | nn.Conv2d:
        """A plain layer that computes the same."""
        merged = copy.deepcopy(self.base)
        up = self.scale * spread(self.up, self.slices, self.num_parts)
        merged.weight += (up @ self.down.flatten(0, 1)).view_as(merged.weight)
        return merged


def spread(up: Tensor, slices: tuple[int, ...], num_parts: int) -> Tensor:
    """The up-projections of all slices as one (out, len(slices) * rank) matrix, zero where nothing is updated."""
    rows = []
    for part in range(num_parts):
        blocks = [up[j] if s == part else torch.zeros_like(up[j]) for j, s in enumerate(slices)]
        rows.append(torch.cat(blocks, dim=1))
    return torch.cat(rows)


@dataclass(frozen=True, kw_only=True)
class LoRA(Method):
    """Low-rank updates of linear layers. On attention either q and v apart (24 units on ViT-B/16), or, with `fused`,
    one pair of matrices for the fused qkv as in NOAH; both have the same number of parameters."""

    rank: int = 8
    scale: float = 1.0
    fused: bool = False
    dropout: float = 0.0
    """Of what the update reads."""

    def __post_init__(self) -> None:
        check_positive(self, "rank")

    def refuses(self, family: Family) -> str | None:
        known = family.has(*IN_ATTENTION, *WITHOUT_ATTENTION)
        return None if known else f"{lacks(family, *IN_ATTENTION, *WITHOUT_ATTENTION)}; LoRA updates linear layers"

    def adapt(self, backbone: Backbone) -> Adaptation:
        wraps: dict[int, dict[str, Make]] = {}
        num_units = 0
        places = backbone.paths(*IN_ATTENTION) or backbone.paths(*WITHOUT_ATTENTION)
        for i, block in backbone.blocks.items():
            wraps[i] = {}
            for role, name in places.items():
                layer = block.get_submodule(name)
                if not isinstance(layer, (nn.Linear, nn.Conv2d)):
                    raise ValueError(f"{name} of block {i} is a {type(layer).__name__}; LoRA updates linear layers")
                if self.rank > (width := min(layer.weight.shape[:2])):
                    raise ValueError(f"rank {self.rank} is above the width of {name} in block {i}, {width}")
                apart = role == "qkv" and not self.fused
                num_parts, slices = (3, (0, 2)) if apart else (1, (0,))
                wraps[i][name] = partial(
                    LowRank,
                    rank=self.rank,
                    scale=self.scale,
                    num_parts=num_parts,
                    slices=slices,
                    dropout=self.dropout,
                )
                num_units += len(slices)
        return Adaptation(wraps=wraps, num_units=num_units)
