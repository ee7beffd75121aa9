"""FacT (Jie & Deng, AAAI 2023): the updates of all linear layers as one tensor, decomposed.

A layer whose weight is made of blocks of d x d (q, k, v and o of one, fc1 and fc2 of four) is updated by

    tensor train   dW_k = s U T_k V          T_k of r x r for every block k of every layer
    Tucker         dW_k = s U (sum_j C_j P_jk) V

with U (d -> r) and V (r -> d) shared by all layers, and in the Tucker form the core C (r x r x r) too.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial
from typing import Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sidetune.backbones.backbone import Backbone
from sidetune.backbones.family import LINEAR, Family
from sidetune.methods.layers import (
    LinearLayer,
    check_width,
    from_last,
    lacks,
    linear_layer,
    matrix,
    to_last,
    with_added,
)
from sidetune.methods.method import Adaptation, Make, Method, check_positive

Form = Literal["tt", "tk"]


class Factors(nn.Module):
    """U and V, and the Tucker form's C and P, of all layers of one width; `num_blocks` d x d blocks between them."""

    def __init__(self, width: int, rank: int, form: Form, num_blocks: int) -> None:
        super().__init__()
        self.u = nn.Parameter(nn.init.kaiming_uniform_(torch.empty(rank, width), a=math.sqrt(5)))
        self.v = nn.Parameter(torch.zeros(width, rank))
        if form == "tk":
            self.core = nn.Parameter(nn.init.xavier_uniform_(torch.empty(rank, rank, rank)))
            self.p = nn.Parameter(nn.init.xavier_uniform_(torch.empty(rank, num_blocks)))

    def tucker(self, columns: slice) -> Tensor:
        """sum_j C_j P_jk for the blocks k of one layer, (block, r, r)."""
        return torch.einsum("abj,jk->kab", self.core, self.p[:, columns])


class FactoredUpdate(nn.Module):
    """A frozen linear layer and its part of the decomposed update: `outs` x `ins` blocks of d x d."""

    def __init__(self, base: LinearLayer, factors: Factors, columns: slice, scale: float, dropout: float) -> None:
        super().__init__()
        self.base, self.factors, self.columns, self.scale = base, factors, columns, scale
        rank, width = factors.u.shape
        self.outs, self.ins = (n // width for n in matrix(base).shape)
        self.dropout = nn.Dropout(dropout)
        self.t: nn.Parameter | None = None
        if not hasattr(factors, "core"):
            bound = 1 / math.sqrt(self.ins * rank)
            self.t = nn.Parameter(torch.empty(self.outs * self.ins, rank, rank).uniform_(-bound, bound))

    def cores(self) -> Tensor:
        """T of every block, mapping r -> r, as (outs, ins, r, r)."""
        t = self.factors.tucker(self.columns) if self.t is None else self.t
        return t.unflatten(0, (self.outs, self.ins))

    def forward(self, x: Tensor) -> Tensor:
        u, v, t = self.factors.u, self.factors.v, self.cores().transpose(1, 2).flatten(2).flatten(0, 1)
        codes = F.linear(to_last(x, self.base).unflatten(-1, (self.ins, -1)), u).flatten(-2)
        codes = self.dropout(F.linear(codes, t)).unflatten(-1, (self.outs, -1))
        added = self.scale * F.linear(codes, v).flatten(-2)
        out: Tensor = self.base(x) + from_last(added, self.base)
        return out

    @torch.no_grad()
    def merge(self) -> nn.Module:
        u, v = self.factors.u, self.factors.v
        delta = torch.einsum("pa,oiab,bq->opiq", v, self.cores(), u)
        return with_added(self.base, self.scale * delta.flatten(0, 1).flatten(1))


@dataclass(frozen=True, kw_only=True)
class FacT(Method):
    """61,440 parameters on ViT-B/16 in the tensor-train form of rank 16 (21,504 at 8), 86,528 in the Tucker form of
    rank 32 (30,976 at 16). V starts at zero. Staged networks have factors for each stage.
    """

    form: Form = "tt"
    rank: int = 16
    scale: float = 1.0
    """s; the authors choose 0.01, 0.1, 1, 10 or 100 for each data set."""
    dropout: float = 0.1

    def __post_init__(self) -> None:
        check_positive(self, "rank")
        if self.form not in get_args(Form):
            raise ValueError(f"form must be one of {', '.join(get_args(Form))}, got {self.form!r}")

    def refuses(self, family: Family) -> str | None:
        return None if family.has(*LINEAR) else f"{lacks(family, *LINEAR)}; FacT updates linear layers"

    def adapt(self, backbone: Backbone) -> Adaptation:
        wraps: dict[int, dict[str, Make]] = {i: {} for i in backbone.blocks}
        names = tuple(backbone.paths(*LINEAR).values())
        num_units = 0
        for stage in sorted(set(backbone.stages.values())):
            members = [i for i in backbone.blocks if backbone.stages[i] == stage]
            width = backbone.width(members[0])
            check_width("rank", self.rank, width)
            sizes = {(i, name): self.size(backbone, i, name) for i in members for name in names}
            factors = Factors(width, self.rank, self.form, sum(sizes.values()))
            start = 0
            for (i, name), size in sizes.items():
                columns = slice(start, start + size)
                wraps[i][name] = partial(
                    FactoredUpdate, factors=factors, columns=columns, scale=self.scale, dropout=self.dropout
                )
                start += size
            num_units += start
        return Adaptation(wraps=wraps, num_units=num_units)

    def size(self, backbone: Backbone, block: int, name: str) -> int:
        """How many d x d blocks a layer's weight is made of."""
        width, shape = backbone.width(block), matrix(linear_layer(backbone.blocks[block], name, block)).shape
        if any(n % width for n in shape):
            raise ValueError(
                f"{name} of block {block} is {shape[0]} x {shape[1]}, which blocks of {width} x {width} do not fill; "
                f"FacT decomposes layers that they do"
            )
        return shape[0] // width * (shape[1] // width)
