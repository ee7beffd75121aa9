"""Pictures with targets as a torch data set of tensors, and as batches of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset, default_collate

from sidetune.data.masks import IGNORED
from sidetune.data.paired import Paired
from sidetune.data.pixels import to_rgb
from sidetune.data.samples import PLACED, Kind, Samples
from sidetune.data.transforms import Transform

Show = Callable[[Image.Image], Tensor] | Paired
"""How pictures become images, with their masks or without."""
UNSAID = 255
"""What masks of public data sets have at the edges of objects."""


class Prepared(Dataset[Any]):
    """A torch data set of (PIL picture, target) with a transform put behind it. Masks are PIL pictures or arrays of
    class numbers, 255 and -1 saying nothing."""

    def __init__(self, pictures: Dataset[Any], transform: Show, *, is_random: bool) -> None:
        self.pictures, self.transform, self.is_random = pictures, transform, is_random
        if hasattr(pictures, "classes"):
            self.classes = tuple(pictures.classes)

    def __len__(self) -> int:
        return len(self.pictures)  # type: ignore[arg-type]

    def __getitem__(self, index: int) -> tuple[Tensor, Any]:
        picture, target = self.pictures[index]
        if isinstance(self.transform, Paired):
            mask = np.asarray(target).astype(np.int64)
            return self.transform(to_rgb(picture), np.where(mask == UNSAID, IGNORED, mask))
        return self.transform(to_rgb(picture)), target


class ImageDataset(Dataset[Any]):
    """(image tensor, target) of samples; a target is a number, or a tensor."""

    def __init__(self, samples: Samples, transform: Show, *, is_random: bool) -> None:
        self.samples, self.transform, self.is_random = samples, transform, is_random
        self.classes = samples.classes

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> tuple[Tensor, Any]:
        picture, target = self.samples.image(index), self.samples.target(index)
        if isinstance(self.transform, Paired):
            return self.transform(picture, target)
        return self.transform(picture), target if isinstance(target, int) else torch.tensor(target)


def dataset_of(samples: Samples, transform: Transform, *, training: bool) -> ImageDataset:
    """Samples as a model's transform shows them."""
    show = show_of(transform, samples.task, training=training)
    return ImageDataset(samples, show, is_random=training and transform.is_random)


def show_of(transform: Transform, kind: Kind, *, training: bool) -> Show:
    """How a transform shows pictures with targets of a kind."""
    if kind in PLACED:
        return transform.pairs(training=training)
    return transform.training() if training else transform.evaluation()


def collate(examples: Sequence[tuple[Any, Any]]) -> tuple[Any, Any]:
    """A batch of (image, target): targets of one shape as a tensor, those of several as a list."""
    images, targets = zip(*examples, strict=True)
    return default_collate(list(images)), together(targets)


def together(targets: Sequence[Any]) -> Any:
    """Targets of a batch: a tensor, or a list where their shapes differ."""
    if all(isinstance(t, Tensor) for t in targets) and len({t.shape for t in targets}) > 1:
        return list(targets)
    return default_collate(list(targets))
