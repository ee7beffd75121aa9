"""The learning rate of the authors' scheduler, and recipes by name."""

import math

import hypothesis.strategies as st
import pytest
from hypothesis import given

from sidetune.methods import DTL
from sidetune.recipe import Recipe
from sidetune.runs.papers import paper_run, paper_runs
from sidetune.train.schedule import learning_rate, num_epochs


def test_the_rate_is_that_of_timms_cosine_scheduler():
    import torch
    from timm.scheduler import CosineLRScheduler

    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=3e-3)
    theirs = CosineLRScheduler(optimizer, t_initial=100, lr_min=1e-8, warmup_t=10, warmup_lr_init=1e-7)
    recipe = Recipe(epochs=100, warmup_epochs=10, cooldown_epochs=10)
    for epoch in range(110):
        theirs.step(epoch)
        expected = optimizer.param_groups[0]["lr"]
        assert learning_rate(recipe, 3e-3, epoch) == pytest.approx(expected, rel=1e-9), epoch


def test_warm_up_defaults_to_a_tenth_of_the_epochs():
    assert learning_rate(Recipe(epochs=20), 1.0, 1) == pytest.approx(0.5, rel=1e-3)
    assert learning_rate(Recipe(epochs=5), 1.0, 0) == 1.0


@given(
    st.integers(1, 40).flatmap(lambda n: st.tuples(st.just(n), st.integers(0, n))),
    st.floats(1e-5, 10),
    st.floats(0, 1),
    st.floats(0, 1),
)
def test_rates_rise_to_the_peak_and_fall_to_the_least_and_stay_there(epochs, peak, first, least):
    """Warm-up is a straight line from the first rate; then the cosine; the least rate during cool-down."""
    num, warmup = epochs
    recipe = Recipe(epochs=num, warmup_epochs=warmup, warmup_lr=first * peak, min_lr=least * peak, cooldown_epochs=2)
    rates = [learning_rate(recipe, peak, i / 4) for i in range(4 * num_epochs(recipe) + 1)]
    rising, falling = rates[: 4 * warmup], rates[4 * warmup : 4 * num]
    assert all(rate == pytest.approx(peak * (first + (1 - first) * i / (4 * warmup))) for i, rate in enumerate(rising))
    for i, rate in enumerate(falling, start=4 * warmup):
        half = (1 + math.cos(math.pi * i / (4 * num))) / 2
        assert rate == pytest.approx(peak * (least + (1 - least) * half))
    assert sorted(falling, reverse=True) == falling
    assert rates[4 * num :] == [pytest.approx(least * peak)] * (8 + 1)


def test_cool_down_lengthens_a_run():
    assert num_epochs(Recipe(epochs=7, cooldown_epochs=2)) == 9


def test_paper_recipes_are_available_by_name():
    assert len(paper_runs()) == 136
    run = paper_run("vtab/dsprites_loc/swin/dtl+")
    assert (run.recipe.lr, run.recipe.drop_path, run.method.kernel) == (0.01, 0.5, 5)
    assert run.method.reads == tuple(range(5, 25)) and run.method.first_write == 15
    shot = paper_run("few_shot/food101-FS/16/vit/dtl")
    assert shot.method == DTL(rank=2, reads=tuple(range(1, 13)), first_write=7, lr=shot.recipe.lr)
    assert shot.transform == "few-shot" and shot.recipe.keep == "best"
    with pytest.raises(ValueError, match="nown: .*vtab/cifar_100/vit/dtl"):
        paper_run("vtab/cifar/vit/dtl")


@pytest.mark.parametrize(
    ("choices", "message"),
    [
        ({"epochs": 0}, "epochs must be at least 1, got 0"),
        ({"lr": 0.0}, "lr must be above 0, got 0.0"),
        ({"lr": float("nan")}, "lr must be above 0, got nan"),
        ({"weight_decay": -1.0}, "weight_decay must not be negative"),
        ({"drop_path": 1.0}, "drop_path must be in 0..1"),
        ({"epochs": 5, "warmup_epochs": 6}, "warmup_epochs must be in 0..5, got 6"),
        ({"precision": "fp8"}, "precision must be one of auto, fp32, bf16, fp16"),
    ],
)
def test_recipes_that_make_no_sense_are_refused(choices, message):
    with pytest.raises(ValueError, match=message):
        Recipe(**choices)
