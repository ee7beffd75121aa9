"""Where the frozen half's output is kept between epochs: in memory, on disk, or nowhere."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from functools import reduce
from operator import or_
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import set_seed
from torch import Tensor
from torch.utils.data import Dataset

from sidetune.backbones import Backbone
from sidetune.data.dataset import ImageDataset, dataset_of, show_of
from sidetune.data.samples import PLACED, Samples
from sidetune.datasets import Targets, sized
from sidetune.model import AdaptedModel
from sidetune.recipe import Recipe
from sidetune.seam.features import Features
from sidetune.seam.prefix import Prefix
from sidetune.seam.taps import Need
from sidetune.store import FeatureMemory, FeatureStore, Kept
from sidetune.store.disk import Origin, fill
from sidetune.store.memory import remember
from sidetune.train.batches import num_workers
from sidetune.train.precision import TYPES, resolve

ShowProgress = Callable[[int, int], None]


class Views(Dataset[Any]):
    """Randomly augmented views of images: item v * num_images + i is view v of image i, the same whenever asked."""

    is_random = False

    def __init__(self, images: Dataset[Any], num_views: int, seed: int) -> None:
        self.images, self.num_views, self.seed = images, num_views, seed
        if hasattr(images, "classes"):
            self.classes = images.classes

    def __len__(self) -> int:
        return self.num_views * len(sized(self.images))

    def __getitem__(self, index: int) -> Any:
        with torch.random.fork_rng(devices=[]):
            set_seed(hash((self.seed, index)) % 2**32)
            return self.images[index % len(sized(self.images))]


class TargetsOf(Sequence[Any]):
    """The targets of a data set's items, made when they are asked for: maps are larger than features."""

    def __init__(self, images: Dataset[Any]) -> None:
        self.images = images

    def __len__(self) -> int:
        return len(sized(self.images))

    def __getitem__(self, index: Any) -> Any:
        return self.images[index][1]


def keep(
    model: AdaptedModel,
    data: Dataset[Any],
    recipe: Recipe,
    compute: Callable[[Tensor], Features],
    progress: ShowProgress,
    *,
    need: Need | None = None,
    store: Path | None = None,
    share: float = 0,
) -> Dataset[Any]:
    """The data set with its images replaced by their features, if the recipe wants that and they can be kept.

    `compute` gives what `need` says, the model's own if None. Processes that fill one store begin at different shares
    (0..1) of it.

    Raises ValueError where features are asked for that change from epoch to epoch, or that have no origin to be found
    again by.
    """
    if isinstance(data, Kept) or (recipe.means.features == "off" and store is None):
        return data
    must = recipe.means.features == "memory" or store is not None
    if model.prefix is None:
        if must:
            raise ValueError("no block of this model is frozen, so there are no features to keep; leave out the store")
        return data
    images: Dataset[Any] = data
    if getattr(data, "is_random", True):
        if not recipe.views:
            if must:
                raise ValueError(
                    "the training images are augmented at random, so their features change from epoch to epoch; "
                    "use transform='vtab', or keep several views of each image (views=4)"
                )
            return data
        images = Views(data, recipe.views, recipe.seed)
    if store is not None:
        return fill_store(model, data, images, recipe, compute, progress, need or model.need, store, share)
    needed = len(sized(images)) * compute(images[0][0].unsqueeze(0)).nbytes
    if recipe.means.features == "auto" and needed > recipe.means.features_limit:
        if isinstance(images, Views):
            raise ValueError(
                f"{recipe.views} views need {needed / 2**30:,.1f} GiB, above features_limit; keep them on disk "
                f"(store=), take fewer views, or none (views=0) to augment anew in every epoch"
            )
        return data
    num_views = recipe.views if isinstance(images, Views) else 1
    return remember(images, compute, num_views=num_views, num_workers=num_workers(data, recipe), progress=progress)


def fill_store(
    model: AdaptedModel,
    data: Dataset[Any],
    images: Dataset[Any],
    recipe: Recipe,
    compute: Callable[[Tensor], Features],
    progress: ShowProgress,
    need: Need,
    store: Path,
    share: float,
) -> FeatureStore:
    if not isinstance(data, ImageDataset):
        raise ValueError(
            f"a store must know images again, which a {type(data).__name__} does not tell; pass an image folder or "
            f"Samples, or keep features in memory (features='memory')"
        )
    views = recipe.views if isinstance(images, Views) else 0
    # views are made by the training transform, everything else by the one for evaluation
    said = {name: value for name, value in asdict(model.transform).items() if value is not None}
    preprocessing: dict[str, object] = {**said, "views": bool(views)}
    shown = show_of(model.transform, data.samples.task, training=False)
    if not views and repr(data.transform) != repr(shown):
        preprocessing["part"] = "train"  # a few presets prepare training images otherwise, though not at random
    if recipe.weights != "same":
        preprocessing["weights"] = recipe.weights  # rounded weights make other features
    origin = Origin(
        weights=model.card.identity,
        image_size=model.card.image_size,
        preprocessing=json.dumps(preprocessing, sort_keys=True),
        images=data.samples.fingerprint(),
        need=need,
        dtype=str(compute(images[0][0].unsqueeze(0)).tensors()[0].dtype).removeprefix("torch."),
        codec=recipe.codec,
        num_images=len(data),
        views=views,
        seed=recipe.seed if views else 0,
    )
    return fill(
        store,
        origin,
        images,
        targets_of(data, images),
        data.classes,
        compute,
        channel_axis=1 if model.suffix.channels_first else -1,
        num_workers=num_workers(data, recipe),
        share=share,
        progress=progress,
    )


def targets_of(data: ImageDataset, images: Dataset[Any]) -> Tensor | Sequence[Any]:
    """Of what is kept on disk; boxes of pictures that are shown whole need no picture to be opened."""
    if data.samples.task == "detection" and not isinstance(images, Views):
        return Targets(data).all
    return TargetsOf(images) if data.samples.task in PLACED else torch.tensor(data.samples.labels)


def share_features(
    parts: Mapping[str, Samples],
    backbone: Backbone,
    models: Sequence[AdaptedModel],
    recipe: Recipe,
    progress: ShowProgress,
) -> dict[str, FeatureMemory]:
    """Features for several models of one backbone by part of the data, from one pass of their frozen halves together.

    Parts whose images change from epoch to epoch are left out. Nothing is shared if the recipe forbids it or the
    features would not fit its limit.
    """
    transform = models[0].transform
    parts = {part: s for part, s in parts.items() if part != "train" or not transform.is_random}
    if recipe.means.features == "off" or not parts or all(model.prefix is None for model in models):
        return {}
    _, compute = together(backbone, models, recipe)
    data = {part: dataset_of(s, transform, training=part == "train") for part, s in parts.items()}
    first_image = next(iter(data.values()))[0][0]
    per_image = compute(first_image.unsqueeze(0)).nbytes
    if per_image * sum(map(len, data.values())) > recipe.means.features_limit:
        return {}
    return {
        part: remember(d, compute, num_workers=num_workers(d, recipe), progress=progress) for part, d in data.items()
    }


def together(
    backbone: Backbone, models: Sequence[AdaptedModel], recipe: Recipe
) -> tuple[Need, Callable[[Tensor], Features]]:
    """What the models of one backbone need of their frozen halves between them, and one pass that computes it."""
    need = reduce(or_, (model.need for model in models if model.prefix is not None), Need())
    device = Accelerator(mixed_precision="no").device
    prefix = Prefix(backbone, need)
    prefix.hold(device, TYPES[resolve(recipe.precision, device)], recipe.weights)
    return need, lambda images: prefix(images.to(device), need)
