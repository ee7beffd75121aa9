"""A look at training images before a run: by methods that decide by them what is adapted (`prepare`), and by those that
start by them (`begin`). Both are given what is measured on a plain backbone, never a model."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor, nn

from sidetune.backbones import Backbone
from sidetune.backbones.held import by_autocast
from sidetune.backbones.structure import rebuild
from sidetune.data.samples import Samples
from sidetune.data.sources import read_training
from sidetune.data.transforms import Transform
from sidetune.datasets import Data, Targets, as_dataset, sized
from sidetune.errors import DataError
from sidetune.methods import Method, find_method
from sidetune.model import AdaptedModel
from sidetune.seam.features import Features
from sidetune.seam.squares import Squares, squared_gradients
from sidetune.seam.taps import block_output
from sidetune.store import Kept


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


def begin(model: AdaptedModel, train: Data, seed: int = 0) -> None:
    """Let the method start by as many training images as it wants to see; once for a model, `fit` does it.

    Raises ValueError if it wants images and there are only their features.
    """
    if model.begun or not (wanted := model.method.num_shown):
        return
    dataset = as_dataset(train, model, training=True)
    if isinstance(dataset, Kept):
        raise ValueError(
            f"{type(model.method).__name__} looks at training images before the first step, and these are features; "
            f"call sidetune.begin(model, images) first, or choose a start without images"
        )
    chosen = np.random.default_rng(seed).permutation(len(sized(dataset)))[:wanted]
    examples = [dataset[int(i)] for i in chosen]
    model.task = model.task.begin(Targets(dataset))
    start_by(model, examples)


def start_by(model: AdaptedModel, examples: Sequence[tuple[Tensor, Any]]) -> None:
    """Let the method start by images (3, height, width) and their targets."""
    shown = Shown(model, examples)
    model.method.begin(model.suffix.side, shown.blocks, shown)
    model.begun = True


class Shown:
    """The plain backbone of a model that has all blocks frozen, its head, and images; see `sidetune.seam.squares`."""

    def __init__(self, model: AdaptedModel, examples: Sequence[tuple[Tensor, Any]]) -> None:
        self.model, self.examples, self.prefix = model, examples, model.prefix
        frozen = model.prefix.blocks.items() if model.prefix is not None else ()
        self.blocks: dict[int, nn.Module] = {int(i): block for i, block in frozen}

    def squares(self, weights: Iterable[str]) -> Squares:
        model, names, device = self.model, frozenset(weights), self.model.device
        prefix, pool, wanted = self.prefix, model.suffix.pool, model.suffix.wanted
        if prefix is None or len(self.blocks) < model.num_blocks:
            kind = type(model.method).__name__
            raise ValueError(f"{kind} has images shown to the plain backbone, of which it leaves not all blocks frozen")

        def awake(block: str, name: str, t: Tensor) -> Tensor:
            asked = f"blocks.{block}.{name}" in names
            return nn.Parameter(t.detach(), asked) if isinstance(t, nn.Parameter) else t

        blocks = {i: rebuild(b, partial(awake, str(i))) for i, b in self.blocks.items()}
        found = {f"blocks.{i}.{name}": p for i, b in blocks.items() for name, p in b.named_parameters()}

        def loss(example: tuple[Tensor, Any]) -> Tensor:
            image, target = example
            z = prefix.stem(image.to(device, model.dtype)[None])
            taps = {}
            for i, block in blocks.items():
                z = taps[block_output(i)] = block(z)
            taps |= {tap: pool(z) for tap in wanted if tap.kind == "pool" and pool is not None}
            return model.loss(model.head(Features(taps)), torch.as_tensor(target, device=device)[None])

        with by_autocast(device, model.dtype):
            return squared_gradients({name: found[name] for name in sorted(names)}, self.examples, loss)
