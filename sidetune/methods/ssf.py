"""SSF (Lian et al., NeurIPS 2022): y' = gamma * y + beta on the channels of every layer's output."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sidetune.backbones.backbone import Backbone
from sidetune.backbones.family import Family
from sidetune.methods.layers import channels_first, from_last, to_last, with_bias
from sidetune.methods.method import Adaptation, Method


class ScaleShift(nn.Module):
    """A frozen linear layer, convolution or LayerNorm whose output is scaled and shifted."""

    def __init__(self, base: nn.Linear | nn.Conv2d | nn.LayerNorm) -> None:
        super().__init__()
        self.base = base
        self.scale = nn.Parameter(nn.init.normal_(torch.empty(len(base.weight)), mean=1, std=0.02))
        self.shift = nn.Parameter(nn.init.normal_(torch.empty(len(base.weight)), std=0.02))

    def forward(self, x: Tensor) -> Tensor:
        if isinstance(self.base, nn.LayerNorm):  # its own affine part does it, so its output need not be kept
            weight, bias = self.affine()
            y = F.layer_norm(to_last(x, self.base), self.base.normalized_shape, weight, bias, self.base.eps)
            return from_last(y, self.base)
        y = self.base(x)
        scale, shift = (self.over(v) for v in (self.scale, self.shift))
        return (y * scale + shift).to(y.dtype)  # in full precision, kept in the layer's

    def over(self, v: Tensor) -> Tensor:
        """A vector in a shape that spreads over the layer's output."""
        return v[:, None, None] if channels_first(self.base) else v

    def affine(self) -> tuple[Tensor, Tensor]:
        """Weight and bias of the layer that computes the same alone."""
        weight: Any = self.base.weight
        scaled = weight * self.scale.view(-1, *[1] * (weight.ndim - 1))
        return scaled, self.shift if self.base.bias is None else self.base.bias * self.scale + self.shift

    @torch.no_grad()
    def merge(self) -> nn.Module:
        merged: nn.Module = with_bias(self.base)
        for name, tensor in zip(("weight", "bias"), self.affine(), strict=True):
            merged.get_parameter(name).copy_(tensor)
        return merged


def layers_of(part: nn.Module, *kinds: type[nn.Module]) -> list[str]:
    """Names of the layers of some kinds in a part."""
    return [name for name, module in part.named_modules() if isinstance(module, kinds)]


@dataclass(frozen=True, kw_only=True)
class SSF(Method):
    """On the patch embedding, every linear layer, convolution and LayerNorm of the blocks, and the final norm.

    Transitions between stages stay as they are. gamma starts at N(1, 0.02), beta at N(0, 0.02): not the identity.
    205,824 parameters on ViT-B/16.
    """

    starts_as_identity: ClassVar[bool] = False

    def refuses(self, family: Family) -> str | None:
        return "its norms are BatchNorms; SSF scales linear layers and LayerNorms" if family.batch_norms else None

    def adapt(self, backbone: Backbone) -> Adaptation:
        every = (nn.Linear, nn.Conv2d, nn.LayerNorm)
        names: dict[Any, list[str]] = {i: layers_of(block, *every) for i, block in backbone.blocks.items()}
        names["stem"] = layers_of(backbone.stem, *every)
        names["pool"] = layers_of(backbone.pools[backbone.pool_named(self.pool)], nn.LayerNorm)
        wraps = {part: dict.fromkeys(layers, ScaleShift) for part, layers in names.items()}
        return Adaptation(wraps=wraps, num_units=2 * sum(map(len, names.values())))
