"""MIST (Tang et al., CVPR 2025): a tiny attention network on the sum of a backbone's taps.

    f(k) = z_0 + z_1 + ... + z_k                                   gather: one tensor in place of k + 1
    x = f(k) / (k + 1)
    x <- x + softmax(q k^T / sqrt(r)) v W_o,  [q k v] = LN(x) W    LAE: attention r wide, L layers of it
    logits = head(pool(norm(x)))

Norms do not see how large a sum is, but the updates that are added to it do: beside a mean of taps they count sooner.
Nothing is written back, so that all blocks stay frozen: the backbone may run on another machine. The last norm has no
weights of its own; the head holds them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sidetune.backbones.backbone import Backbone
from sidetune.backbones.family import Family
from sidetune.backbones.layout import Layout
from sidetune.methods.method import Adaptation, Method, SideNetwork, check_positive
from sidetune.seam.readout import Normed, Readout
from sidetune.seam.taps import sum_of_taps

Block = Literal["lae", "mlp", "dwconv"]


class LowRankAttention(nn.Module):
    """x + softmax(q k^T / sqrt(r)) v W_o: d -> r for each of q, k, v and r -> d back; 4 d r + 2 d parameters."""

    def __init__(self, width: int, rank: int, layout: Layout) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * rank, bias=False)
        self.out = nn.Linear(rank, width, bias=False)
        nn.init.normal_(self.qkv.weight, std=0.02)  # as ViTs begin; PyTorch's own start is wider where d is small
        nn.init.zeros_(self.out.weight)

    def forward(self, x: Tensor) -> Tensor:
        """Tokens (batch, token, channel) -> the same shape."""
        return x + self.update(x)

    def update(self, x: Tensor) -> Tensor:
        """What the layer adds to its tokens."""
        q, k, v = self.qkv(self.norm(x)).chunk(3, dim=-1)
        return self.out(F.scaled_dot_product_attention(q[:, None], k[:, None], v[:, None])[:, 0])


class LowRankMLP(nn.Module):
    """x + W_2 gelu(W_1 LN(x)), d -> 2 r -> d: as many parameters as the attention."""

    def __init__(self, width: int, rank: int, layout: Layout) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.fc = nn.Linear(width, 2 * rank, bias=False)
        self.out = nn.Linear(2 * rank, width, bias=False)
        nn.init.zeros_(self.out.weight)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.out(F.gelu(self.fc(self.norm(x))))


class DepthwiseConvolution(nn.Module):
    """x + a 3 x 3 depthwise convolution of LN(x) over the patches; 9 d + 2 d parameters."""

    def __init__(self, width: int, rank: int, layout: Layout) -> None:
        super().__init__()
        self.layout = layout
        self.norm = nn.LayerNorm(width)
        self.kernel = nn.Parameter(torch.zeros(width, 1, 3, 3))

    def forward(self, x: Tensor) -> Tensor:
        prefix, patches = self.layout.split(self.norm(x))
        maps = F.conv2d(self.layout.to_maps(patches), self.kernel, padding=1, groups=patches.shape[-1])
        h = self.layout.from_maps(maps)
        return x + (h if prefix is None else torch.cat([torch.zeros_like(prefix), h], dim=1))


BLOCKS: dict[str, Callable[[int, int, Layout], nn.Module]] = {
    "lae": LowRankAttention,
    "mlp": LowRankMLP,
    "dwconv": DepthwiseConvolution,
}


class EdgeNetwork(SideNetwork):
    """Layers in a row on the mean of the taps that were gathered; it writes after the last block."""

    def __init__(self, layers: list[nn.Module], k: int | None, num_blocks: int, layout: Layout) -> None:
        """`k`: the last tap of the sum that the network goes on from; None for the last block's output."""
        super().__init__()
        self.layers, self.num_taps, self.layout = nn.ModuleList(layers), 1 if k is None else k + 1, layout
        self.writes = (num_blocks,) if layers or k is not None else ()
        self.source = None if k is None else sum_of_taps(k)

    def write(self, block: int, z: Tensor, state: Any) -> Tensor:
        if not len(self.layers):
            return z
        x = self.layout.to_side(z) / self.num_taps
        for layer in self.layers:
            x = layer(x.flatten(1, -2)).view_as(x) if isinstance(layer, LowRankAttention) else layer(x)
        return self.layout.from_side(x)


@dataclass(frozen=True, kw_only=True)
class MIST(Method):
    """Every choice that the paper varies."""

    starts_as_identity = False  # it goes on from a sum of taps, not from the last one

    rank: int = 32
    layers: int = 4
    """L; 0 leaves the edge network out (a linear probe on what is gathered)."""
    block: Block = "lae"
    gather: bool = True
    """Take the sum of taps; without it the last block's output."""
    k: int | None = None
    """The sum runs over z_0 .. z_k; N by default."""
    lr: float = 1e-3
    pool: str = "mean"

    def __post_init__(self) -> None:
        check_positive(self, "rank")
        if self.layers < 0:
            raise ValueError(f"layers must be at least 0, got {self.layers}")
        if self.block not in BLOCKS:
            raise ValueError(f"block must be {', '.join(BLOCKS)}, got {self.block!r}")
        if self.pool not in ("mean", "token"):
            raise ValueError(f"pool must be mean or token, got {self.pool!r}")
        if not self.gather and self.k is not None:
            raise ValueError("k says how many taps are summed; gather=False sums none")

    def refuses(self, family: Family) -> str | None:
        return None if family.keeps_shape else "its blocks change shape, so that their outputs cannot be summed"

    def worth_trying(self, backbone: Backbone) -> Mapping[str, Sequence[int]]:
        """k from N down to a quarter of it."""
        return {"k": sorted({backbone.num_blocks * part // 12 for part in (3, 6, 8, 10, 12)})}

    def readout(self, backbone: Backbone) -> Readout:
        """LayerNorm without weights, then the class token or the mean over patches."""
        last = backbone.num_blocks
        return Normed(last, backbone.output_width(last), backbone.layout, "token" if self.pool == "token" else "mean")

    def adapt(self, backbone: Backbone) -> Adaptation:
        num_blocks, layout = backbone.num_blocks, backbone.layout
        k = num_blocks if self.k is None else self.k
        if not 0 <= k <= num_blocks:
            raise ValueError(f"k must be in 0..{num_blocks}, got {k}")
        width = backbone.output_width(num_blocks)
        if self.rank > width:
            raise ValueError(f"rank {self.rank} is above the width of the backbone, {width}")
        if self.pool == "token" and not layout.num_prefix_tokens:
            raise ValueError("this backbone has no class token; use pool=mean")
        layers = [BLOCKS[self.block](width, self.rank, layout) for _ in range(self.layers)]
        return Adaptation(
            side=EdgeNetwork(layers, k if self.gather else None, num_blocks, layout),
        )
