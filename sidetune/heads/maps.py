"""What heads that read levels are built of: maps out of features, convolutions with a norm, maps of another size."""

from __future__ import annotations

import math
from collections.abc import Sequence

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from sidetune.errors import unknown
from sidetune.seam.features import Features
from sidetune.seam.levels import Level

NORMS = ("group", "batch")
GROUPS = 32
CHANNELS = 8


class Maps(nn.Module):
    """Features -> a map (batch, channel, row, column) of each level, under a trained LayerNorm of its own where the
    backbone has such norms: no pretraining has met the outputs of stages in the middle, which differ in size."""

    def __init__(self, levels: Sequence[Level], *, normed: bool = True) -> None:
        super().__init__()
        self.levels = tuple(levels)
        self.norms = nn.ModuleList(nn.LayerNorm(level.width) if normed else nn.Identity() for level in levels)

    def forward(self, given: Features) -> list[Float[Tensor, "batch channel row column"]]:
        maps = [level.maps(given[level.tap]) for level in self.levels]
        return [norm(m.movedim(1, -1)).movedim(-1, 1) for norm, m in zip(self.norms, maps, strict=True)]


def convolved(width: int, out: int, size: int = 1, norm: str = "group") -> nn.Sequential:
    """A convolution over places of the same size, a norm and ReLU. Groups of channels, one image at a time, let a batch
    be cut in pieces; batch norms are the authors'."""
    if norm not in NORMS:
        raise unknown("norm", norm, NORMS)
    normed = nn.BatchNorm2d(out) if norm == "batch" else nn.GroupNorm(num_groups(out), out)
    return nn.Sequential(nn.Conv2d(width, out, size, padding=size // 2, bias=False), normed, nn.ReLU())


def num_groups(width: int) -> int:
    """Up to 32 groups of channels, of 8 or more where there are so many: of one place a single channel has no norm."""
    groups = math.gcd(GROUPS, width)
    while groups > 1 and width // groups < CHANNELS:
        groups //= 2
    return groups


def resized(maps: Float[Tensor, "batch channel row column"], size: Sequence[int]) -> Tensor:
    """Maps of so many rows and columns, by bilinear interpolation between the middles of places."""
    if tuple(maps.shape[2:]) == tuple(size):
        return maps
    return F.interpolate(maps, size=tuple(size), mode="bilinear", align_corners=False)


class Classifier(nn.Module):
    """Scores of every class at every place of a map; of `cells` x `cells` cells of each, where places are coarse."""

    def __init__(self, width: int, num_classes: int, cells: int) -> None:
        super().__init__()
        self.scores = nn.Conv2d(width, num_classes * cells**2, 1)
        nn.init.normal_(self.scores.weight, std=0.01)
        nn.init.constant_(self.scores.get_parameter("bias"), 0)
        self.cells = nn.PixelShuffle(cells) if cells > 1 else nn.Identity()

    def forward(self, maps: Float[Tensor, "batch channel row column"]) -> Tensor:
        return self.cells(self.scores(maps))
