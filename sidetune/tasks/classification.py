"""One label an image: linear head, cross entropy, top-1 accuracy."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from sidetune.errors import unknown

HeadStart = Literal["normal", "zero", "kaiming"]
HEAD_STARTS: dict[str, Callable[[Tensor], Tensor]] = {
    "normal": partial(nn.init.trunc_normal_, std=0.02),
    "zero": nn.init.zeros_,
    "kaiming": partial(nn.init.kaiming_normal_, a=0, mode="fan_out"),
}


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

    def head(self, width: int, start: str = "normal") -> nn.Linear:
        """A linear layer with zero bias; `normal`, the DTL authors' start, is a truncated normal of 0.02."""
        head = nn.Linear(width, len(self.classes))
        if start not in HEAD_STARTS:
            raise unknown("head start", start, HEAD_STARTS)
        HEAD_STARTS[start](head.weight)
        nn.init.zeros_(head.bias)
        return head

    def loss(self, logits: Float[Tensor, "batch label"], labels: Int[Tensor, " batch"]) -> Float[Tensor, ""]:
        return F.cross_entropy(logits.float(), labels)

    def predict(self, logits: Float[Tensor, "batch label"], top: int = 5) -> list[Prediction]:
        probabilities, labels = torch.softmax(logits.float(), dim=1).topk(min(top, len(self.classes)), dim=1)
        predictions = []
        for row, names in zip(probabilities.tolist(), labels.tolist(), strict=True):
            best = tuple((self.classes[label], p) for label, p in zip(names, row, strict=True))
            predictions.append(Prediction(*best[0], top=best))
        return predictions
