"""One label an image: linear head, cross entropy, top-1 accuracy."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

from sidetune.backbones.backbone import Backbone
from sidetune.heads.linear import LinearHead
from sidetune.methods.method import Method
from sidetune.seam.taps import Need


@dataclass(frozen=True)
class Prediction:
    label: str
    probability: float
    """Of the label, in 0..1."""
    top: tuple[tuple[str, float], ...]
    """The most probable labels with their probabilities, best first."""


@dataclass(frozen=True, kw_only=True)
class Classification:
    classes: tuple[str, ...]

    def __post_init__(self) -> None:
        if len(self.classes) < 2:
            raise ValueError(f"classification needs at least 2 classes, got {len(self.classes)}: {self.classes}")
        if len(set(self.classes)) < len(self.classes):
            raise ValueError("classes must have different names")

    def taps(self, backbone: Backbone, method: Method) -> Need:
        """What is read: the tap of the vector that the method suggests."""
        return Need({method.readout(backbone).tap})

    def head(self, backbone: Backbone, method: Method) -> LinearHead:
        """On the vector that the method suggests."""
        return LinearHead(method.readout(backbone), len(self.classes), method.head_start)

    def loss(self, logits: Float[Tensor, "batch label"], labels: Int[Tensor, " batch"]) -> Float[Tensor, ""]:
        return F.cross_entropy(logits.float(), labels)

    def predict(self, logits: Float[Tensor, "batch label"], top: int = 5) -> list[Prediction]:
        probabilities, labels = torch.softmax(logits.float(), dim=1).topk(min(top, len(self.classes)), dim=1)
        predictions = []
        for row, names in zip(probabilities.tolist(), labels.tolist(), strict=True):
            best = tuple((self.classes[label], p) for label, p in zip(names, row, strict=True))
            predictions.append(Prediction(*best[0], top=best))
        return predictions
