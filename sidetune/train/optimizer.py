"""AdamW (or SGD) on what is trained, without weight decay on biases and norms."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn, optim

from sidetune.recipe import Recipe


def make_optimizer(model: nn.Module, recipe: Recipe, lr: float) -> optim.Optimizer:
    """Vectors (biases, scales of norms) are not decayed; matrices and larger are. A group's `rate` is what `set_lr`
    gives it of the learning rate."""
    trained = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    rates = {1.0: [p for _, p in trained]}
    if recipe.head_rate != 1:
        rates = {
            1.0: [p for name, p in trained if not name.startswith("head.")],
            recipe.head_rate: [p for name, p in trained if name.startswith("head.")],
        }
    groups = [
        {"params": chosen, "weight_decay": decay, "rate": rate, "lr": lr * rate}
        for rate, parameters in rates.items()
        for decay, chosen in (
            (recipe.weight_decay, [p for p in parameters if p.ndim > 1]),
            (0.0, [p for p in parameters if p.ndim <= 1]),
        )
        if chosen
    ]
    if recipe.optimizer == "sgd":
        return optim.SGD(groups, lr=lr, momentum=0.9)
    return optim.AdamW(groups, lr=lr, betas=recipe.betas, fused=True)


def set_lr(optimizer: optim.Optimizer, lr: float) -> None:
    """Move the learning rate, every group's in its share."""
    for group in optimizer.param_groups:
        group["lr"] = lr * group.get("rate", 1.0)  # version 0.1 wrote none


def optimizer_tensors(optimizer: optim.Optimizer) -> list[Tensor]:
    """The optimizer's state, for counting its bytes."""
    states: list[Mapping[str, Tensor]] = list(optimizer.state.values())
    return [t for state in states for t in state.values() if isinstance(t, Tensor)]
