"""DTLv2 and DTLv2-LS (Fu et al., TPAMI 2025): a sparse side network, one for all stages, with an enhanced fusion G.

h <- h + z_i w_i                   where block i is read, about every m blocks of a stage
h <- connect(h)                    from a stage to the next, a grouped 2 x 2 convolution
z' = z + G(h)                      where a block is written, about every n from block M on
G(h) = theta(g(h)) w' + h          (7)
G'(h) = G(h) * gamma_i + beta_i    (9), L-Share: one G a stage, and for the later ones of blocks that have one h
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal, get_args

from torch import nn

from sidetune.backbones.backbone import Backbone
from sidetune.backbones.structure import owned, rebuild, shared
from sidetune.methods.csn import CompactSideNetwork, ShareScale, fusion_kernel
from sidetune.methods.dtl import Fusion
from sidetune.methods.hidden import LowRankMap
from sidetune.methods.joins import Convolution, Transition
from sidetune.methods.method import Adaptation, Method, check_positive
from sidetune.methods.sparse import places

Share = Literal["apart", "direct", "linear"]
Connection = Literal["reset", "grouped", "full", "backbone", "learned"]


@dataclass(frozen=True, kw_only=True)
class DTLv2(Method):
    """Every choice that the journal varies. Blocks count from 1 over all stages."""

    rank: int | None = None
    """d' of every w and w'; by default 2 on plain ViTs and 4 on staged backbones."""
    m: int | None = None
    """About every m-th block of a stage is read; 4 by default, or the one of a shorter stage."""
    n: int | None = None
    """About every n-th block is written, from `first_write` on; 2 by default."""
    first_write: int | None = None
    """M; N/2 + 1 by default."""
    reads: tuple[int, ...] | None = None
    """The blocks read, in place of m's choice."""
    writes: tuple[int, ...] | None = None
    """The blocks written, in place of the choice of n and M."""
    beta: float = 100.0
    theta: bool = True
    fusion: Fusion = "depthwise"
    kernel: int = 3
    enhanced: bool = True
    """G as in (7); without it the g(theta(h)) of DTLv1 (the journal's table 12)."""
    share: Share = "apart"
    """A G for each write, one for all of a stage (`direct`), or that with gamma and beta (`linear`, L-Share)."""
    connection: Connection = "grouped"
    """How h goes from stage to stage: starts anew, by a convolution in groups or a full one, or by the backbone's own
    transition, as it is or as a copy that is trained. The last two do not start as the identity."""
    group_size: int = 4
    """Input channels to a group of the grouped convolution."""
    lr: float = 1e-2
    pool: str = "mean"

    @property
    def starts_as_identity(self) -> bool:  # type: ignore[override]
        """A transition of the backbone makes its norm's bias of h = 0."""
        return self.connection not in ("backbone", "learned")

    def __post_init__(self) -> None:
        check_positive(self, "rank", "m", "n", "first_write", "kernel", "group_size")
        for name, kind in (("fusion", Fusion), ("share", Share), ("connection", Connection)):
            if (value := getattr(self, name)) not in get_args(kind):
                raise ValueError(f"{name} must be one of {', '.join(get_args(kind))}, got {value!r}")
        if self.beta <= 0:
            raise ValueError(f"beta must be above 0, got {self.beta}")
        if self.reads is not None and self.m is not None:
            raise ValueError("reads names the blocks that m would choose; give one of them")
        if self.writes is not None and not self.n is self.first_write is None:
            raise ValueError("writes names the blocks that n and first_write would choose; give one or the other")

    def adapt(self, backbone: Backbone) -> Adaptation:
        reads, writes = places(
            backbone,
            first_write=self.first_write,
            m=self.m,
            n=self.n,
            reads=self.reads,
            writes=self.writes,
            joined=self.connection != "reset",
        )
        rank = self.rank or (2 if backbone.layout.grid else 4)
        if rank > (widest := max(map(backbone.output_width, (*reads, *writes)))):
            raise ValueError(f"rank {rank} is above the backbone's width where it is read and written, {widest}")
        stages = backbone.stages
        if self.connection in ("backbone", "learned") and max(stages.values()) == 1:
            raise ValueError(
                f"connection={self.connection}: a plain {backbone.family} has one stage, nothing to connect"
            )
        g_of = {i: f"block{i}" if self.share == "apart" else f"stage{stages[i]}" for i in writes}
        widths = {name: backbone.output_width(i) for i, name in g_of.items()}
        scaled = later_of_one_h(reads, writes, stages) if self.share == "linear" else []
        if self.share == "linear" and not scaled:
            warnings.warn(
                f"L-Share has nothing to scale: reads {reads} and writes {writes} give every write an h of its own, "
                f"so this is share=direct",
                stacklevel=2,
            )
        w = {i: LowRankMap(backbone.width(i), rank) for i in reads}
        g = {k: fusion_kernel(d, self.fusion, self.kernel) for k, d in widths.items() if self.fusion != "none"}
        w_prime = {k: LowRankMap(d, rank) for k, d in widths.items() if self.enhanced}
        scale = {i: ShareScale(backbone.output_width(i)) for i in scaled}
        crossed = range(stages[reads[0]] + 1, stages[max(*reads, *writes)] + 1) if self.connection != "reset" else ()
        joins = {stage: self.join(backbone, stage) for stage in crossed}
        side = CompactSideNetwork(
            w=w,
            g=g,
            g_of=g_of,
            writes=writes,
            stages=stages,
            beta=self.beta if self.theta else None,
            layout=backbone.layout,
            w_prime=w_prime,
            scale=scale,
            joins=joins,
        )
        num_joins = 0 if self.connection == "backbone" else len(joins)
        return Adaptation(side=side, num_units=len(w) + len(g) + len(w_prime) + len(scale) + num_joins)

    def join(self, backbone: Backbone, stage: int) -> nn.Module:
        """What brings h from the stage before to this one."""
        first = next(i for i, s in backbone.stages.items() if s == stage)
        if self.connection in ("backbone", "learned"):
            if first not in backbone.transitions:
                raise ValueError(
                    f"connection={self.connection} takes what stands between the stages, but this {backbone.family} "
                    f"changes shape inside block {first}; use grouped, full or reset"
                )
            transition = backbone.transitions[first]
            own = rebuild(transition, lambda _, t: owned(t)) if self.connection == "learned" else shared(transition)
            return Transition(own, backbone.layout)
        width, next_width = backbone.output_width(first - 1), backbone.output_width(first)
        size, next_size = (map_size(backbone, i) for i in (first - 1, first))
        stride = max(1, *(round(a / b) for a, b in zip(size, next_size, strict=True)))
        groups = 1 if self.connection == "full" else num_groups(width, next_width, self.group_size)
        if backbone.steps is None:
            return Convolution(width, next_width, next_size, stride, groups)
        rounds_up = rounding(backbone, first, stride)
        return Convolution(width, next_width, next_size, stride, groups, size=size, rounds_up=rounds_up)


def rounding(backbone: Backbone, first: int, stride: int) -> bool | None:
    """Whether the stage that begins with a block has its number of places rounded up where `stride` does not divide
    it; None if it is no such fraction."""
    places = 8 * stride + 1
    after, _ = backbone.places_after(first, (places, places))
    return {-(-places // stride): True, places // stride: False}.get(after)


def later_of_one_h(reads: tuple[int, ...], writes: tuple[int, ...], stages: Mapping[int, int]) -> list[int]:
    """Writes that add the very h of the write before: in its stage, and nothing is read between."""
    return [j for i, j in pairwise(writes) if stages[i] == stages[j] and not any(i < k <= j for k in reads)]


def num_groups(width: int, next_width: int, group_size: int) -> int:
    """width / group_size, or the next smaller number that divides both widths."""
    common = math.gcd(width, next_width)
    return max(k for k in range(1, max(width // group_size, 1) + 1) if common % k == 0)


def map_size(backbone: Backbone, block: int) -> tuple[int, int]:
    """Rows and columns of a block's output."""
    shape = backbone.output_shapes[block]
    rows, columns = shape[1:] if backbone.layout.channels_first else shape[:2]
    return rows, columns
