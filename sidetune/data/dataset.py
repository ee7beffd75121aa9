"""Pictures with targets as a torch data set of tensors, and as batches of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset, default_collate

from sidetune.data.boxrows import are_rows, padded
from sidetune.data.given import mask_of, objects_of
from sidetune.data.paired import Paired
from sidetune.data.pixels import to_rgb
from sidetune.data.samples import NO_INSTANCES, PLACED, Kind, Samples
from sidetune.data.transforms import Transform
from sidetune.errors import DataError

Show = Callable[[Image.Image], Tensor] | Paired
"""How pictures become images, alone or with their masks or boxes."""


class Prepared(Dataset[Any]):
    """A torch data set of (PIL picture, target) with a transform put behind it. Masks are PIL pictures or arrays of
    class numbers, 255 and -1 saying nothing; boxes are dicts as torchvision's detectors take them, see `given`."""

    def __init__(
        self, pictures: Dataset[Any], transform: Show, *, is_random: bool, num_classes: int | None = None
    ) -> None:
        self.pictures, self.transform, self.is_random = pictures, transform, is_random
        self.num_classes = num_classes
        if hasattr(pictures, "classes"):
            self.classes = tuple(pictures.classes)

    def __len__(self) -> int:
        return len(self.pictures)  # type: ignore[arg-type]

    def __getitem__(self, index: int) -> tuple[Tensor, Any]:
        picture, target = self.pictures[index]
        picture = to_rgb(picture)
        if not isinstance(self.transform, Paired):
            return self.transform(picture), target
        if self.transform.kind == "segmentation":
            return self.transform(picture, mask_of(target))
        try:
            objects = objects_of(target, picture.size, self.num_classes)
        except DataError as e:
            raise DataError(f"item {index} of the {type(self.pictures).__name__}: {e}") from None
        return self.transform(picture, objects)


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
    if kind == "instances":
        raise ValueError(NO_INSTANCES)
    if kind in PLACED:
        return transform.pairs(kind, training=training)
    return transform.training() if training else transform.evaluation()


def collate(examples: Sequence[tuple[Any, Any]]) -> tuple[Any, Any]:
    """A batch of (image, target): targets as `together` has them."""
    images, targets = zip(*examples, strict=True)
    return default_collate(list(images)), together(targets)


def together(targets: Sequence[Any]) -> Any:
    """Targets of a batch: a tensor; of boxes one that is filled up to the most of a picture; a list where shapes
    differ otherwise."""
    if not are_alike(targets):
        return padded(targets) if all(map(are_rows, targets)) else list(targets)
    return default_collate(list(targets))


def are_alike(targets: Sequence[Any]) -> bool:
    """Whether they fit in one tensor as they are."""
    return not all(isinstance(t, Tensor) for t in targets) or len({t.shape for t in targets}) == 1
