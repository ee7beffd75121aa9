"""UperNet (Xiao et al., ECCV 2018, section 3.1): pyramid pooling on the coarsest level, a feature pyramid over all, and
in training an auxiliary head on the last level but one."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from sidetune.heads.maps import Classifier, Maps, convolved, resized
from sidetune.heads.pyramid import Pyramid
from sidetune.seam.features import Features
from sidetune.seam.levels import Level

POOLED = (1, 2, 3, 6)
"""Rows and columns to which the coarsest level is pooled (PSPNet)."""


class PyramidPooling(nn.Module):
    """A map beside its means over ever smaller regions."""

    def __init__(self, width: int, out: int, norm: str) -> None:
        super().__init__()
        self.means = nn.ModuleList(convolved(width, out, norm=norm) for _ in POOLED)
        self.end = convolved(width + len(POOLED) * out, out, 3, norm)

    def forward(self, x: Float[Tensor, "batch channel row column"]) -> Tensor:
        pools = [mean(F.adaptive_avg_pool2d(x, n)) for mean, n in zip(self.means, POOLED, strict=True)]
        return self.end(torch.cat([x, *(resized(p, x.shape[2:]) for p in pools)], dim=1))


class UperNetHead(nn.Module):
    """Scores of places; in training also the auxiliary head's, which helps the backbone and is not read afterwards."""

    def __init__(
        self,
        levels: Sequence[Level],
        num_classes: int,
        *,
        width: int,
        cells: int,
        norm: str,
        normed: bool,
        auxiliary: bool = True,
    ) -> None:
        super().__init__()
        self.maps = Maps(levels, normed=normed)
        self.pyramid = Pyramid(levels)
        *finer, coarsest = [level.width for level in levels]
        self.lateral = nn.ModuleList(convolved(w, width, norm=norm) for w in finer)
        self.pooling = PyramidPooling(coarsest, width, norm)
        self.smooth = nn.ModuleList(convolved(width, width, 3, norm) for _ in finer)
        self.fuse = convolved(len(levels) * width, width, 3, norm)
        self.dropout = nn.Dropout2d(0.1)
        self.classify = Classifier(width, num_classes, cells)
        self.auxiliary = None
        if auxiliary:
            self.auxiliary = nn.Sequential(
                convolved(levels[-2].width, 256, 3, norm), nn.Dropout2d(0.1), Classifier(256, num_classes, 1)
            )

    def forward(self, given: Features) -> Tensor | tuple[Tensor, Tensor]:
        *finer, coarsest = maps = self.pyramid(self.maps(given))
        paths = [lateral(m) for lateral, m in zip(self.lateral, finer, strict=True)] + [self.pooling(coarsest)]
        for i in reversed(range(len(finer))):
            paths[i] = paths[i] + resized(paths[i + 1], paths[i].shape[2:])
        smoothed = [smooth(p) for smooth, p in zip(self.smooth, paths, strict=False)] + paths[-1:]
        fused = self.fuse(torch.cat([resized(p, maps[0].shape[2:]) for p in smoothed], dim=1))
        scores = self.classify(self.dropout(fused))
        if self.auxiliary is None or not self.training:
            return scores
        return scores, self.auxiliary(maps[-2])
