"""How good boxes are: average precision of each class, and their means."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float
from torch import Tensor

from sidetune.tasks.average_precision import coco_precision, evaluators, voc07
from sidetune.tasks.detections import Detections, rows_of
from sidetune.tasks.words import poorest

METRICS = ("ap", "ap50", "ap75", "ar100", "voc07")
AT_50, AT_75 = 0, 5
"""Where these stand among .50, .55, .., .95."""


@dataclass(frozen=True, kw_only=True, eq=False)
class DetectionScore:
    by_class: dict[str, np.ndarray]
    """By metric, of each class; nan of one that is nowhere."""
    classes: tuple[str, ...]
    num_images: int

    @property
    def values(self) -> dict[str, float]:
        """Means over the classes that are there, 0 where none is."""
        return {name: mean_of(values) for name, values in self.by_class.items()}

    def of(self, metric: str) -> dict[str, float | None]:
        """By class; None of one that is nowhere."""
        values = self.by_class[metric].tolist()
        return {name: None if np.isnan(v) else v for name, v in zip(self.classes, values, strict=True)}

    def described(self) -> dict[str, Any]:
        return {**self.values, "num_images": self.num_images, "by_class": {name: self.of(name) for name in METRICS}}

    def in_words(self) -> str:
        """AP, AP50 and the classes whose AP is much lower."""
        values = self.values
        text = f"AP {100 * values['ap']:.2f} %, AP50 {100 * values['ap50']:.2f} %"
        poor = poorest(self.of("ap").values(), self.classes, values["ap"])
        return f"{text}; lowest AP: {poor}" if poor else text


class DetectionMeter:
    def __init__(self, predict: Callable[[Tensor], list[Detections]], classes: tuple[str, ...]) -> None:
        evaluators()  # lest they are missed when everything is found
        self.predict, self.classes = predict, classes
        self.found: list[Detections] = []
        self.truth: list[Tensor] = []

    def add(self, outputs: Float[Tensor, "batch anchor label_and_8"], targets: Tensor | Sequence[Tensor]) -> None:
        """Targets in one tensor, filled up, or each image's own."""
        self.found += self.predict(outputs)
        self.truth += [rows_of(target) for target in targets]

    def score(self) -> DetectionScore:
        return scored(self.found, self.truth, self.classes)


def scored(
    found: Sequence[Detections], truth: Sequence[Float[Tensor, "_ 6"]], classes: tuple[str, ...]
) -> DetectionScore:
    """What was found in images beside what is in them."""
    coco = coco_precision(found, truth, len(classes))
    by_class = {
        "ap": coco.precision.mean(axis=0),
        "ap50": coco.precision[AT_50],
        "ap75": coco.precision[AT_75],
        "ar100": coco.recall.mean(axis=0),
        "voc07": voc07(found, truth, len(classes)),
    }
    return DetectionScore(by_class=by_class, classes=classes, num_images=len(truth))


def mean_of(values: np.ndarray) -> float:
    return 0.0 if np.isnan(values).all() else float(np.nanmean(values))
