"""RetinaNet (Lin et al., ICCV 2017): a feature pyramid on three levels and two more, and two small networks that say of
every anchor what it shows and how to move it."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torchvision.ops.feature_pyramid_network import FeaturePyramidNetwork, LastLevelP6P7

from sidetune.heads.anchors import PER_PLACE, anchors, moved
from sidetune.heads.maps import Maps
from sidetune.heads.pyramid import Pyramid
from sidetune.seam.features import Features
from sidetune.seam.levels import Level

NORMS = ("group", "none")
GROUP = 8
"""Channels that are normalised together, as in 32 groups of 256. On maps of one place fewer would say little."""
PRIOR = 0.01
"""The probability with which every anchor shows a class at the start, so that the many that show nothing do not drown
the rest (section 4.1)."""


class Subnet(nn.Module):
    """Convolutions that all levels share, and so many numbers of each anchor of a place."""

    def __init__(self, width: int, out: int, *, convolutions: int, norm: str, start: float = 0.0) -> None:
        super().__init__()
        self.convolutions = nn.Sequential(*(convolution(width, norm) for _ in range(convolutions)))
        self.last = nn.Conv2d(width, PER_PLACE * out, 3, padding=1)
        self.out = out
        for m in self.modules():
            if isinstance(m, nn.Conv2d):
                nn.init.normal_(m.weight, std=0.01)
                if m.bias is not None:
                    nn.init.zeros_(m.bias)
        nn.init.constant_(self.last.get_parameter("bias"), start)

    def forward(self, maps: Sequence[Tensor]) -> Float[Tensor, "batch anchor number"]:
        """By level, row, column, anchor of the place."""
        found = [self.last(self.convolutions(m)).movedim(1, -1) for m in maps]
        return torch.cat([f.unflatten(3, (PER_PLACE, self.out)).flatten(1, 3) for f in found], dim=1)


class RetinaNetHead(nn.Module):
    """Levels -> of every anchor the logits of the classes, its moved box and itself: x1, y1, x2, y2 in fractions of the
    image, reaching out of it."""

    def __init__(
        self,
        levels: Sequence[Level],
        num_classes: int,
        *,
        width: int,
        convolutions: int,
        norm: str,
        anchor: float,
        normed: bool,
    ) -> None:
        super().__init__()
        widths = [level.width for level in levels]
        self.maps = Maps(levels, normed=normed)
        self.pyramid = Pyramid(levels)
        self.fpn = FeaturePyramidNetwork(widths, width, LastLevelP6P7(widths[-1], width))
        prior = -math.log((1 - PRIOR) / PRIOR)
        self.classify = Subnet(width, num_classes, convolutions=convolutions, norm=norm, start=prior)
        self.regress = Subnet(width, 4, convolutions=convolutions, norm=norm)
        self.anchor = anchor

    def forward(self, given: Features) -> Float[Tensor, "batch anchor label_and_8"]:
        maps = self.pyramid(self.maps(given))
        read = list(self.fpn(OrderedDict((str(i), m) for i, m in enumerate(maps))).values())
        fixed = anchors([(m.shape[2], m.shape[3]) for m in read], scale=self.anchor, device=read[0].device)
        boxes = moved(fixed, self.regress(read).float())
        return torch.cat([self.classify(read).float(), boxes, fixed.expand_as(boxes)], dim=2)


def convolution(width: int, norm: str) -> nn.Sequential:
    """With norms as torchvision's second version has them, or plain, as published."""
    if norm == "none":
        return nn.Sequential(nn.Conv2d(width, width, 3, padding=1), nn.ReLU())
    return nn.Sequential(
        nn.Conv2d(width, width, 3, padding=1, bias=False), nn.GroupNorm(width // GROUP, width), nn.ReLU()
    )
