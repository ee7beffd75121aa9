"""Samples as a torch data set."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from sidetune.data.pixels import to_rgb
from sidetune.data.samples import Samples


class Prepared(Dataset[Any]):
    """A torch data set of (PIL picture, label) with a transform put behind it."""

    def __init__(self, pictures: Dataset[Any], transform: Callable[[Image.Image], Tensor], *, is_random: bool) -> None:
        self.pictures, self.transform, self.is_random = pictures, transform, is_random
        if hasattr(pictures, "classes"):
            self.classes = tuple(pictures.classes)

    def __len__(self) -> int:
        return len(self.pictures)  # type: ignore[arg-type]

    def __getitem__(self, index: int) -> tuple[Tensor, Any]:
        picture, label = self.pictures[index]
        return self.transform(to_rgb(picture)), label


class ImageDataset(Dataset[Any]):
    """(image tensor, label) of samples; a label is a number, or a tensor of several."""

    def __init__(self, samples: Samples, transform: Callable[[Image.Image], Tensor], *, is_random: bool) -> None:
        self.samples, self.transform, self.is_random = samples, transform, is_random
        self.classes = samples.classes

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> tuple[Tensor, Any]:
        label = self.samples.labels[index]
        return self.transform(self.samples.image(index)), label if isinstance(label, int) else torch.tensor(label)
