"""Forward and backward of one batch, whole or in pieces; the gradient is that of the whole batch either way."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from functools import reduce
from operator import add

import torch
from torch import Tensor, nn
from torch.amp.grad_scaler import GradScaler
from torch.autograd.graph import save_on_cpu
from torch.nn.modules.batchnorm import _BatchNorm

from sidetune.model import AdaptedModel
from sidetune.recipe import Recipe
from sidetune.seam.features import Features


def save_memory(model: AdaptedModel, recipe: Recipe) -> None:
    """Let the suffix recompute and offload as a recipe's means say."""
    suffix, means = model.suffix, recipe.means
    asked = len(suffix.blocks) if means.checkpoint_blocks is None else means.checkpoint_blocks
    suffix.num_recomputed = asked if means.checkpoint else 0
    suffix.keep_taps = in_host_memory if means.offload else nullcontext


def in_host_memory() -> AbstractContextManager[object]:
    return save_on_cpu(pin_memory=torch.cuda.is_available())


def backward(
    model: AdaptedModel,
    x: Tensor | Features,
    targets: Tensor,
    *,
    micro_batch: int | None = None,
    scaler: GradScaler | None = None,
    parallel: nn.Module | None = None,
    terms: dict[str, Tensor] | None = None,
) -> Tensor:
    """Add the gradients of the batch's loss to the parameters; returns that loss.

    Its terms are added to `terms` by name. With `micro_batch`, that many images are in work at once. `parallel` is the
    model wrapped for several processes, which then exchange gradients once, at the last piece.
    """
    runs = parallel or model
    size = micro_batch or len(targets)
    total = torch.zeros((), device=model.device)
    for start in range(0, len(targets), size):
        last = start + size >= len(targets)
        part = slice(start, start + size)
        with nullcontext() if last or parallel is None else parallel.no_sync():  # type: ignore[operator]
            share = len(targets[part]) / len(targets)
            losses = {n: loss * share for n, loss in model.task.losses(runs(cut(x, part)), targets[part]).items()}
            loss = reduce(add, losses.values())
            (loss if scaler is None else scaler.scale(loss)).backward()
        total += loss.detach()
        if terms is not None:
            terms.update({name: term.detach() + terms.get(name, 0) for name, term in losses.items()})
    return total


def cut(x: Tensor | Features, part: slice) -> Tensor | Features:
    return x[part] if isinstance(x, Tensor) else x.map(lambda t: t[part])


def can_be_cut(model: nn.Module) -> bool:
    """Whether the gradients of a batch's pieces add up to its own: not past BatchNorms that are trained."""
    return not any(p.requires_grad for m in model.modules() if isinstance(m, _BatchNorm) for p in m.parameters())
