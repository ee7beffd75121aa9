"""Adapters behind the MLP (Houlsby et al., 2019, in the two forms that vision papers compare with).

x' = x + adapter(x) with adapter(x) = up(act(down(x))), x being the MLP's output; then the block's own residual.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sidetune.backbones.backbone import Backbone
from sidetune.backbones.family import Family
from sidetune.errors import CannotMerge
from sidetune.methods.layers import check_width, lacks
from sidetune.methods.method import Adaptation, Method, check_positive


def no_mlp(family: Family) -> str:
    """Why no adapter stands behind or beside an MLP where a family has none."""
    return f"{lacks(family, 'mlp')}; an adapter goes with an MLP"


class Bottleneck(nn.Module):
    """up(dropout(act(down(x)))), d -> hidden -> d, both with bias."""

    def __init__(self, width: int, hidden: int, act: Callable[[Tensor], Tensor], dropout: float) -> None:
        super().__init__()
        self.down, self.up = nn.Linear(width, hidden), nn.Linear(hidden, width)
        self.act, self.dropout = act, nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.up(self.dropout(self.act(self.down(x))))
        return out


class Behind(nn.Module):
    """A sub-layer with an adapter behind it."""

    def __init__(self, base: nn.Module, adapter: Bottleneck) -> None:
        super().__init__()
        self.base, self.adapter = base, adapter
        self.maps = takes_maps(base)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.base(x)
        return y + (self.adapter(y.movedim(1, -1)).movedim(-1, 1) if self.maps else self.adapter(y))

    def merge(self) -> nn.Module:
        raise CannotMerge(
            "an adapter is not linear (an activation stands between its two layers), so it cannot be folded into the "
            "backbone's weights; export the whole model instead (sidetune export)"
        )


def takes_maps(mlp: nn.Module) -> bool:
    """Whether an MLP is made of 1 x 1 convolutions and works on (batch, channel, row, column)."""
    return any(isinstance(layer, nn.Conv2d) and layer.kernel_size == (1, 1) for layer in mlp.modules())


def quick_gelu(x: Tensor) -> Tensor:
    return x * torch.sigmoid(1.702 * x)


@dataclass(frozen=True, kw_only=True)
class Adapter(Method):
    """NOAH's (Zhang et al., 2022), the "Adapter" of most tables: 156,768 parameters on ViT-B/16.

    Xavier-uniform matrices and biases of N(0, 1e-6): it does not start as the identity.
    """

    starts_as_identity: ClassVar[bool] = False
    hidden: int = 8
    dropout: float = 0.0

    def __post_init__(self) -> None:
        check_positive(self, "hidden")

    def refuses(self, family: Family) -> str | None:
        return None if family.has("mlp") else no_mlp(family)

    def adapt(self, backbone: Backbone) -> Adaptation:
        def make(mlp: nn.Module, width: int) -> Behind:
            check_width("hidden", self.hidden, width)
            adapter = Bottleneck(width, self.hidden, quick_gelu, self.dropout)
            for layer in (adapter.down, adapter.up):
                nn.init.xavier_uniform_(layer.weight)
                nn.init.normal_(layer.bias, std=1e-6)
            return Behind(mlp, adapter)

        mlp = backbone.path("mlp")
        wraps = {i: {mlp: partial(make, width=backbone.width(i))} for i in backbone.blocks}
        return Adaptation(wraps=wraps, num_units=backbone.num_blocks)


@dataclass(frozen=True, kw_only=True)
class ZeroAdapter(Method):
    """VPT's (Jia et al., 2022): wider, and both matrices and biases start at zero.

    So only the bias of `up` gets a gradient in the first step. 1,779,840 parameters on ViT-B/16.
    """

    reduction: int = 8
    """Width of the backbone over the adapter's."""

    def __post_init__(self) -> None:
        check_positive(self, "reduction")

    def refuses(self, family: Family) -> str | None:
        return None if family.has("mlp") else no_mlp(family)

    def adapt(self, backbone: Backbone) -> Adaptation:
        def make(mlp: nn.Module, width: int) -> Behind:
            check_width("reduction", self.reduction, width)
            adapter = Bottleneck(width, width // self.reduction, F.gelu, dropout=0.0)
            for parameter in adapter.parameters():
                nn.init.zeros_(parameter)
            return Behind(mlp, adapter)

        mlp = backbone.path("mlp")
        wraps = {i: {mlp: partial(make, width=backbone.width(i))} for i in backbone.blocks}
        return Adaptation(wraps=wraps, num_units=backbone.num_blocks)
