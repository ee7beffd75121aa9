"""Seconds of a training step and images a second, on random pixels."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor

from sidetune.measure.memory import trial
from sidetune.model import AdaptedModel
from sidetune.recipe import Recipe


def seconds_of(run: Callable[[], object], device: torch.device, repeats: int = 3) -> float:
    """Median time of a call, after two that do not count."""
    times = []
    for _ in range(repeats + 2):
        start = time.perf_counter()
        run()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        times.append(time.perf_counter() - start)
    return statistics.median(times[2:])


def step_seconds(model: AdaptedModel, recipe: Recipe) -> tuple[float, float | None]:
    """Of a training step with the frozen half on the fly, and from kept features (None where nothing is frozen).

    The model is held on its device in its type already, and is left as it was.
    """
    images, labels = random_batch(model, recipe.batch_size)
    with trial(model, images, labels, recipe) as (step, _):
        flying = seconds_of(step, images.device)
    if model.prefix is None:
        return flying, None
    features = model.features(images)
    with trial(model, features, labels, recipe) as (step, _):
        return flying, seconds_of(step, images.device)


@torch.inference_mode()
def images_per_second(model: AdaptedModel, batch_size: int) -> float:
    """Throughput of inference; the model is held on its device in its type already."""
    images, _ = random_batch(model, batch_size)
    model.eval()
    return batch_size / seconds_of(lambda: model(images), images.device, repeats=5)


def random_batch(model: AdaptedModel, batch_size: int) -> tuple[Tensor, Tensor]:
    images = torch.randn(batch_size, 3, *model.card.image_size, device=model.device)
    return images, model.task.stand_in(batch_size, model.card.image_size).to(model.device)
