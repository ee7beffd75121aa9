"""Features of a whole data set, held in memory."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from sidetune.features import Features, Need, join

if TYPE_CHECKING:
    from sidetune.backbones.prefix import Prefix

Compute = Callable[[Tensor], Features]


class FeatureMemory(Dataset[tuple[Features, Tensor]]):
    """(features, label) of every image, in the order of the data set they were taken from."""

    is_random = False

    def __init__(self, features: Features, labels: Tensor, classes: tuple[str, ...] | None = None) -> None:
        self.features, self.labels = features, labels
        if classes is not None:
            self.classes = classes

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Features, Tensor]:
        return self.features.map(lambda t: t[index]), self.labels[index]

    def __getitems__(self, indices: Sequence[int]) -> tuple[Features, Tensor]:
        """A whole batch at once; data loaders use it, with `collate` of this module."""
        chosen = torch.as_tensor(indices)
        return self.features.map(lambda t: t[chosen]), self.labels[chosen]


def num_bytes(prefix: Prefix, need: Need, image: Tensor, count: int, compute: Compute) -> int:
    """What the features of `count` images like this one take."""
    return count * sum(t.nbytes for t in compute(image.unsqueeze(0)).tensors())


def remember(
    dataset: Dataset[tuple[Tensor, int]],
    compute: Compute,
    *,
    batch_size: int = 64,
    num_workers: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> FeatureMemory:
    """Run the frozen half once over a data set. `compute` maps images to features; they are kept on the CPU."""
    total = len(dataset)  # type: ignore[arg-type]
    parts: list[Features] = []
    labels: list[Tensor] = []
    done = 0
    for images, batch_labels in DataLoader(dataset, batch_size=batch_size, num_workers=num_workers):
        parts.append(compute(images).to("cpu"))
        labels.append(batch_labels)
        done += len(images)
        if progress:
            progress(done, total)
    return FeatureMemory(join(parts, torch.cat), torch.cat(labels), getattr(dataset, "classes", None))


def collate(batch: object) -> object:
    """For data loaders over a FeatureMemory, whose batches are already batches."""
    return batch
