"""How good a model's answers are."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from accelerate import Accelerator

from sidetune.datasets import Data, as_dataset
from sidetune.model import AdaptedModel
from sidetune.recipe import Precision, Recipe
from sidetune.tasks.metric import decided
from sidetune.tasks.task import Score
from sidetune.train.batches import evaluation_batches
from sidetune.train.precision import TYPES, resolve


def evaluate(
    model: AdaptedModel,
    data: Data,
    *,
    batch_size: int = 64,
    precision: Precision = "auto",
    progress: Callable[[int, int], None] | None = None,
) -> Any:
    """The `Score` of a model's task on samples, any torch data set of (image, target), or what `sidetune evaluate`
    takes: an image folder or a data set's name; of one with several parts, the test images.

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
    batches: Iterable[tuple[Any, Any]],
    accelerator: Accelerator,
    progress: Callable[[int, int], None] | None = None,
) -> Score:
    """Score a model on prepared batches; leaves it in the mode it was in."""
    was_training = model.training
    model.eval()
    meter = model.task.meter()
    total = len(batches)  # type: ignore[arg-type]
    for step, (x, targets) in enumerate(batches, start=1):
        outputs = model(x)
        if isinstance(targets, list):  # of several shapes
            pairs = accelerator.gather_for_metrics(list(zip(outputs, targets, strict=True)), use_gather_object=True)
            meter.add(torch.stack([output.cpu() for output, _ in pairs]), [target.cpu() for _, target in pairs])
        else:
            targets = accelerator.pad_across_processes(targets, dim=1, pad_index=-1)  # tables of boxes differ in length
            outputs, targets = accelerator.gather_for_metrics((outputs, targets))
            meter.add(outputs.cpu(), targets.cpu())
        if progress:
            progress(step, total)
    model.train(was_training)
    return meter.score()


@torch.no_grad()
def check_metric(model: AdaptedModel) -> None:
    """Raises ValueError where the task's score has no such figure as its `metric`, before hours are spent on it: seen
    on two stand-in images. A score that two images are too few for says so at the first validation."""
    task, size, was_training = model.task, model.card.image_size, model.training
    model.eval()
    meter = task.meter()
    meter.add(model(torch.zeros(2, 3, *size, device=model.device)).cpu(), task.stand_in(2, size))
    model.train(was_training)
    try:
        values = meter.score().values
    except (ValueError, ArithmeticError):
        return
    decided(task, values)
