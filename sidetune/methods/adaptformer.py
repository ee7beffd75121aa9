"""AdaptFormer (Chen et al., NeurIPS 2022): an adapter beside the MLP.

x'' = x' + MLP(LN(x')) + s up(ReLU(down(x'))), x' being the output of the attention's residual, not normed.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial

from torch import Tensor, nn
from torch.nn import functional as F

from sidetune.backbones.backbone import Backbone
from sidetune.backbones.family import Family
from sidetune.errors import CannotMerge
from sidetune.methods.adapter import Bottleneck, no_mlp, takes_maps
from sidetune.methods.layers import check_width
from sidetune.methods.method import Adaptation, Method, check_positive


class Beside(nn.Module):
    """A branch with an adapter beside it, both reading what the branch reads."""

    def __init__(self, branch: nn.Sequential, adapter: Bottleneck, scale: float, maps: bool) -> None:
        super().__init__()
        self.branch, self.adapter, self.scale, self.maps = branch, adapter, scale, maps

    def forward(self, x: Tensor) -> Tensor:
        added = self.adapter(x.movedim(1, -1)).movedim(-1, 1) if self.maps else self.adapter(x)
        out: Tensor = self.branch(x) + self.scale * added
        return out

    def merge(self) -> nn.Module:
        raise CannotMerge(
            "AdaptFormer's adapter is not linear (a ReLU stands between its two layers), so it cannot be folded into "
            "the backbone's weights; export the whole model instead (sidetune export)"
        )


@dataclass(frozen=True, kw_only=True)
class AdaptFormer(Method):
    """`down` starts Kaiming-uniform (a = sqrt 5), `up` and both biases at zero. 156,768 parameters on ViT-B/16."""

    hidden: int = 8
    """8 in the tables of VTAB-1k; 64 in the authors' own runs."""
    scale: float = 0.1
    dropout: float = 0.1

    def __post_init__(self) -> None:
        check_positive(self, "hidden")

    def refuses(self, family: Family) -> str | None:
        if family.mlp_branch:
            return None
        if family.has("mlp"):
            return "its blocks do more there than run layers in a row (mlp_branch), so nothing can stand beside"
        return no_mlp(family)

    def adapt(self, backbone: Backbone) -> Adaptation:
        def make(branch: nn.Sequential, width: int) -> Beside:
            check_width("hidden", self.hidden, width)
            adapter = Bottleneck(width, self.hidden, F.relu, self.dropout)
            nn.init.kaiming_uniform_(adapter.down.weight, a=math.sqrt(5))
            for parameter in (adapter.down.bias, adapter.up.weight, adapter.up.bias):
                nn.init.zeros_(parameter)
            return Beside(branch, adapter, self.scale, takes_maps(branch))

        names = backbone.family.mlp_branch
        mlp = backbone.path("mlp")
        for i, block in backbone.blocks.items():
            children = [name for name, _ in block.named_children()]
            if not set(names) <= set(children) or children.index(names[0]) > children.index(mlp):
                raise ValueError(f"block {i} is a {type(block).__name__}; AdaptFormer needs a norm in front of an MLP")
        wraps = {i: {names: partial(make, width=backbone.width(i))} for i in backbone.blocks}
        return Adaptation(wraps=wraps, num_units=backbone.num_blocks)
