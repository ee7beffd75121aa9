"""LST, Ladder Side-Tuning (Sung et al., NeurIPS 2022): a narrow copy of the backbone that climbs beside it.

    h_0 = D_0 z_0
    h_i = F_i(g_i h_{i-1} + (1 - g_i) D_i z_i),   g_i = sigmoid(alpha_i / T),   i = 1 .. N
    z   = U norm(h_N)                             in place of z_N

F_i is block i of the backbone, r times narrower, started by pruning it; D_i goes from d to d / r and U back, both with
bias. All taps z_0 .. z_N are read, nothing else is written, so that all blocks stay frozen.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from sidetune.backbones.backbone import Backbone
from sidetune.backbones.family import Family
from sidetune.methods.layers import lacks
from sidetune.methods.method import Adaptation, Method, SideNetwork, check_positive
from sidetune.methods.pruning import NEEDED, Importance, fisher, magnitude, prune
from sidetune.seam.squares import Measured


class Ladder(SideNetwork):
    """The state is h."""

    def __init__(self, backbone: Backbone, reduction: int, temperature: float) -> None:
        super().__init__()
        width, n = backbone.width(1), backbone.num_blocks
        self.reads, self.writes, self.temperature = tuple(range(1, n + 1)), (n,), temperature
        narrowed, num_heads = backbone.family.narrowed, backbone.family.num_heads
        assert narrowed is not None and num_heads is not None
        self.blocks = nn.ModuleDict({str(i): narrowed(block, i, reduction) for i, block in backbone.blocks.items()})
        self.paths = backbone.paths(*NEEDED)
        self.num_heads = {i: num_heads(block) for i, block in backbone.blocks.items()}
        self.down = nn.ModuleList([nn.Linear(width, width // reduction) for _ in range(n + 1)])
        self.alpha = nn.ParameterDict({str(i): torch.zeros(1) for i in backbone.blocks})
        self.norm = nn.LayerNorm(width // reduction, eps=1e-6)
        self.up = nn.Linear(width // reduction, width)

    def read(self, block: int, x: Tensor, state: Tensor | None) -> Tensor:
        return self.down[0](x) if state is None else self.climb(block - 1, x, state)

    def climb(self, i: int, z: Tensor, h: Tensor) -> Tensor:
        """h_i from the tap z_i and h_{i-1}."""
        gate = torch.sigmoid(self.alpha[str(i)] / self.temperature)
        return self.blocks[str(i)](gate * h + (1 - gate) * self.down[i](z))

    def write(self, block: int, z: Tensor, state: Tensor) -> Tensor:
        return self.up(self.norm(self.climb(block, z, state)))


@dataclass(frozen=True, kw_only=True)
class LST(Method):
    """The ladder takes the place of the last tokens, so nothing computes what the plain backbone does at the start."""

    starts_as_identity = False

    reduction: int = 8
    """r: how many times narrower than the backbone."""
    temperature: float = 0.1
    """T of the gates."""
    start: Literal["fisher", "magnitude"] = "fisher"
    """What side blocks keep of the backbone's: the channels with the most Fisher information about the training images
    (by magnitude until they have been seen), or those of the largest weights."""
    num_fisher_images: int = 128
    lr: float = 3e-3

    def __post_init__(self) -> None:
        check_positive(self, "reduction", "num_fisher_images")
        if self.temperature <= 0:
            raise ValueError(f"temperature must be above 0, got {self.temperature}")
        if self.start not in ("fisher", "magnitude"):
            raise ValueError(f"start must be fisher or magnitude, got {self.start!r}")

    def refuses(self, family: Family) -> str | None:
        if family.rotary:
            return "its blocks' rotary positions would have to be pruned with them"
        if family.staged:
            return "the ladder has one width, and its stages differ in theirs"
        if not family.narrowed:
            return "there is no way to build its blocks narrower"
        return None if all(map(family.has, NEEDED)) else f"{lacks(family, *NEEDED)}; LST prunes blocks layer by layer"

    def adapt(self, backbone: Backbone) -> Adaptation:
        side = Ladder(backbone, self.reduction, self.temperature)
        if not any(p.is_meta for p in backbone.blocks[1].parameters()):
            self.prune(backbone.blocks, side, magnitude(backbone.blocks, side.paths))
        return Adaptation(side=side)

    def prune(self, blocks: Mapping[int, nn.Module], side: Ladder, importance: Importance) -> None:
        narrow = {int(i): block for i, block in side.blocks.items()}
        prune(blocks, narrow, side.paths, importance, self.reduction, side.num_heads)

    @property
    def num_shown(self) -> int:
        return self.num_fisher_images if self.start == "fisher" else 0

    def begin(self, side: SideNetwork | None, blocks: Mapping[int, nn.Module], measured: Measured) -> None:
        """Prune again, by the Fisher information of the loss of the model's head on the plain backbone's tokens."""
        assert isinstance(side, Ladder)
        self.prune(blocks, side, fisher(list(blocks), side.paths, measured))
