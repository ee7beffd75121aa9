"""A pyramid out of levels of one reduction, which plain vision transformers have (ViTDet: Li et al., ECCV 2022, section
3, "simple feature pyramid"): transposed convolutions make finer maps, pooling a coarser one."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from sidetune.seam.levels import Level


class Pyramid(nn.Module):
    """Maps of levels -> maps of which each is half as fine as the one before. Levels that are so already stay."""

    def __init__(self, levels: Sequence[Level]) -> None:
        super().__init__()
        widths, plain = [level.width for level in levels], len({level.reduction for level in levels}) == 1
        ways = [twice_as_fine, once_as_fine, nn.Identity, pooled]
        self.ways = nn.ModuleList()
        for place, width in enumerate(widths):
            way = ways[place + len(ways) - len(widths)] if plain and len(widths) > 1 else nn.Identity
            self.ways.append(way(width))
        self.reduction = levels[0].reduction // (2 ** (len(widths) - 2) if plain and len(widths) > 1 else 1)
        """Pixels of a place of the finest map."""

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        return [way(m) for way, m in zip(self.ways, maps, strict=True)]


def once_as_fine(width: int) -> nn.Module:
    return nn.ConvTranspose2d(width, width, 2, stride=2)


def twice_as_fine(width: int) -> nn.Module:
    return nn.Sequential(once_as_fine(width), nn.GroupNorm(1, width), nn.GELU(), once_as_fine(width))


def pooled(width: int) -> nn.Module:
    return nn.MaxPool2d(2)
