"""The peak memory of a training step.

On a GPU that is CUDA's own count. On a CPU it is the largest sum of bytes of all tensor storages alive at once, seen
through PyTorch's dispatcher: exact, and the same on every run.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.weak import WeakIdKeyDictionary

from sidetune.model import AdaptedModel
from sidetune.train.optimizer import make_optimizer
from sidetune.train.precision import autocast, resolve
from sidetune.train.recipe import Recipe


class TensorBytes(TorchDispatchMode):
    """While active, follows the bytes of the storages it was given and of all that operations make."""

    def __init__(self, tensors: Iterable[Tensor] = ()) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.alive = 0
        self.peak = 0
        self._seen: WeakIdKeyDictionary = WeakIdKeyDictionary()
        for tensor in tensors:
            self.watch(tensor)

    def watch(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        if storage in self._seen:
            return
        size = storage.nbytes()
        self._seen[storage] = size
        self.alive += size
        self.peak = max(self.peak, self.alive)
        weakref.finalize(storage, self._gone, size).atexit = False

    def _gone(self, size: int) -> None:
        self.alive -= size

    def reset_peak(self) -> None:
        self.peak = self.alive

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor):
                self.watch(leaf)
        return result


def training_peak(model: AdaptedModel, images: Tensor, labels: Tensor, recipe: Recipe) -> int:
    """Bytes at the peak of the second training step on a batch of images, the frozen half on the fly.

    Counts parameters, buffers, optimizer state, gradients, activations, temporaries and the batch. The model is on its
    device already and is left as it was.
    """
    device = model.head.weight.device
    precision = resolve(recipe.precision, device)
    images, labels = images.to(device), labels.to(device)
    before = {name: t.cpu().clone() for name, t in model.trained().items()}
    was_training = model.training
    optimizer = make_optimizer(model, recipe, recipe.lr or model.method.lr)

    def step() -> None:
        with autocast(precision, device):
            loss = model.task.loss(model(images), labels)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    model.train()
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        if device.type == "cuda":
            step()
            torch.cuda.reset_peak_memory_stats(device)
            step()
            peak = torch.cuda.max_memory_allocated(device)
        else:
            with TensorBytes([*model.parameters(), *model.buffers(), images, labels]) as tracker:
                step()
                tracker.reset_peak()
                step()
                peak = tracker.peak
    model.load_trained(before)
    model.train(was_training)
    return peak
