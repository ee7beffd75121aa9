"""SegFormer's all-MLP decoder (Xie et al., NeurIPS 2021, section 3.2), and the linear layer that it is more than."""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce
from operator import add

from jaxtyping import Float
from torch import Tensor, nn

from sidetune.heads.maps import Classifier, Maps, convolved, resized
from sidetune.seam.features import Features
from sidetune.seam.levels import Level


class SegFormerHead(nn.Module):
    """Every level brought to one width, all to the finest level's size, fused, classified.

    The fusing layer after the concatenation of all levels is a sum of one layer for each, and a linear layer over
    channels may stand before a resizing as well as behind it. So each level is brought to its part of that sum at its
    own size, and no maps of the concatenation's width are ever there: the same function in a fraction of the memory.
    """

    def __init__(
        self, levels: Sequence[Level], num_classes: int, *, width: int, cells: int, norm: str, normed: bool
    ) -> None:
        super().__init__()
        self.maps = Maps(levels, normed=normed)
        self.linear = nn.ModuleList(nn.Conv2d(level.width, width, 1) for level in levels)
        self.fuse = nn.ModuleList(nn.Conv2d(width, width, 1, bias=False) for _ in levels)
        self.end = convolved(width, width, norm=norm)[1:]
        self.dropout = nn.Dropout2d(0.1)
        self.classify = Classifier(width, num_classes, cells)

    def forward(self, given: Features) -> Float[Tensor, "batch label row column"]:
        maps = self.maps(given)
        parts = [fuse(linear(m)) for fuse, linear, m in zip(self.fuse, self.linear, maps, strict=True)]
        fused = reduce(add, (resized(part, maps[0].shape[2:]) for part in parts))
        return self.classify(self.dropout(self.end(fused)))


class LinearMaps(nn.Module):
    """A linear layer on all levels together: what a linear probe is to images, to their places."""

    def __init__(self, levels: Sequence[Level], num_classes: int, *, cells: int, normed: bool) -> None:
        super().__init__()
        self.maps = Maps(levels, normed=normed)
        self.classify = nn.ModuleList(Classifier(level.width, num_classes, cells) for level in levels)

    def forward(self, given: Features) -> Float[Tensor, "batch label row column"]:
        scores = [classify(m) for classify, m in zip(self.classify, self.maps(given), strict=True)]
        return reduce(add, (resized(s, scores[0].shape[2:]) for s in scores))
