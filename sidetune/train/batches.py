"""Batches of images or of remembered features, in an order that the seed and the epoch alone decide."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch.utils.data import BatchSampler, DataLoader, Dataset, Sampler

from sidetune.data.dataset import ImageDataset, collate
from sidetune.datasets import sized
from sidetune.recipe import Recipe
from sidetune.store import Kept
from sidetune.store.memory import as_they_are


class Shuffled(Sampler[int]):
    """A permutation for each epoch, decided by seed and epoch; set `epoch` before iterating.

    Where every image has several views, item v * count + i being view v of image i, an epoch takes the next view.
    """

    def __init__(self, count: int, seed: int, num_views: int = 1) -> None:
        self.count, self.seed, self.num_views, self.epoch = count, seed, num_views, 0

    def __len__(self) -> int:
        return self.count

    def __iter__(self) -> Iterator[int]:
        order = np.random.default_rng([self.seed, self.epoch]).permutation(self.count)
        return iter((order + self.epoch % self.num_views * self.count).tolist())


def num_workers(data: Dataset[Any], recipe: Recipe) -> int:
    if recipe.means.num_workers is not None:
        return recipe.means.num_workers
    from_files = isinstance(data, ImageDataset) and not isinstance(data.samples.images, np.ndarray)
    return 2 if from_files else 0


def training_batches(data: Dataset[Any], recipe: Recipe, num_processes: int) -> tuple[DataLoader[Any], Shuffled]:
    """Shuffled batches; the last short one is dropped, unless it is the only one."""
    order = Shuffled(len(sized(data)), recipe.seed, getattr(data, "num_views", 1))
    size = max(recipe.batch_size // num_processes, 1)
    batches = BatchSampler(order, batch_size=size, drop_last=order.count >= size * num_processes)
    return loader(data, recipe, batch_sampler=batches), order


def evaluation_batches(data: Dataset[Any], recipe: Recipe) -> DataLoader[Any]:
    return loader(data, recipe, batch_size=2 * recipe.batch_size)


def loader(data: Dataset[Any], recipe: Recipe, **how: Any) -> DataLoader[Any]:
    how["collate_fn"] = as_they_are if isinstance(data, Kept) else collate
    pin = torch.cuda.is_available()
    return DataLoader(data, num_workers=num_workers(data, recipe), pin_memory=pin, **how)
