"""The figures of scores: what each is called, how it is told, and which way is better."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from sidetune.tasks.task import Task, check_metric


@dataclass(frozen=True)
class Metric:
    """How one of a score's `values` is told and compared. A task of your own lists those of its own as `metrics`."""

    key: str
    """Under which `values` has it; what `task.metric` names."""
    name: str | None = None
    """As it is printed and drawn; its key if not given."""
    percent: bool = False
    """A share in 0..1, told in per cent, rather than a plain number."""
    lower_is_better: bool = False

    @property
    def title(self) -> str:
        return self.name or self.key

    @property
    def axis(self) -> str:
        """The title with its unit."""
        return f"{self.title} (%)" if self.percent else self.title

    @property
    def factor(self) -> int:
        """What it is multiplied with where it is told."""
        return 100 if self.percent else 1

    def told(self, value: float) -> str:
        return f"{100 * value:.1f} %" if self.percent else f"{value:.4g}"

    def rank(self, value: float) -> float:
        """Larger is better; what is no number (NaN) is below all that are."""
        if math.isnan(value):
            return -math.inf
        return -value if self.lower_is_better else value

    def ranked(self, rank: float) -> float:
        """The value of a rank."""
        return -rank if self.lower_is_better else rank

    @property
    def worst(self) -> float:
        """The value of what came to nothing."""
        if self.percent:
            return 1.0 if self.lower_is_better else 0.0
        return math.inf if self.lower_is_better else -math.inf

    def standard_error(self, value: float, num_images: int) -> float:
        """Of a share p of n images sqrt(p (1 - p) / n); of a plain number, of which nothing is known, 0."""
        return math.sqrt(max(value * (1 - value), 0) / num_images) if self.percent else 0.0


METRICS: dict[str, Metric] = {
    metric.key: metric
    for metric in (
        Metric("accuracy", percent=True),
        Metric("balanced_accuracy", "balanced accuracy", percent=True),
        Metric("macro_f1", "macro F1", percent=True),
        Metric("map", "mAP", percent=True),
        Metric("exact_match", "all labels right", percent=True),
        Metric("miou", "mIoU", percent=True),
        Metric("pixel_accuracy", "pixel accuracy", percent=True),
        Metric("class_accuracy", "class accuracy", percent=True),
        Metric("ap", "AP", percent=True),
        Metric("ap50", "AP50", percent=True),
        Metric("ap75", "AP75", percent=True),
        Metric("ar100", "AR100", percent=True),
        Metric("voc07", "VOC07 mAP", percent=True),
        Metric("r2", "R2"),
        Metric("mae", "MAE", lower_is_better=True),
        Metric("rmse", "RMSE", lower_is_better=True),
    )
}
"""Those of the library's tasks, which mean the same in every task that does not say otherwise."""


def metric_named(key: str, task: Task | None = None) -> Metric:
    """As the task states it, or the library; otherwise a plain number of that name, of which larger is better."""
    stated: dict[str, Metric] = {metric.key: metric for metric in getattr(task, "metrics", ())}
    return stated.get(key) or METRICS.get(key) or Metric(key)


def metric_of(task: Task) -> Metric:
    """The one that decides."""
    return metric_named(task.metric, task)


def decided(task: Task, values: Mapping[str, float]) -> float:
    """Of a score's values the one that decides. Raises ValueError, which lists them, where it is not there."""
    check_metric(task.metric, values)
    return float(values[task.metric])
