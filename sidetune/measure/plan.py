"""What a training run will take, found without running it: the same step, on tensors without values."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from itertools import product
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop_count, sdpa_flop_count

from sidetune.backbones.structure import empty, rebuild
from sidetune.errors import DataError, OverBudget
from sidetune.measure.machine import library_bytes
from sidetune.measure.memory import Memory, training_memory, training_peak
from sidetune.measure.parameters import Parameters, count
from sidetune.model import AdaptedModel
from sidetune.recipe import Precision, Recipe
from sidetune.seam.features import Features
from sidetune.tasks import Task
from sidetune.train.precision import TYPES, best_device, resolve
from sidetune.train.step import can_be_cut


@dataclass(frozen=True, kw_only=True)
class Operations:
    """Multiply-adds of one image, in the matrix products and convolutions."""

    prefix: int
    suffix: int
    backward: int

    @property
    def on_the_fly(self) -> int:
        return self.prefix + self.suffix + self.backward

    @property
    def from_features(self) -> int:
        """Of a step whose features are kept."""
        return self.suffix + self.backward


@dataclass(frozen=True, kw_only=True)
class Plan:
    backbone: str
    method: str
    image_size: tuple[int, int]
    precision: str
    batch_size: int
    micro_batch: int | None
    checkpoint: bool
    checkpoint_blocks: int | None
    offload: bool
    weights: str
    parameters: Parameters
    num_blocks: int
    frozen_depth: int
    memory: Memory
    features_bytes: int
    """Of one image, in memory or in a store."""
    operations: Operations

    def as_dict(self) -> dict[str, Any]:
        return {**asdict(self), "peak_bytes": self.memory.peak}


def plan(model: AdaptedModel, recipe: Recipe | None = None) -> Plan:
    """The plan of a training run; nothing is computed and the model may be on the meta device.

    Types are those of `recipe.precision`; `auto` means what it does on this machine.
    """
    recipe = recipe or Recipe()
    precision = precision_here(recipe)
    with without_values(model, recipe) as fake:
        images = torch.empty(1, 3, *model.card.image_size)
        return Plan(
            backbone=model.card.name or model.card.architecture,
            method=type(model.method).__name__,
            image_size=model.card.image_size,
            precision=precision,
            batch_size=recipe.batch_size,
            micro_batch=recipe.means.micro_batch,
            checkpoint=recipe.means.checkpoint,
            checkpoint_blocks=recipe.means.checkpoint_blocks,
            offload=recipe.means.offload,
            weights=recipe.weights,
            parameters=count(model),
            num_blocks=model.num_blocks,
            frozen_depth=model.frozen_depth,
            memory=memory_of(fake, recipe),
            features_bytes=features_bytes(fake, images),
            operations=operations(fake, images),
        )


def precision_here(recipe: Recipe) -> Precision:
    return resolve(recipe.precision, best_device())


@contextmanager
def without_values(model: AdaptedModel, recipe: Recipe) -> Iterator[AdaptedModel]:
    """A copy of the model whose tensors have shapes and types but no values, for computing on a pretended CPU."""
    task = begun(model.task, model.card.image_size)
    with FakeTensorMode(), torch.device("cpu"):
        fake = rebuild(model, empty)
        fake.task = task
        yield fake.hold(TYPES[precision_here(recipe)], "cpu", weights=recipe.weights)


def begun(task: Task, image_size: tuple[int, int]) -> Task:
    """The task after a look at stand-in targets, where there is something to learn from them."""
    with torch.device("cpu"):
        targets = task.stand_in(2, image_size)
    try:
        return task.begin(list(targets))
    except DataError:
        return task


def memory_of(fake: AdaptedModel, recipe: Recipe) -> Memory:
    images, labels, rest = stand_in(fake, recipe)
    memory = training_memory(fake, images, labels, recipe)
    return replace(memory, batch=memory.batch + rest, workspace=memory.workspace + library_bytes())


def peak_of(fake: AdaptedModel, recipe: Recipe) -> int:
    """The peak of `memory_of`, found faster."""
    images, labels, rest = stand_in(fake, recipe)
    return training_peak(fake, images, labels, recipe) + rest + library_bytes()


def stand_in(fake: AdaptedModel, recipe: Recipe) -> tuple[Tensor, Tensor, int]:
    """Images and labels of two pieces of a batch, and the bytes of its other images.

    Two pieces stand for all: from the second on each finds the same alive.
    """
    num_images = min(recipe.batch_size, 2 * (recipe.means.micro_batch or recipe.batch_size))
    images = torch.empty(num_images, 3, *fake.card.image_size)
    labels = fake.task.stand_in(num_images, fake.card.image_size)
    return images, labels, (images.nbytes + labels.nbytes) * (recipe.batch_size - num_images) // num_images


def features_bytes(fake: AdaptedModel, images: Tensor) -> int:
    features = fake.features(images)
    return features.nbytes if isinstance(features, Features) else 0


def convolution_backward_flops(grad: Any, x: Any, weight: Any, *rest: Any, **_: Any) -> int:
    """Each of the two gradients takes what the convolution itself did; PyTorch's count forgets the groups."""
    per_gradient = 2 * grad[0] * math.prod(grad[2:]) * math.prod(weight)
    return per_gradient * sum(rest[-1][:2])


def attention_flops(query: Any, key: Any, value: Any, *_: Any, **__: Any) -> int:
    return int(sdpa_flop_count(query, key, value))


def attention_backward_flops(grad: Any, query: Any, key: Any, value: Any, *_: Any, **__: Any) -> int:
    return int(sdpa_backward_flop_count(grad, query, key, value))


FLOPS: dict[Any, Any] = {
    torch.ops.aten.convolution_backward: convolution_backward_flops,
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: attention_flops,
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward: attention_backward_flops,
}
"""Operations that PyTorch's counter does not know, or counts wrong."""


def operations(fake: AdaptedModel, images: Tensor) -> Operations:
    def counted() -> FlopCounterMode:
        return FlopCounterMode(display=False, custom_mapping=FLOPS)

    fake.eval()  # BatchNorms that train want more than one image
    with counted() as prefix:
        features = fake.features(images)
    with counted() as suffix:
        loss = fake.loss(fake(features), fake.task.stand_in(1, fake.card.image_size))
    with counted() as backward:
        loss.backward()
    fake.zero_grad()
    flops = (c.get_total_flops() // 2 for c in (prefix, suffix, backward))
    return Operations(**dict(zip(("prefix", "suffix", "backward"), flops, strict=True)))


def fit_budget(model: AdaptedModel, recipe: Recipe, budget: int) -> tuple[Recipe, Memory]:
    """The recipe, its means changed as little as it takes for a step to stay within `budget` bytes, and its memory.

    Tried in the order of what they cost in time: smaller pieces of the batch, then (on a GPU) taps in host memory, then
    computing blocks again, as few as it takes. Raises OverBudget, naming the smallest need, if none fits.
    """
    with without_values(model, recipe) as fake:
        *faster, frugal = cheapest_first(fake, recipe, may_offload=torch.cuda.is_available())
        least = peak_of(fake, frugal)
        if least > budget:
            raise OverBudget(
                f"a training step does not fit {budget / 2**20:,.0f} MiB: the least that this model takes is "
                f"{least / 2**20:,.0f} MiB{', ' + told(frugal) if told(frugal) else ''}. A smaller backbone, a smaller "
                f"image_size, weights=int8 or a method with a larger frozen depth takes less"
            )
        chosen = next((choice for choice in faster if peak_of(fake, choice) <= budget), frugal)
        if chosen.means.checkpoint and not recipe.means.checkpoint:
            chosen = fewest_blocks(fake, chosen, budget)
        return chosen, memory_of(fake, chosen)


def by_means(recipe: Recipe, **changes: Any) -> Recipe:
    return replace(recipe, means=replace(recipe.means, **changes))


def fewest_blocks(fake: AdaptedModel, recipe: Recipe, budget: int) -> Recipe:
    """The recipe with as few blocks computed again as the budget allows; with all of them it fits."""
    low, high = 1, len(fake.suffix.blocks)
    while low < high:
        middle = (low + high) // 2
        if peak_of(fake, by_means(recipe, checkpoint_blocks=middle)) <= budget:
            high = middle
        else:
            low = middle + 1
    return recipe if high == len(fake.suffix.blocks) else by_means(recipe, checkpoint_blocks=high)


def told(recipe: Recipe) -> str:
    """How a recipe's means save memory, in words; nothing if they do not."""
    means = recipe.means
    pieces = f"{means.micro_batch} images at a time" if means.micro_batch else ""
    count = "" if means.checkpoint_blocks is None else f"{means.checkpoint_blocks} "
    again = f"{count}blocks computed again for the gradient" if means.checkpoint else ""
    away = "taps in host memory" if means.offload else ""
    eight = "weights of 8 bits" if recipe.weights == "int8" else ""
    return ", ".join(filter(None, [pieces, away, again, eight]))


def cheapest_first(model: AdaptedModel, recipe: Recipe, may_offload: bool) -> Iterator[Recipe]:
    """A recipe, and others that give the same gradient with less memory."""
    means = recipe.means
    whole = means.micro_batch or recipe.batch_size
    sizes = [whole] + [s for s in (64, 32, 16, 8, 4, 2, 1) if s < whole]
    if not can_be_cut(model):
        sizes = [whole]
    large, small = [s for s in sizes if s >= 8 or s == whole], [s for s in sizes if s < 8 and s != whole]
    may_offload = may_offload and bool(model.suffix.reads_of_prefix) and not means.compile
    offloads = [True] if means.offload else [False, True] if may_offload else [False]
    checkpoints = [True] if means.checkpoint else [False, True]
    for part in (large, small):
        for checkpoint, offload in product(checkpoints, offloads):
            for size in part:
                piece = size if size < recipe.batch_size else None
                yield by_means(recipe, micro_batch=piece, checkpoint=checkpoint, offload=offload)


def largest_batch(model: AdaptedModel, recipe: Recipe, budget: int) -> int:
    """The largest batch whose step stays within `budget` bytes, saving memory as `recipe` does; 0 if there is none.

    Memory grows by the same for every image, so two plans tell, and a third makes sure.
    """
    with without_values(model, recipe) as fake:

        def peak(batch_size: int) -> int:
            return peak_of(fake, replace(recipe, batch_size=batch_size))

        small, large = 8, 32
        slope = (peak(large) - peak(small)) / (large - small)
        best = int((budget - peak(large)) // slope) + large
        while best > 0 and peak(best) > budget:
            best -= max(best // 100, 1)
        return max(best, 0)
