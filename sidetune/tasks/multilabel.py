"""Several labels an image, or none: linear head, binary cross entropy, mean average precision."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import fmean
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from sidetune.backbones.backbone import Backbone
from sidetune.data.samples import Kind
from sidetune.errors import DataError
from sidetune.heads.linear import LinearHead
from sidetune.methods.method import Method
from sidetune.seam.taps import Need
from sidetune.tasks.task import check_metric
from sidetune.tasks.words import poorest


@dataclass(frozen=True)
class Labels:
    labels: tuple[str, ...]
    """Those above their threshold, most probable first."""
    probabilities: tuple[tuple[str, float], ...]
    """The most probable labels, best first."""

    def in_words(self, top: int = 1) -> str:
        told = [f"{label} {p:.1%}" for label, p in self.probabilities if label in self.labels]
        return ", ".join(told) or "no label"

    def described(self) -> dict[str, Any]:
        return {"labels": list(self.labels), "top": [list(pair) for pair in self.probabilities]}


@dataclass(frozen=True, kw_only=True)
class MultilabelScore:
    classes: tuple[str, ...]
    num_images: int
    average_precision: tuple[float | None, ...]
    """By label; None of one that no image has."""
    f1: tuple[float | None, ...]
    """By label, at its threshold; None of one that no image has."""
    exact_match: float
    """The share of images all of whose labels are right."""

    @property
    def values(self) -> dict[str, float]:
        """Means over the labels that some image has."""
        known = [(ap, f1) for ap, f1 in zip(self.average_precision, self.f1, strict=True) if ap is not None]
        means = (fmean(numbers) for numbers in zip(*known, strict=True)) if known else (0.0, 0.0)
        return {**dict(zip(("map", "macro_f1"), means, strict=True)), "exact_match": self.exact_match}

    def described(self) -> dict[str, Any]:
        return {
            **self.values,
            "num_images": self.num_images,
            "average_precision": dict(zip(self.classes, self.average_precision, strict=True)),
            "f1": dict(zip(self.classes, self.f1, strict=True)),
        }

    def in_words(self) -> str:
        values = self.values
        least = poorest(self.average_precision, self.classes, values["map"])
        text = (
            f"mAP {100 * values['map']:.2f} %, macro F1 {100 * values['macro_f1']:.2f} %, "
            f"all labels right {100 * self.exact_match:.2f} %"
        )
        return f"{text}; lowest: {least}" if least else text


def average_precision(scores: Float[np.ndarray, " image"], truth: Float[np.ndarray, " image"]) -> float | None:
    """The mean, over the images that have a label, of the precision among all images that score as high or higher.

    Images that score the same stand in one place, so that their order does not matter. None without any.
    """
    num_positive = truth.sum()
    if not num_positive:
        return None
    order = np.argsort(-scores, kind="stable")
    found, last = np.cumsum(truth[order]), np.append(np.flatnonzero(np.diff(scores[order])), len(order) - 1)
    precision = found[last] / (last + 1)
    return float(np.sum(precision * np.diff(found[last], prepend=0)) / num_positive)


class MultilabelMeter:
    def __init__(self, task: Multilabel) -> None:
        self.task = task
        self.outputs: list[Tensor] = []
        self.targets: list[Tensor] = []

    def add(self, outputs: Tensor, targets: Tensor) -> None:
        self.outputs.append(outputs.float())
        self.targets.append(targets.float())

    def score(self) -> MultilabelScore:
        outputs, targets = torch.cat(self.outputs), torch.cat(self.targets)
        columns = zip(outputs.numpy().T, targets.numpy().T, strict=True)
        said = self.task.decided(outputs.sigmoid())
        has = targets > 0.5
        right = (said & has).sum(dim=0).tolist()
        sizes = (said.sum(dim=0) + has.sum(dim=0)).tolist()
        positive = has.sum(dim=0).tolist()
        return MultilabelScore(
            classes=self.task.classes,
            num_images=len(outputs),
            average_precision=tuple(average_precision(scores, truth) for scores, truth in columns),
            f1=tuple(2 * r / s if p else None for r, s, p in zip(right, sizes, positive, strict=True)),
            exact_match=float((said == has).all(dim=1).float().mean()),
        )


@dataclass(frozen=True, kw_only=True)
class Multilabel:
    """A target is a row of 0 and 1, one for each label."""

    targets: ClassVar[Kind] = "multilabel"
    classes: tuple[str, ...]
    weights: Literal["none", "balanced"] | tuple[float, ...] = "none"
    """What having a label counts in its loss against not having it: the same; as much more as fewer images have it, up
    to 100; or given, by label. Balanced ones are found from the training images."""
    threshold: float | tuple[float, ...] = 0.5
    """The probability from which an image is said to have a label; one for all, or one for each."""
    metric: str = "map"
    """Or `macro_f1`, `exact_match` (all labels of an image right)."""

    def __post_init__(self) -> None:
        if len(set(self.classes)) < len(self.classes) or not self.classes:
            raise ValueError("there must be labels, of different names")
        for name, value in (("weights", self.weights), ("threshold", self.threshold)):
            if isinstance(value, tuple) and len(value) != len(self.classes):
                raise ValueError(f"{name} are {len(value)} numbers, of {len(self.classes)} labels")
        if isinstance(self.weights, tuple) and min(self.weights) <= 0:
            raise ValueError(f"weights must be above 0, got {self.weights}")
        limits = self.threshold if isinstance(self.threshold, tuple) else (self.threshold,)
        if not all(0 <= limit <= 1 for limit in limits):
            raise ValueError(f"threshold must be in 0..1, got {self.threshold}")
        check_metric(self.metric, ("map", "macro_f1", "exact_match"))

    def taps(self, backbone: Backbone, method: Method) -> Need:
        return Need({method.readout(backbone).tap})

    def head(self, backbone: Backbone, method: Method) -> LinearHead:
        return LinearHead(method.readout(backbone), len(self.classes), method.head_start)

    def begin(self, targets: Sequence[Any]) -> Multilabel:
        rows = np.asarray(targets, dtype=np.float64)
        if not rows.any():
            raise DataError("no training image has any label")
        if self.weights != "balanced":
            return self
        having = rows.sum(axis=0)
        return replace(self, weights=tuple(float(np.clip((len(rows) - n) / max(n, 1), 0.01, 100)) for n in having))

    def losses(self, outputs: Float[Tensor, "batch label"], targets: Float[Tensor, "batch label"]) -> dict[str, Tensor]:
        """The mean over labels and images of the binary cross entropies."""
        if self.weights == "balanced":
            raise ValueError("balanced weights are found from the training images: call task.begin(rows), as fit does")
        weights = None if self.weights == "none" else torch.tensor(self.weights, device=outputs.device)
        terms = F.binary_cross_entropy_with_logits(outputs.float(), targets.float(), pos_weight=weights)
        return {"binary cross entropy": terms}

    def decided(self, probabilities: Tensor) -> Tensor:
        return probabilities >= torch.tensor(self.threshold, device=probabilities.device)

    def meter(self) -> MultilabelMeter:
        return MultilabelMeter(self)

    def predict(self, outputs: Float[Tensor, "batch label"], top: int = 5) -> list[Labels]:
        probabilities = outputs.float().sigmoid()
        answers = []
        for row, said in zip(probabilities.tolist(), self.decided(probabilities).tolist(), strict=True):
            order = sorted(range(len(row)), key=lambda i: -row[i])
            labels = tuple(self.classes[i] for i in order if said[i])
            shown = order[: max(top, len(labels))]
            answers.append(Labels(labels, tuple((self.classes[i], row[i]) for i in shown)))
        return answers

    def final(self, head: nn.Module) -> nn.Module:
        return head

    def stand_in(self, num_images: int, image_size: tuple[int, int]) -> Tensor:
        return (torch.arange(num_images * len(self.classes)) % 2).view(num_images, -1).float()

    def truth(self, target: Sequence[float]) -> str:
        return ", ".join(name for name, has in zip(self.classes, target, strict=True) if has) or "no label"

    def is_right(self, answer: Labels, target: Sequence[float]) -> bool:
        return set(answer.labels) == {name for name, has in zip(self.classes, target, strict=True) if has}
