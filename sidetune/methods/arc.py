"""ARC (Dong et al., NeurIPS 2023): adapters that re-compose one projection, in front of attention and MLP.

x' = x + ((x D) * c) D^T + b, behind the LayerNorm. D is shared by all blocks (one for attention, one for the MLP); c
and b are each block's own. There is no activation, so it folds into the linear layer that reads x'.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sidetune.backbones.backbone import Backbone
from sidetune.backbones.family import ATTENTION_READERS, MLP_READERS, Family
from sidetune.methods.layers import (
    LinearLayer,
    check_width,
    from_last,
    lacks,
    linear_layer,
    matrix,
    to_last,
    with_bias,
)
from sidetune.methods.method import Adaptation, Make, Method, check_positive

READERS = (*ATTENTION_READERS, *MLP_READERS)
"""The layers that read what a block's norms give."""


class Projection(nn.Module):
    """D: d -> rank, shared by blocks."""

    def __init__(self, width: int, rank: int) -> None:
        super().__init__()
        self.down = nn.Parameter(nn.init.xavier_uniform_(torch.empty(rank, width)))


class Recomposed(nn.Module):
    """A frozen linear layer that reads x' in place of x."""

    def __init__(self, base: LinearLayer, projection: Projection, dropout: float, zero: bool) -> None:
        super().__init__()
        self.base, self.projection = base, projection
        rank, width = projection.down.shape
        bound = 0.0 if zero else math.sqrt(6 / (1 + rank))  # Xavier's, for 1 x rank
        self.scale = nn.Parameter(torch.empty(rank).uniform_(-bound, bound))
        self.shift = nn.Parameter(torch.zeros(width))
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        x, d = to_last(x, self.base), self.projection.down
        code = self.dropout(F.linear(x, d) * self.scale)
        out: Tensor = self.base(from_last(x + F.linear(code, d.T, self.shift).to(x.dtype), self.base))
        return out

    @torch.no_grad()
    def merge(self) -> nn.Module:
        d, w = self.projection.down, matrix(self.base)
        merged: LinearLayer = with_bias(self.base)
        merged.weight += ((w @ d.T) * self.scale @ d).view_as(merged.weight)
        assert merged.bias is not None
        merged.bias += w @ self.shift
        return merged


@dataclass(frozen=True, kw_only=True)
class ARC(Method):
    """D starts Xavier-uniform, b at zero, c at zero in front of attention and Xavier-uniform in front of the MLP: not
    the identity. 96,432 parameters on ViT-B/16. Staged networks have a D for each stage.
    """

    starts_as_identity: ClassVar[bool] = False
    rank: int = 50
    dropout: float = 0.1
    lr: float = 1e-2

    def __post_init__(self) -> None:
        check_positive(self, "rank")

    def refuses(self, family: Family) -> str | None:
        known = family.has(*READERS)
        return None if known else f"{lacks(family, *READERS)}; ARC stands between LayerNorms and linear layers"

    def adapt(self, backbone: Backbone) -> Adaptation:
        wraps: dict[int, dict[str, Make]] = {i: {} for i in backbone.blocks}
        projections: dict[tuple[int, str], Projection] = {}
        places = backbone.paths(*READERS)
        for i, block in backbone.blocks.items():
            check_width("rank", self.rank, backbone.width(i))
            for role, name in places.items():
                layer = linear_layer(block, name, i)
                shared_by = backbone.stages[i], name
                if shared_by not in projections:
                    projections[shared_by] = Projection(matrix(layer).shape[1], self.rank)
                wraps[i][name] = partial(
                    Recomposed, projection=projections[shared_by], dropout=self.dropout, zero=role == "qkv"
                )
        return Adaptation(wraps=wraps, num_units=sum(map(len, wraps.values())))
