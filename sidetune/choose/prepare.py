"""Letting a method look at training images before it adapts a backbone."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor

from sidetune.backbones import Backbone
from sidetune.data.samples import Samples
from sidetune.data.sources import read_training
from sidetune.data.transforms import Transform
from sidetune.errors import DataError
from sidetune.methods import Method, find_method


def prepare(
    method: str | Method,
    backbone: Backbone,
    train: str | Path | Samples,
    *,
    transform: str = "photo",
    seed: int = 0,
    batch_size: int = 32,
) -> Method:
    """The method to `adapt` with: what it has to find out from training images (a folder, or samples) is found.

    Most methods have nothing to find out and come back as they are. Images are shown unaugmented, in an order that
    `seed` decides; what is random in a method's look at them starts from it too. Raises DataError for bad data.
    """
    samples = train if isinstance(train, Samples) else read_training(train)[0]
    method = find_method(method)
    if samples.task != "classification" and type(method).prepare is not Method.prepare:
        raise DataError(
            f"{type(method).__name__} looks at training images by their classes before it adapts a backbone, and these "
            f"are for {samples.task}; choose another method"
        )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        shown = batches(samples, backbone, transform, seed, batch_size)
        return method.prepare(backbone, shown, num_classes=len(samples.classes))


def batches(
    samples: Samples, backbone: Backbone, transform: str, seed: int, batch_size: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """Batches of images and labels, made as they are asked for."""
    card, device = backbone.card, Accelerator(mixed_precision="no").device
    show = Transform(preset=transform, image_size=card.image_size, mean=card.mean, std=card.std).evaluation()
    order = np.random.default_rng(seed).permutation(len(samples))
    for start in range(0, len(order), batch_size):
        chosen = [int(i) for i in order[start : start + batch_size]]
        images = torch.stack([show(samples.image(i)) for i in chosen])
        yield images.to(device), torch.tensor([samples.labels[i] for i in chosen], device=device)
