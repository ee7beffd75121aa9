"""Boxes around the objects of an image: RetinaNet on the backbone's levels, focal loss, average precision."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor, nn
from torchvision.ops import sigmoid_focal_loss

from sidetune.backbones.backbone import Backbone
from sidetune.data.objects import Objects
from sidetune.data.samples import Kind
from sidetune.errors import unknown
from sidetune.heads.anchors import offsets_between
from sidetune.heads.matching import matched
from sidetune.heads.retinanet import GROUP, NORMS, RetinaNetHead
from sidetune.methods.method import Method
from sidetune.seam.levels import Level, levels
from sidetune.seam.taps import Need
from sidetune.tasks.average_precision import evaluators
from sidetune.tasks.colours import outlined
from sidetune.tasks.detection_score import METRICS, DetectionMeter
from sidetune.tasks.detections import Detections, counted, rows_of, suppressed
from sidetune.tasks.task import check_metric

NUM_LEVELS = 3
"""The backbone's own, reductions 8, 16 and 32; the head adds two coarser ones."""


@dataclass(frozen=True, kw_only=True)
class Detection:
    """A target is a table float32 (object, 6): x1, y1, x2, y2 in fractions of the image's width and height, the number
    of the class, and 1 for what is neither wanted nor wrong (crowds, difficult objects). Those of a batch are filled up
    to the same number with rows of the class -1."""

    targets: ClassVar[Kind] = "detection"
    classes: tuple[str, ...]
    width: int = 256
    """Channels of the feature pyramid and the two small networks behind it."""
    convolutions: int = 4
    """Of each of these networks, before its last."""
    norm: str = "group"
    """Of these convolutions; `none` is the authors'."""
    anchor: float = 4.0
    """How many places of its level wide the smallest square anchor is: 32 pixels at a reduction of 8."""
    threshold: float = 0.05
    """The score above which an answer is given."""
    overlap: float = 0.5
    """The IoU above which of two answers of a class the lower falls away."""
    most: int = 100
    """Answers an image."""
    metric: str = "ap"
    """The mean of AP at an IoU of .50, .55, .., .95. Or `ap50`, `ap75`, `ar100`, `voc07` (VOC's AP of 11 points)."""

    def __post_init__(self) -> None:
        if not self.classes:
            raise ValueError("detection needs at least 1 class, got none")
        if len(set(self.classes)) < len(self.classes):
            raise ValueError("classes must have different names")
        for name, least in (("width", 1), ("convolutions", 0), ("most", 1)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} must be {least} or more, got {getattr(self, name)}")
        if self.norm not in NORMS:
            raise unknown("norm", self.norm, NORMS)
        if self.norm == "group" and self.width % GROUP:
            raise ValueError(f"width must be a multiple of {GROUP}, the channels of a group, got {self.width}")
        if not self.anchor > 0:
            raise ValueError(f"anchor must be more than 0, got {self.anchor}")
        for name in ("threshold", "overlap"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} must be from 0 to 1, got {getattr(self, name)}")
        check_metric(self.metric, METRICS)

    def taps(self, backbone: Backbone, method: Method) -> Need:
        """The last three levels."""
        return Need(level.tap for level in read_of(backbone))

    def head(self, backbone: Backbone, method: Method) -> nn.Module:
        return RetinaNetHead(
            read_of(backbone),
            len(self.classes),
            width=self.width,
            convolutions=self.convolutions,
            norm=self.norm,
            anchor=self.anchor,
            normed=not backbone.family.batch_norms,
        )

    def begin(self, targets: Sequence[Any]) -> Detection:
        """Raises MissingExtra where there is nothing to score with, rather than after training."""
        evaluators()
        return self

    def losses(
        self, outputs: Float[Tensor, "batch anchor label_and_8"], targets: Float[Tensor, "batch most 6"]
    ) -> dict[str, Tensor]:
        """Sums over an image's anchors by the number of those that show an object, and the mean over the images, as
        torchvision has it (mmdetection divides by the number in the batch, whose pieces would not add up): the focal
        loss, and L1 between offsets, unweighted. Masks stand where indices would, so that shapes do not depend on what
        is in the images."""
        logits, boxes, anchors = parts(outputs.float())
        found = matched(anchors, targets)
        positive = found.positive[..., None]
        truth = (found.labels[..., None] == torch.arange(len(self.classes), device=logits.device)) & positive
        focal = sigmoid_focal_loss(logits, truth.float()) * (positive | found.negative[..., None])
        apart = offsets_between(boxes, found.boxes.where(positive, anchors), anchors).abs() * positive
        num = found.positive.sum(dim=1).clamp(min=1)
        return {"focal": (focal.sum(dim=(1, 2)) / num).mean(), "box": (apart.sum(dim=(1, 2)) / num).mean()}

    def meter(self) -> DetectionMeter:
        return DetectionMeter(self.predict, self.classes)

    def predict(self, outputs: Float[Tensor, "batch anchor label_and_8"], top: int = 5) -> list[Detections]:
        """In pictures of one pixel; `Detections.at` brings them to the pictures' own size."""
        return [
            suppressed(logits, boxes, self.classes, threshold=self.threshold, overlap=self.overlap, most=self.most)
            for logits, boxes, _ in map(parts, outputs.float().cpu())
        ]

    def final(self, head: nn.Module) -> nn.Module:
        return head

    def stand_in(self, num_images: int, image_size: tuple[int, int]) -> Tensor:
        """Four objects an image, in its quarters."""
        x, y = torch.tensor([0.1, 0.6, 0.1, 0.6]), torch.tensor([0.1, 0.1, 0.6, 0.6])
        labels = torch.arange(4) % len(self.classes)
        rows = torch.stack([x, y, x + 0.3, y + 0.3, labels.float(), torch.zeros(4)], dim=1)
        return rows.repeat(num_images, 1, 1)

    def truth(self, target: Tensor | Objects) -> str:
        return counted(self.classes[int(c)] for c in rows_of(target)[:, 4].tolist())

    def is_right(self, answer: Detections, target: Any) -> None:
        return None

    def drawn(self, picture: Image.Image, target: Tensor | Objects) -> Image.Image:
        rows = rows_of(target)
        labels = rows[:, 4].long().tolist()
        words = [self.classes[c] + (" (aside)" if row[5] else "") for c, row in zip(labels, rows, strict=True)]
        return outlined(picture, rows[:, :4].tolist(), labels, words, len(self.classes))


def read_of(backbone: Backbone) -> tuple[Level, ...]:
    return levels(backbone)[-NUM_LEVELS:]


def parts(output: Float[Tensor, "*any label_and_8"]) -> tuple[Tensor, Tensor, Tensor]:
    """Logits, boxes and anchors."""
    return output[..., :-8], output[..., -8:-4], output[..., -4:]
