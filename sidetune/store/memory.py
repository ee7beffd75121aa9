"""Features of a whole data set, held in memory."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, default_collate

from sidetune.data.dataset import are_alike, together
from sidetune.seam.features import Features, join

Compute = Callable[[Tensor], Features]


class FeatureMemory(Dataset[tuple[Features, Tensor]]):
    """(features, target) of every image. Item v * len + i is view v of image i, in the order they were taken in."""

    is_random = False

    def __init__(
        self,
        features: Features,
        labels: Tensor | list[Tensor],
        classes: tuple[str, ...] | None = None,
        num_views: int = 1,
    ) -> None:
        self.features, self.labels, self.num_views = features, labels, num_views
        if classes is not None:
            self.classes = classes

    def __len__(self) -> int:
        return len(self.labels) // self.num_views

    def __getitem__(self, index: int) -> tuple[Features, Tensor]:
        return self.features.map(lambda t: t[index]), self.labels[index]

    def __getitems__(self, indices: Sequence[int]) -> tuple[Features, Any]:
        """A whole batch at once; data loaders use it, with `collate` of this module."""
        chosen = torch.as_tensor(indices)
        found = self.labels[chosen] if isinstance(self.labels, Tensor) else together([self.labels[i] for i in indices])
        return self.features.map(lambda t: t[chosen]), found


def remember(
    dataset: Dataset[tuple[Tensor, int]],
    compute: Compute,
    *,
    batch_size: int = 64,
    num_views: int = 1,
    num_workers: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> FeatureMemory:
    """Run the frozen half once over a data set, which holds `num_views` views of each image one after the other.

    `compute` maps images to features; they are kept on the CPU.
    """
    total = len(dataset)  # type: ignore[arg-type]
    parts: list[Features] = []
    labels: list[Any] = []
    done = 0
    batches = DataLoader(dataset, batch_size=batch_size, num_workers=num_workers, collate_fn=apart)
    for images, targets in batches:
        parts.append(compute(images).to("cpu"))
        labels += [t.clone() if isinstance(t, Tensor) else t for t in targets]  # what workers share keeps a file open
        done += len(images)
        if progress:
            progress(done, total)
    kept = default_collate(labels) if are_alike(labels) else labels
    return FeatureMemory(join(parts, torch.cat), kept, getattr(dataset, "classes", None), num_views)


def apart(examples: Sequence[tuple[Any, Any]]) -> tuple[Any, list[Any]]:
    """A batch of (image, target) whose targets stay as large as they are."""
    images, targets = zip(*examples, strict=True)
    return default_collate(list(images)), list(targets)


def as_they_are(batch: object) -> object:
    """For data loaders over a FeatureMemory, whose batches are already batches."""
    return batch
