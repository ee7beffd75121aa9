"""What a detector says of a picture: boxes with classes and scores, the best of those that say the same."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Float, Integer
from PIL import Image
from torch import Tensor
from torchvision.ops import batched_nms

from sidetune.data.boxrows import unpadded
from sidetune.data.cutboxes import target_of
from sidetune.data.objects import Objects
from sidetune.tasks.colours import outlined

CANDIDATES = 1000
"""Answers of an image, the highest, that are compared with each other (RetinaNet, section 4: of each level)."""
SURE = 0.3
"""The score from which an answer is told to people; figures count lower ones too."""
MOST_TOLD = 3


@dataclass(frozen=True, kw_only=True, eq=False)
class Detections:
    """The highest score first."""

    boxes: Float[Tensor, "object 4"]
    """x1, y1, x2, y2 in fractions of the picture's width and height."""
    scores: Float[Tensor, " object"]
    labels: Integer[Tensor, " object"]
    """The numbers of the classes."""
    classes: tuple[str, ...]
    size: tuple[int, int]
    """Height and width of the picture, in pixels."""

    def __len__(self) -> int:
        return len(self.scores)

    def at(self, size: tuple[int, int]) -> Detections:
        """In a picture of another size."""
        return replace(self, size=size)

    @property
    def pixels(self) -> Float[Tensor, "object 4"]:
        """The boxes in the picture's pixels."""
        height, width = self.size
        return self.boxes * torch.tensor([width, height, width, height])

    def above(self, score: float) -> Detections:
        """Those of this score or a higher one."""
        few = self.scores >= score
        return replace(self, boxes=self.boxes[few], scores=self.scores[few], labels=self.labels[few])

    @property
    def named(self) -> list[tuple[str, float]]:
        """Class and score of each."""
        return [(self.classes[c], s) for c, s in zip(self.labels.tolist(), self.scores.tolist(), strict=True)]

    def in_words(self, top: int = 1) -> str:
        """Those that are sure enough, the first by name."""
        told = [f"{name} {score:.1%}" for name, score in self.above(SURE).named]
        most = max(top, MOST_TOLD)
        further = [f"{len(told) - most} more"] if len(told) > most else []
        return ", ".join(told[:most] + further) or "nothing"

    def described(self) -> dict[str, Any]:
        """All of them, as COCO's results have them: left, top, width and height in pixels."""
        corners = self.pixels.tolist()
        objects = [
            {"class": name, "score": score, "bbox": [x1, y1, x2 - x1, y2 - y1]}
            for (name, score), (x1, y1, x2, y2) in zip(self.named, corners, strict=True)
        ]
        return {"size": list(self.size), "objects": objects}

    def drawn(self, picture: Image.Image) -> Image.Image:
        """The picture with those that are sure enough."""
        sure = self.above(SURE)
        words = [f"{name} {score:.0%}" for name, score in sure.named]
        return outlined(picture, sure.boxes.tolist(), sure.labels.tolist(), words, len(self.classes))


def suppressed(
    logits: Float[Tensor, "anchor label"],
    boxes: Float[Tensor, "anchor 4"],
    classes: tuple[str, ...],
    *,
    threshold: float,
    overlap: float,
    most: int,
) -> Detections:
    """The answers above a threshold, but for those whose box overlaps by more than an IoU one of their class with a
    higher score (non-maximum suppression); boxes end with the image."""
    scores, places = logits.sigmoid().flatten().topk(min(CANDIDATES, logits.numel()))
    places, scores = places[scores > threshold], scores[scores > threshold]
    found, labels = boxes[places // len(classes)].clamp(0, 1), places % len(classes)
    kept = batched_nms(found, scores, labels, overlap)[:most]
    return Detections(boxes=found[kept], scores=scores[kept], labels=labels[kept], classes=classes, size=(1, 1))


def rows_of(target: Tensor | Objects) -> Float[Tensor, "object 6"]:
    """What an image has, without rows that say nothing; of `Objects` in fractions."""
    if isinstance(target, Objects):
        return torch.from_numpy(target_of(target))
    return unpadded(target)


def counted(names: Iterable[str]) -> str:
    """`2 x dog, cat`."""
    return ", ".join(f"{count} x {name}" if count > 1 else name for name, count in Counter(names).items()) or "nothing"
