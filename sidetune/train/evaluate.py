"""How many images a model labels right."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

import torch
from accelerate import Accelerator

from sidetune.model import AdaptedModel
from sidetune.train.batches import Data, as_dataset, evaluation_batches
from sidetune.train.precision import TYPES, resolve
from sidetune.train.recipe import Precision, Recipe


@dataclass(frozen=True, kw_only=True)
class Score:
    by_class: tuple[tuple[int, int], ...]
    """Of each class, in order: its images, and those of them that are labelled right."""

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
    def balanced_accuracy(self) -> float:
        """The mean of the recalls of classes that have images: every class counts the same."""
        return fmean(recall for recall in self.recalls if recall is not None)

    def described(self, classes: Sequence[str]) -> dict[str, Any]:
        """Everything, for JSON."""
        return {
            "accuracy": self.accuracy,
            "balanced_accuracy": self.balanced_accuracy,
            "num_images": self.num_images,
            "num_correct": self.num_correct,
            "recall": dict(zip(classes, self.recalls, strict=True)),
        }


def evaluate(
    model: AdaptedModel,
    data: Data,
    *,
    batch_size: int = 64,
    precision: Precision = "auto",
    progress: Callable[[int, int], None] | None = None,
) -> Score:
    """Score a model on samples, any torch data set of (image, label), or what `sidetune evaluate` takes: an image
    folder or a data set's name; of one with several parts, the test images.

    Runs on the GPU if there is one, spread over processes if several were launched. Raises DataError for data that
    does not fit the model.
    """
    accelerator = Accelerator(mixed_precision="no")
    dataset = as_dataset(data, model, training=False)
    batches = accelerator.prepare_data_loader(evaluation_batches(dataset, Recipe(batch_size=max(batch_size // 2, 1))))
    model.hold(TYPES[resolve(precision, accelerator.device)], accelerator.device)
    return score(model, batches, accelerator, progress)


@torch.no_grad()
def score(
    model: AdaptedModel,
    batches: Iterable[tuple[Any, torch.Tensor]],
    accelerator: Accelerator,
    progress: Callable[[int, int], None] | None = None,
) -> Score:
    """Score a model on prepared batches; leaves it in the mode it was in."""
    was_training = model.training
    model.eval()
    images, correct = (torch.zeros(len(model.classes), dtype=torch.int64) for _ in range(2))
    total = len(batches)  # type: ignore[arg-type]
    for step, (x, labels) in enumerate(batches, start=1):
        right = model(x).argmax(dim=1) == labels
        labels, right = (t.cpu() for t in accelerator.gather_for_metrics((labels, right)))
        images += labels.bincount(minlength=len(images))
        correct += labels[right].bincount(minlength=len(correct))
        if progress:
            progress(step, total)
    model.train(was_training)
    return Score(by_class=tuple(zip(images.tolist(), correct.tolist(), strict=True)))
