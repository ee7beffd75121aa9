"""Which parameters are decayed, and at which rate they move."""

import pytest
import torch
from torch import nn

from sidetune.recipe import Recipe
from sidetune.train.optimizer import make_optimizer, set_lr


def model():
    return nn.ModuleDict({"side": nn.Linear(2, 2), "head": nn.Linear(2, 2)})


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_the_heads_rate_is_its_share_of_the_rate_at_every_step(optimizer):
    parts = model()
    made = make_optimizer(parts, Recipe(head_rate=10.0, optimizer=optimizer, weight_decay=0.1), 1e-3)
    head = {id(p) for p in parts["head"].parameters()}
    for lr in (1e-3, 2e-4):
        set_lr(made, lr)
        rates = {id(p): group["lr"] for group in made.param_groups for p in group["params"]}
        assert len(rates) == 4
        assert all(rate == pytest.approx(10 * lr if of in head else lr) for of, rate in rates.items())
    decayed = {id(p): group["weight_decay"] for group in made.param_groups for p in group["params"]}
    assert all(decayed[id(p)] == (0.1 if p.ndim > 1 else 0) for p in parts.parameters())


def test_a_step_of_ten_times_the_rate_goes_ten_times_as_far():
    parts = model()
    before = {name: p.detach().clone() for name, p in parts.named_parameters()}
    made = make_optimizer(parts, Recipe(head_rate=10.0, optimizer="sgd", weight_decay=0.0), 1e-2)
    for p in parts.parameters():
        p.grad = torch.ones_like(p)
    made.step()
    moved = {name: float((before[name] - p.detach()).abs().mean()) for name, p in parts.named_parameters()}
    assert moved["head.weight"] == pytest.approx(10 * moved["side.weight"], rel=1e-4)


def test_a_rate_of_the_head_makes_another_run_and_1_is_what_was_there_before():
    assert Recipe(head_rate=10.0).deciding() != Recipe().deciding() and "head_rate" not in Recipe().deciding()
    with pytest.raises(ValueError, match="head_rate must be.*got -1"):
        Recipe(head_rate=-1.0)
