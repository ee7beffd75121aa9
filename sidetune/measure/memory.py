"""The memory of a training step at its peak, and what it is made of.

On a GPU the peak is CUDA's own count. On a CPU it is the largest sum of bytes of all tensor storages alive at once,
seen through PyTorch's dispatcher: exact, and the same on every run, on tensors without values (`plan`) too.
"""

from __future__ import annotations

import weakref
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import astuple, dataclass, fields
from typing import Any

import torch
from torch import Tensor, UntypedStorage, optim
from torch._subclasses.fake_tensor import FakeTensor
from torch.autograd.graph import saved_tensors_hooks
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.weak import WeakIdKeyDictionary

from sidetune.model import AdaptedModel
from sidetune.recipe import Recipe
from sidetune.seam.features import Features
from sidetune.train.optimizer import make_optimizer, optimizer_tensors
from sidetune.train.step import backward, save_memory


@dataclass(frozen=True, kw_only=True)
class Memory:
    """Bytes alive at the peak of a training step."""

    frozen: int
    """Frozen weights and buffers."""
    trained: int
    optimizer: int
    gradients: int
    batch: int
    activations: int
    """What the forward pass keeps for the gradient, features included."""
    workspace: int
    """All that comes and goes within a pass, blocks computed again and what CUDA's libraries work in included."""

    @property
    def peak(self) -> int:
        return sum(astuple(self))


class TensorBytes(TorchDispatchMode):
    """While active, follows the bytes of the storages it was given and of all that operations make."""

    def __init__(self, tensors: Iterable[Tensor] = ()) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.alive = 0
        self.peak = 0
        self.census: Census | None = None
        self.sizes: WeakIdKeyDictionary = WeakIdKeyDictionary()
        for tensor in tensors:
            self.watch(tensor)

    def watch(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        if storage in self.sizes:
            return
        size = storage.nbytes()
        self.sizes[storage] = size
        self.alive += size
        self.peak = max(self.peak, self.alive)
        weakref.finalize(storage, self._gone, size).atexit = False
        if self.census is not None:
            self.census.born(storage, self)

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


class Census:
    """Sorts what is alive the moment a given number of bytes are: by its owner, or by what it was made for."""

    def __init__(self, at: int, owners: Mapping[str, Sequence[Tensor]], trained: Sequence[Tensor]) -> None:
        self.at, self.trained = at, trained
        self.owner = WeakIdKeyDictionary()
        for name, tensors in owners.items():
            for t in tensors:
                self.owner[t.untyped_storage()] = name
        self.counts: Counter[str] | None = None
        self.undecided: list[tuple[weakref.ref[UntypedStorage], int]] = []

    def born(self, storage: UntypedStorage, tracker: TensorBytes) -> None:
        in_backward = torch._C._current_graph_task_id() != -1
        if in_backward:
            self.settle()
        self.owner[storage] = "workspace" if in_backward else "forward"
        if self.counts is None and tracker.alive == self.at:
            self.count(tracker, in_backward)

    def count(self, tracker: TensorBytes, in_backward: bool) -> None:
        for p in self.trained:
            if p.grad is not None:
                self.owner[p.grad.untyped_storage()] = "gradients"
        self.counts = Counter()
        for storage, size in tracker.sizes.items():
            name = self.owner.get(storage, "workspace")
            if name == "forward" and not in_backward:
                self.undecided.append((weakref.ref(storage), size))
            else:
                self.counts["activations" if name == "forward" else name] += size

    def settle(self) -> None:
        """At the end of the forward pass: what of it is still there is kept for the gradient. At the end of the step:
        what the optimizer made is gone."""
        for storage, size in self.undecided:
            assert self.counts is not None
            self.counts["workspace" if storage() is None else "activations"] += size
        self.undecided = []


def training_peak(model: AdaptedModel, images: Tensor, labels: Tensor, recipe: Recipe) -> int:
    """Bytes at the peak of the second training step on a batch of images, the frozen half on the fly.

    Counts parameters, buffers, optimizer state, gradients, activations, temporaries and the batch. The model is
    held on its device in its type already, and is left as it was.
    """
    with trial(model, images, labels, recipe) as (step, _):
        if images.is_cuda:
            step()
            torch.cuda.reset_peak_memory_stats(images.device)
            step()
            return torch.cuda.max_memory_allocated(images.device)
        with TensorBytes([*model.parameters(), *model.buffers(), images, labels]) as tracker:
            step()
            tracker.reset_peak()
            step()
            return tracker.peak


def training_memory(model: AdaptedModel, images: Tensor, labels: Tensor, recipe: Recipe) -> Memory:
    """`training_peak` on a CPU, taken apart."""
    trained = [p for p in model.parameters() if p.requires_grad]
    frozen = [t for t in (*model.parameters(), *model.buffers()) if not t.requires_grad]
    batch = [images, labels]
    with trial(model, images, labels, recipe) as (step, optimizer):
        with TensorBytes([*trained, *frozen, *batch]) as tracker:
            step()
            tracker.reset_peak()
            step()
            state = optimizer_tensors(optimizer)
            owners: dict[str, Sequence[Tensor]] = {
                "frozen": frozen,
                "trained": trained,
                "optimizer": state,
                "batch": batch,
            }
            tracker.census = Census(tracker.peak, owners, trained)
            step()
            tracker.census.settle()
    counts = tracker.census.counts
    assert counts is not None, "every step has the same peak"
    return Memory(**{f.name: counts[f.name] for f in fields(Memory)})


@contextmanager
def trial(
    model: AdaptedModel, x: Tensor | Features, labels: Tensor, recipe: Recipe
) -> Iterator[tuple[Callable[[], None], optim.Optimizer]]:
    """A training step on images or their features to run, and its optimizer; the model is put back afterwards."""
    before = {name: t.cpu().clone() for name, t in model.trained().items()}
    was_training, was_saving = model.training, (model.suffix.num_recomputed, model.suffix.keep_taps)
    optimizer = make_optimizer(model, recipe, recipe.lr or model.method.lr)

    def step() -> None:
        backward(model, x, labels, micro_batch=recipe.means.micro_batch)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    model.train()
    save_memory(model, recipe)
    if recipe.means.offload and isinstance(labels, FakeTensor):
        model.suffix.keep_taps = out_of_sight
    with torch.random.fork_rng(devices=[labels.device] if labels.is_cuda else []):
        yield step, optimizer
    model.load_trained(before)
    model.train(was_training)
    model.suffix.num_recomputed, model.suffix.keep_taps = was_saving


def out_of_sight() -> AbstractContextManager[object]:
    """Offloading to a host whose memory is not counted, for tensors without values."""
    return saved_tensors_hooks(
        lambda t: (t.shape, t.dtype),
        lambda kind: torch.empty(kind[0], dtype=kind[1]),
    )
