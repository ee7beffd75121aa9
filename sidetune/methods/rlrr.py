"""RLRR (Dong et al., CVPR 2024): W' = W + W * (l r), every linear layer rescaled by a rank-1 product.

Linear layers get a shift besides; norms, the patch embedding and the final norm are scaled and shifted as in SSF.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from sidetune.backbones.backbone import Backbone
from sidetune.backbones.family import LINEAR, Family
from sidetune.methods.layers import LinearLayer, lacks, linear_layer, matrix, remade_linear, with_bias
from sidetune.methods.method import Adaptation, Method
from sidetune.methods.ssf import ScaleShift, layers_of


def rescaled(weight: Tensor, left: Tensor, right: Tensor) -> Tensor:
    """W + W * (l r), each equal slice of the rows with its own r. Shapes (out, in), (out, 1), (slice, in)."""
    product = left.unflatten(0, (len(right), -1)) * right[:, None]
    return weight + weight * product.flatten(0, 1)


class Rescaled(nn.Module):
    """A frozen linear layer with rescaled weight and shifted output."""

    def __init__(self, base: LinearLayer, num_slices: int) -> None:
        super().__init__()
        self.base = base
        num_outputs, num_inputs = matrix(base).shape
        self.left = nn.Parameter(torch.empty(num_outputs, 1))
        self.right = nn.Parameter(torch.empty(num_slices, num_inputs))
        self.shift = nn.Parameter(torch.zeros(num_outputs))
        for factor in (self.left, self.right):
            nn.init.kaiming_uniform_(factor)

    def forward(self, x: Tensor) -> Tensor:
        return remade_linear(x, self.base, self.bias(), rescaled, self.left, self.right)

    def bias(self) -> Tensor:
        return self.shift if self.base.bias is None else self.base.bias + self.shift

    @torch.no_grad()
    def merge(self) -> nn.Module:
        merged: LinearLayer = with_bias(self.base)
        merged.weight.copy_(rescaled(matrix(self.base), self.left, self.right).view_as(merged.weight))
        assert merged.bias is not None
        merged.bias.copy_(self.bias())
        return merged


@dataclass(frozen=True, kw_only=True)
class RLRR(Method):
    """l and r start Kaiming-uniform, shifts of linear layers at zero, the rest as in SSF: not the identity.

    288,768 parameters on ViT-B/16, where q, k and v are matrices of their own; in staged networks (Swin) the authors
    keep them in one.
    """

    starts_as_identity: ClassVar[bool] = False

    def refuses(self, family: Family) -> str | None:
        return None if family.has(*LINEAR) else f"{lacks(family, *LINEAR)}; RLRR rescales linear layers"

    def adapt(self, backbone: Backbone) -> Adaptation:
        wraps: dict[Any, dict[str, Any]] = {}
        places = backbone.paths(*LINEAR)
        for i, block in backbone.blocks.items():
            wraps[i] = dict.fromkeys(layers_of(block, nn.LayerNorm), ScaleShift)
            for role, name in places.items():
                linear_layer(block, name, i)
                apart = role == "qkv" and not backbone.family.staged
                wraps[i][name] = partial(Rescaled, num_slices=3 if apart else 1)
        wraps["stem"] = dict.fromkeys(layers_of(backbone.stem, nn.Linear, nn.Conv2d, nn.LayerNorm), ScaleShift)
        pool = backbone.pools[backbone.pool_named(self.pool)]
        wraps["pool"] = dict.fromkeys(layers_of(pool, nn.LayerNorm), ScaleShift)
        return Adaptation(wraps=wraps, num_units=sum(map(len, wraps.values())))
