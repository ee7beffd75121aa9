"""Anchors: the boxes that a detector moves, in fractions of the image, and how offsets move them (Ren et al., NeurIPS
2015, section 3.1.2; nine a place as RetinaNet has them)."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

SCALES = (1.0, 2 ** (1 / 3), 2 ** (2 / 3))
RATIOS = (0.5, 1.0, 2.0)
"""Height by width."""
PER_PLACE = len(SCALES) * len(RATIOS)
CLAMP = math.log(1000 / 16)
"""A box is at most so much wider, or narrower, than its anchor, as a logarithm (mmdetection's)."""


def anchors(
    sizes: Sequence[tuple[int, int]], *, scale: float, device: torch.device | None = None
) -> Float[Tensor, "anchor 4"]:
    """x1, y1, x2, y2 in fractions of the image's width and height, for maps of these rows and columns of which each is
    half as fine as the one before; by level, row, column, ratio, scale.

    The smallest square of a level is `scale` places wide. Anchors lie around the middles of places (torchvision's
    around their upper left corners, which are far off where an image has few of them), and reach out of the image.
    """
    rows, columns = sizes[0]
    found = []
    for level, (down, across) in enumerate(sizes):
        side = torch.tensor([scale * s * 2**level for _ in RATIOS for s in SCALES], device=device)
        tall = torch.tensor([math.sqrt(r) for r in RATIOS for _ in SCALES], device=device)
        half = torch.stack([side / tall / columns, side * tall / rows], dim=1) / 2
        y, x = torch.meshgrid(middles(down, device), middles(across, device), indexing="ij")
        middle = torch.stack([x, y], dim=2)[:, :, None]
        found.append(torch.cat([middle - half, middle + half], dim=3).flatten(0, 2))
    return torch.cat(found)


def middles(count: int, device: torch.device | None) -> Float[Tensor, " place"]:
    return (torch.arange(count, device=device) + 0.5) / count


def parted(boxes: Float[Tensor, "*any 4"]) -> tuple[Float[Tensor, "*any 2"], Float[Tensor, "*any 2"]]:
    """Middles and sizes, across and down; no size is 0."""
    first, last = boxes[..., :2], boxes[..., 2:]
    return (first + last) / 2, (last - first).clamp(min=1e-6)


def moved(anchors: Float[Tensor, "*any 4"], offsets: Float[Tensor, "*any 4"]) -> Float[Tensor, "*any 4"]:
    """Boxes out of offsets: the middle by so many times the anchor's size, the size by a factor's logarithm."""
    middle, size = parted(anchors)
    middle = middle + size * offsets[..., :2]
    half = size * offsets[..., 2:].clamp(-CLAMP, CLAMP).exp() / 2
    return torch.cat([middle - half, middle + half], dim=-1)


def offsets_between(
    boxes: Float[Tensor, "*any 4"], wanted: Float[Tensor, "*any 4"], anchors: Float[Tensor, "*any 4"]
) -> Float[Tensor, "*any 4"]:
    """How the offsets that give one box of an anchor differ from those that give another."""
    (middle, size), (aim, extent), (_, unit) = parted(boxes), parted(wanted), parted(anchors)
    return torch.cat([(middle - aim) / unit, (size / extent).log()], dim=-1)
