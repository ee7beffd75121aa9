"""Visual prompt tuning (Jia et al., 2022): learned tokens between the class token and the patches."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from sidetune.backbones.backbone import Backbone
from sidetune.backbones.family import Family
from sidetune.methods.method import Adaptation, Method, SideNetwork, State, check_positive


class Prompts(SideNetwork):
    """X' = [class, P, X]. Deep: every block gets prompts of its own; shallow: only the first."""

    def __init__(self, num_prefix_tokens: int, prompts: Tensor, num_blocks: int, dropout: float) -> None:
        super().__init__()
        self.first, self.last = num_prefix_tokens, num_prefix_tokens + prompts.shape[1]
        self.num_blocks = num_blocks
        self.prompts = nn.Parameter(prompts)  # (1 or num_blocks, token, channel)
        self.dropout = nn.Dropout(dropout)
        self.writes = (*range(len(prompts)), num_blocks)

    def write(self, block: int, z: Tensor, state: State) -> Tensor:
        before, after = z[:, : self.first], z[:, self.first if block == 0 else self.last :]
        if block == self.num_blocks:  # the head reads the backbone's own tokens
            return torch.cat([before, after], dim=1)
        prompts = self.dropout(self.prompts[block].expand(z.shape[0], -1, -1))
        return torch.cat([before, prompts.to(z), after], dim=1)


def why_no_prompts(family: Family) -> str | None:
    """Why nothing can be put among a family's patches; None where it can."""
    if family.prompts:
        return None
    if not family.tokens:
        return "prompts are extra tokens, and its features are maps"
    if family.rotary:
        return "prompts are extra tokens, which its rotary positions would take for patches"
    return "prompts are extra tokens, and its blocks take none but their own"


@dataclass(frozen=True, kw_only=True)
class VPT(Method):
    """Prompts take part in attention from the start, so the backbone's features change as soon as they are there."""

    starts_as_identity: ClassVar[bool] = False
    deep: bool = True
    num_tokens: int = 10
    dropout: float = 0.0
    lr: float = 5e-3

    def __post_init__(self) -> None:
        check_positive(self, "num_tokens")

    def refuses(self, family: Family) -> str | None:
        return why_no_prompts(family)

    def adapt(self, backbone: Backbone) -> Adaptation:
        width, num_layers = backbone.width(1), backbone.num_blocks if self.deep else 1
        assert backbone.layout.grid is not None
        patch_area = math.prod(backbone.card.image_size) / math.prod(backbone.layout.grid)
        bound = math.sqrt(6 / (3 * patch_area + width))
        prompts = torch.empty(num_layers, self.num_tokens, width).uniform_(-bound, bound)
        side = Prompts(backbone.layout.num_prefix_tokens, prompts, backbone.num_blocks, self.dropout)
        return Adaptation(side=side, num_units=num_layers)
