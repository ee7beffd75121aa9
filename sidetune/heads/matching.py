"""Which object each anchor is to show: IoU from .5 on, or the highest that an object has anywhere; shapes are fixed."""

from __future__ import annotations

from dataclasses import dataclass, fields

import torch
from jaxtyping import Bool, Float, Integer
from torch import Tensor
from torch.nn import functional as F

NEAR, FAR = 0.5, 0.4
"""IoU from which an anchor shows an object, and below which it shows none; between, nothing is asked of it."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Matches:
    """Of every anchor."""

    positive: Bool[Tensor, "*batch anchor"]
    """It shows an object."""
    negative: Bool[Tensor, "*batch anchor"]
    """It shows none. Anchors that are neither are not learned from."""
    labels: Integer[Tensor, "*batch anchor"]
    boxes: Float[Tensor, "*batch anchor 4"]
    """Class and box of the object, where it is positive."""


@torch.no_grad()
def matched(anchors: Float[Tensor, "batch anchor 4"], targets: Float[Tensor, "batch most 6"]) -> Matches:
    """As torchvision's Matcher with low quality matches: an anchor that is the best of an object shows the object with
    which it has the highest IoU itself.

    Objects that are kept aside, and crowds, have no anchors; those of which they cover the share FAR are not negative.
    One image at a time: of all together the IoUs could take more memory than the rest of a step.
    """
    each = [of_image(*pair) for pair in zip(anchors, targets, strict=True)]
    return Matches(**{f.name: torch.stack([getattr(found, f.name) for found in each]) for f in fields(Matches)})


def of_image(anchors: Float[Tensor, "anchor 4"], target: Float[Tensor, "object 6"]) -> Matches:
    target = F.pad(target, (0, 0, 0, 1), value=-1)  # one row at least
    boxes, is_object, is_aside = target[:, :4], target[:, 4:5] >= 0, target[:, 5:] > 0
    shared = intersections(boxes, anchors)
    iou = (shared / (areas(boxes)[:, None] + areas(anchors) - shared)).where(is_object & ~is_aside, -1)
    covered = (shared / areas(anchors)).where(is_object & is_aside, -1)
    highest, which = iou.max(dim=0)
    most = iou.max(dim=1, keepdim=True).values
    positive = (highest >= NEAR) | ((iou == most) & (most > 0)).any(dim=0)
    unclear = (highest >= FAR) | (covered >= FAR).any(dim=0)
    return Matches(positive=positive, negative=~positive & ~unclear, labels=target[which, 4].long(), boxes=boxes[which])


def intersections(boxes: Float[Tensor, "object 4"], others: Float[Tensor, "other 4"]) -> Float[Tensor, "object other"]:
    """Areas that they share."""
    first = torch.maximum(boxes[:, None, :2], others[:, :2])
    across, down = (torch.minimum(boxes[:, None, 2:], others[:, 2:]) - first).clamp(min=0).unbind(dim=2)
    return across * down


def areas(boxes: Float[Tensor, "object 4"]) -> Float[Tensor, " object"]:
    return (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
