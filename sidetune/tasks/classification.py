"""One label an image: linear head, cross entropy, top-1 accuracy."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import fmean
from typing import Any, ClassVar, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from sidetune.backbones.backbone import Backbone
from sidetune.data.samples import Kind
from sidetune.heads.linear import LinearHead
from sidetune.methods.method import Method
from sidetune.seam.taps import Need
from sidetune.tasks.task import check_metric
from sidetune.tasks.words import MOST, POOR


@dataclass(frozen=True)
class Prediction:
    label: str
    probability: float
    """Of the label, in 0..1."""
    top: tuple[tuple[str, float], ...]
    """The most probable labels with their probabilities, best first."""

    def in_words(self, top: int = 1) -> str:
        return ", ".join(f"{label} {probability:.1%}" for label, probability in self.top[:top])

    def described(self) -> dict[str, Any]:
        return {"top": [list(pair) for pair in self.top]}


@dataclass(frozen=True, kw_only=True)
class ClassificationScore:
    by_class: tuple[tuple[int, int], ...]
    """Of each class, in order: its images, and those of them that are labelled right."""
    classes: tuple[str, ...] = ()
    num_labelled: tuple[int, ...] = ()
    """Of each class, the images that are labelled so, rightly or not."""

    @property
    def num_images(self) -> int:
        return sum(images for images, _ in self.by_class)

    @property
    def num_correct(self) -> int:
        return sum(right for _, right in self.by_class)

    @property
    def accuracy(self) -> float:
        """Top-1, in 0..1."""
        return self.num_correct / self.num_images

    @property
    def recalls(self) -> tuple[float | None, ...]:
        """By class, the share of its images that are labelled right; None of a class without images."""
        return tuple(right / images if images else None for images, right in self.by_class)

    @property
    def precisions(self) -> tuple[float | None, ...]:
        """By class, the share of the images labelled so that are; None where there are none."""
        pairs = zip(self.by_class, self.num_labelled, strict=True)
        return tuple(right / labelled if labelled else None for (_, right), labelled in pairs)

    @property
    def balanced_accuracy(self) -> float:
        """The mean of the recalls of classes that have images: every class counts the same."""
        return fmean(recall for recall in self.recalls if recall is not None)

    @property
    def macro_f1(self) -> float:
        """The mean of 2 right / (images + labelled) over the classes that have images."""
        pairs = zip(self.by_class, self.num_labelled, strict=True)
        return fmean(2 * right / (images + labelled) for (images, right), labelled in pairs if images)

    @property
    def values(self) -> dict[str, float]:
        both = {"accuracy": self.accuracy, "balanced_accuracy": self.balanced_accuracy}
        return both | ({"macro_f1": self.macro_f1} if self.num_labelled else {})

    def described(self) -> dict[str, Any]:
        return {
            **self.values,
            "num_images": self.num_images,
            "num_correct": self.num_correct,
            "recall": dict(zip(self.classes, self.recalls, strict=True)),
            "precision": dict(zip(self.classes, self.precisions, strict=True)),
        }

    def in_words(self) -> str:
        """Accuracy and balanced accuracy, and the classes that are labelled right much less often than images are."""
        lowest = sorted((recall, i) for i, recall in enumerate(self.recalls) if recall is not None)[:MOST]
        poor = [i for recall, i in lowest if recall < POOR * self.accuracy]
        text = f"accuracy {100 * self.accuracy:.2f} %, balanced {100 * self.balanced_accuracy:.2f} %"
        if not poor:
            return text
        named = [f"{self.classes[i]} ({right:,} of {images:,})" for i in poor for images, right in [self.by_class[i]]]
        return f"{text}; least right: {', '.join(named)}"


class ClassificationMeter:
    def __init__(self, classes: tuple[str, ...]) -> None:
        self.classes = classes
        self.images, self.correct, self.labelled = (torch.zeros(len(classes), dtype=torch.int64) for _ in range(3))

    def add(self, outputs: Tensor, targets: Tensor) -> None:
        count, said = len(self.classes), outputs.argmax(dim=1)
        self.images += targets.bincount(minlength=count)
        self.correct += targets[said == targets].bincount(minlength=count)
        self.labelled += said.bincount(minlength=count)

    def score(self) -> ClassificationScore:
        return ClassificationScore(
            by_class=tuple(zip(self.images.tolist(), self.correct.tolist(), strict=True)),
            classes=self.classes,
            num_labelled=tuple(self.labelled.tolist()),
        )


@dataclass(frozen=True, kw_only=True)
class Classification:
    """A target is the number of a class."""

    targets: ClassVar[Kind] = "classification"
    classes: tuple[str, ...]
    weights: Literal["none", "balanced"] | tuple[float, ...] = "none"
    """What an image of each class counts in the loss: the same; as much less as there are more of its class; or given,
    by class. Balanced ones are found from the training images."""
    metric: str = "accuracy"
    """Or `balanced_accuracy`, `macro_f1`."""

    def __post_init__(self) -> None:
        if len(self.classes) < 2:
            raise ValueError(f"classification needs at least 2 classes, got {len(self.classes)}: {self.classes}")
        if len(set(self.classes)) < len(self.classes):
            raise ValueError("classes must have different names")
        if isinstance(self.weights, tuple):
            if len(self.weights) != len(self.classes):
                raise ValueError(f"weights are {len(self.weights)} numbers, of {len(self.classes)} classes")
            if min(self.weights) < 0 or not max(self.weights) > 0:
                raise ValueError(f"weights must be 0 or more, and not all 0, got {self.weights}")
        check_metric(self.metric, ("accuracy", "balanced_accuracy", "macro_f1"))

    def taps(self, backbone: Backbone, method: Method) -> Need:
        """The tap of the vector that the method suggests."""
        return Need({method.readout(backbone).tap})

    def head(self, backbone: Backbone, method: Method) -> LinearHead:
        """On the vector that the method suggests."""
        return LinearHead(method.readout(backbone), len(self.classes), method.head_start)

    def begin(self, targets: Sequence[Any]) -> Classification:
        """Balanced weights are n / (classes with images * images of the class), so that they are 1 on average."""
        if self.weights != "balanced":
            return self
        counts = Counter(int(target) for target in targets)
        share = len(targets) / len(counts)
        return replace(self, weights=tuple(share / counts[c] if counts[c] else 0.0 for c in range(len(self.classes))))

    def losses(self, outputs: Float[Tensor, "batch label"], targets: Int[Tensor, " batch"]) -> dict[str, Tensor]:
        if self.weights == "none":
            return {"cross entropy": F.cross_entropy(outputs.float(), targets)}
        if self.weights == "balanced":
            raise ValueError(
                "balanced weights are found from the training images: call task.begin(labels), as fit does"
            )
        weights = torch.tensor(self.weights, device=targets.device)[targets]
        return {"cross entropy": (weights * F.cross_entropy(outputs.float(), targets, reduction="none")).mean()}

    def loss(self, outputs: Float[Tensor, "batch label"], targets: Int[Tensor, " batch"]) -> Float[Tensor, ""]:
        """As version 0.1 called it; `AdaptedModel.loss` is that of any task."""
        return self.losses(outputs, targets)["cross entropy"]

    def meter(self) -> ClassificationMeter:
        return ClassificationMeter(self.classes)

    def predict(self, outputs: Float[Tensor, "batch label"], top: int = 5) -> list[Prediction]:
        probabilities, labels = torch.softmax(outputs.float(), dim=1).topk(min(top, len(self.classes)), dim=1)
        predictions = []
        for row, names in zip(probabilities.tolist(), labels.tolist(), strict=True):
            best = tuple((self.classes[label], p) for label, p in zip(names, row, strict=True))
            predictions.append(Prediction(*best[0], top=best))
        return predictions

    def final(self, head: nn.Module) -> nn.Module:
        return head

    def stand_in(self, num_images: int, image_size: tuple[int, int]) -> Tensor:
        return torch.arange(num_images) % len(self.classes)

    def truth(self, target: int) -> str:
        return self.classes[target]

    def is_right(self, answer: Prediction, target: int) -> bool:
        return answer.label == self.classes[target]
