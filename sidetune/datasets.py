"""What a model is trained and scored on: what a user names as one data set of (image, target), made for the model."""

from __future__ import annotations

from collections.abc import Sequence, Sized
from dataclasses import replace
from functools import cached_property
from itertools import product
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch.utils.data import Dataset

from sidetune.data.boxrows import are_rows
from sidetune.data.cutboxes import target_of
from sidetune.data.dataset import Prepared, dataset_of, show_of
from sidetune.data.objects import Objects
from sidetune.data.paired import Paired
from sidetune.data.samples import Samples
from sidetune.data.sources import read_scored, read_training
from sidetune.errors import DataError, shown
from sidetune.model import AdaptedModel

Data = str | Path | Samples | Dataset[Any]
NAMES = ("labels", "targets")
"""What data sets, torchvision's and ours, call the targets of all their images."""
ROWS = (
    "beside tensors of images, boxes are expected as rows of a float32 tensor (object, 6): x1, y1, x2, y2 in 0..1 of "
    "the image's width and height, class, 1 if kept aside; beside PIL pictures, as {'boxes': ..., 'labels': ...}"
)


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
    if isinstance(data, Samples):
        data = dataset_of(data, model.transform, training=training)
    if len(sized(data)) == 0:
        raise DataError("the data set is empty")
    own, first = model.task.targets, data[0]
    if isinstance(first[0], Image.Image):
        show = show_of(model.transform, own, training=training)
        is_random = training and model.transform.is_random
        data = Prepared(data, show, is_random=is_random, num_classes=len(model.task.classes))
    elif own == "detection" and not are_rows(first[1]):
        raise DataError(f"{ROWS}; got {shown(first[1])}")
    kind = getattr(getattr(data, "samples", None), "task", None)
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
    """The targets of a data set, found when they are first looked at, without opening an image where that can be; boxes
    as of the whole picture."""

    def __init__(self, data: Dataset[Any]) -> None:
        self.data = data

    @cached_property
    def all(self) -> Sequence[Any]:
        data: Any = self.data
        of_pictures = None if isinstance(getattr(data, "transform", None), Paired) else getattr(data, "pictures", None)
        for holder, name in product((data, getattr(data, "samples", None), of_pictures), NAMES):
            found = getattr(holder, name, None)
            if found is not None and not callable(found) and len(found) == len(sized(data)):
                return shown_whole(found)
        return [data[i][1] for i in range(len(data))]

    def __len__(self) -> int:
        return len(sized(self.data))

    def __getitem__(self, index: Any) -> Any:
        return self.all[index]


def shown_whole(targets: Sequence[Any]) -> Sequence[Any]:
    if len(targets) and isinstance(targets[0], Objects):
        return [torch.from_numpy(target_of(objects)) for objects in targets]
    return targets


def is_unnamed(model: AdaptedModel) -> bool:
    """Whether a model was made for so many classes without their names."""
    return model.task.classes == tuple(map(str, range(len(model.task.classes))))


def sized(data: Dataset[Any]) -> Sized:
    if not isinstance(data, Sized):
        raise DataError(f"a {type(data).__name__} has no length; pass a data set with __len__ and __getitem__")
    return data
