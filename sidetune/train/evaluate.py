"""How many images a model labels right."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from accelerate import Accelerator

from sidetune.model import AdaptedModel
from sidetune.train.batches import Data, as_dataset, evaluation_batches
from sidetune.train.precision import TYPES, resolve
from sidetune.train.recipe import Precision, Recipe


@dataclass(frozen=True, kw_only=True)
class Score:
    num_images: int
    num_correct: int

    @property
    def accuracy(self) -> float:
        """Top-1, in 0..1."""
        return self.num_correct / self.num_images


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
    num_images = num_correct = 0
    total = len(batches)  # type: ignore[arg-type]
    for step, (x, labels) in enumerate(batches, start=1):
        right = model(x).argmax(dim=1) == labels
        right = accelerator.gather_for_metrics(right)
        num_images += len(right)
        num_correct += int(right.sum())
        if progress:
            progress(step, total)
    model.train(was_training)
    return Score(num_images=num_images, num_correct=num_correct)
