"""Batches of images or of remembered features, in an order that the seed and the epoch alone decide."""

from __future__ import annotations

from collections.abc import Iterator, Sequence, Sized
from dataclasses import replace
from functools import cached_property
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch.utils.data import BatchSampler, DataLoader, Dataset, Sampler

from sidetune.data.dataset import ImageDataset, Prepared
from sidetune.data.samples import Samples
from sidetune.data.sources import read_scored, read_training
from sidetune.errors import DataError
from sidetune.model import AdaptedModel
from sidetune.store import Kept
from sidetune.store.memory import collate
from sidetune.train.recipe import Recipe

Data = str | Path | Samples | Dataset[Any]
NAMES = ("labels", "targets")
"""What data sets, torchvision's and ours, call the targets of all their images."""


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


def as_dataset(data: Data, model: AdaptedModel, *, training: bool) -> Dataset[Any]:
    """What a user names, samples and torch data sets of PIL pictures become data sets with the model's transform; torch
    data sets of tensors stay as they are.

    A model made for so many classes takes over the names of the classes it is trained on, and every model the levels of
    deep pictures. Raises DataError if there are no images, or if the classes are not the model's.
    """
    may_name = training and is_unnamed(model)
    if isinstance(data, (str, Path)):
        known = None if may_name else model.classes
        takes = model.task.targets
        data = read_training(data, known, takes)[0] if training else read_scored(data, model.classes, task=takes)[1]
    if isinstance(data, Samples):
        if training:
            model.transform = replace(model.transform, levels=data.reading.levels)
        else:
            data = replace(data, reading=replace(data.reading, levels=model.transform.levels))
    prepare = model.transform.training() if training else model.transform.evaluation()
    is_random = training and model.transform.is_random
    if isinstance(data, Samples):
        data = ImageDataset(data, prepare, is_random=is_random)
    if len(sized(data)) == 0:
        raise DataError("the data set is empty")
    if isinstance(data[0][0], Image.Image):
        data = Prepared(data, prepare, is_random=is_random)
    kind, own = getattr(getattr(data, "samples", None), "task", None), model.task.targets
    if kind not in (None, own):
        raise DataError(f"the data is for {kind}, but the model was made for {own}; give adapt(task=...) another")
    classes = tuple(getattr(data, "classes", model.task.classes))
    if len(classes) != len(model.task.classes):
        raise DataError(f"the data has {len(classes)} classes, but the model was made for {len(model.task.classes)}")
    if may_name:
        unnamed: Any = model.task
        model.task = replace(unnamed, classes=classes)
    elif classes != model.task.classes:
        raise DataError(f"the data has classes {', '.join(classes)}; the model knows {', '.join(model.task.classes)}")
    return data


class Targets(Sequence[Any]):
    """The targets of a data set, found when they are first looked at, without opening an image where that can be."""

    def __init__(self, data: Dataset[Any]) -> None:
        self.data = data

    @cached_property
    def all(self) -> Sequence[Any]:
        data: Any = self.data
        for holder, name in product((data, getattr(data, "samples", None), getattr(data, "pictures", None)), NAMES):
            found = getattr(holder, name, None)
            if found is not None and not callable(found) and len(found) == len(sized(data)):
                return found
        return [data[i][1] for i in range(len(data))]

    def __len__(self) -> int:
        return len(sized(self.data))

    def __getitem__(self, index: Any) -> Any:
        return self.all[index]


def is_unnamed(model: AdaptedModel) -> bool:
    """Whether a model was made for so many classes without their names."""
    return model.task.classes == tuple(map(str, range(len(model.task.classes))))


def sized(data: Dataset[Any]) -> Sized:
    if not isinstance(data, Sized):
        raise DataError(f"a {type(data).__name__} has no length; pass a data set with __len__ and __getitem__")
    return data


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
    if isinstance(data, Kept):
        how["collate_fn"] = collate
    pin = torch.cuda.is_available()
    return DataLoader(data, num_workers=num_workers(data, recipe), pin_memory=pin, **how)
