"""AdamW (or SGD) on what is trained, without weight decay on biases and norms."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn, optim

from sidetune.recipe import Recipe


def make_optimizer(model: nn.Module, recipe: Recipe, lr: float) -> optim.Optimizer:
    """Vectors (biases, scales of norms) are not decayed; matrices and larger are."""
    trained = [p for p in model.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in trained if p.ndim > 1], "weight_decay": recipe.weight_decay},
        {"params": [p for p in trained if p.ndim <= 1], "weight_decay": 0.0},
    ]
    groups = [group for group in groups if group["params"]]
    if recipe.optimizer == "sgd":
        return optim.SGD(groups, lr=lr, momentum=0.9)
    return optim.AdamW(groups, lr=lr, betas=recipe.betas, fused=True)


def optimizer_tensors(optimizer: optim.Optimizer) -> list[Tensor]:
    """The optimizer's state, for counting its bytes."""
    states: list[Mapping[str, Tensor]] = list(optimizer.state.values())
    return [t for state in states for t in state.values() if isinstance(t, Tensor)]
