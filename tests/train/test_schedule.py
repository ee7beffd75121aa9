"""The learning rate of the authors' scheduler, and recipes by name."""

import math

import hypothesis.strategies as st
import pytest
from hypothesis import given

from sidetune.methods import DTL, DTLv2, LoRA
from sidetune.recipe import Recipe
from sidetune.runs.conventions import named_run
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


@pytest.mark.parametrize("choices", [{"schedule": "poly"}, {"schedule": "steps", "milestones": (27, 33)}])
def test_other_ways_down_are_those_of_pytorchs_schedulers(choices):
    import torch
    from torch.optim.lr_scheduler import MultiStepLR, PolynomialLR

    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1e-4)
    if choices["schedule"] == "poly":
        theirs = PolynomialLR(optimizer, total_iters=36, power=1.0)
    else:
        theirs = MultiStepLR(optimizer, milestones=[27, 33])
    recipe = Recipe(epochs=36, warmup_epochs=0, min_lr=0.0, **choices)
    for epoch in range(36):
        assert learning_rate(recipe, 1e-4, epoch) == pytest.approx(optimizer.param_groups[0]["lr"], rel=1e-9), epoch
        optimizer.step()
        theirs.step()
    assert learning_rate(recipe, 1e-4, 36) == 0


def test_warm_up_may_end_within_an_epoch_and_then_the_way_down_goes_on():
    recipe = Recipe(epochs=10, warmup_epochs=1.5, warmup_lr=0.0, min_lr=0.0, schedule="poly")
    assert [learning_rate(recipe, 1.0, e) for e in (0.75, 1.5, 5.0)] == [pytest.approx(r) for r in (0.5, 0.85, 0.5)]


def test_a_run_without_the_new_choices_has_the_digest_it_had():
    assert {"schedule", "milestones", "head_rate"}.isdisjoint(Recipe().deciding())
    assert Recipe(schedule="poly").deciding()["schedule"] == "poly"


def test_recipes_for_scenes_are_the_published_ones_in_epochs():
    run = named_run("ade20k-upernet")
    assert run.targets == "segmentation" and run.task == {"decoder": "upernet", "width": "512", "norm": "batch"}
    assert run.method == DTLv2(rank=192) and run.image_size == (512, 512)
    steps = 20_210 / run.recipe.batch_size
    assert run.recipe.epochs * steps == pytest.approx(160_000, rel=0.005)
    assert run.recipe.warmup_epochs * steps == pytest.approx(1500)
    half = learning_rate(run.recipe, run.recipe.lr, run.recipe.epochs / 2)
    assert half == pytest.approx(3e-5) and run.recipe.drop_path == 0.3
    lighter = named_run("ade20k-segformer")
    assert lighter.recipe.head_rate == 10 and lighter.recipe.drop_path == 0.1 and lighter.backbone == "mit_b4"
    assert named_run("ade20k-upernet", "lora").method == LoRA()


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
        ({"schedule": "steps"}, "needs milestones, the epochs at which the rate falls"),
        ({"milestones": (3,)}, "milestones belong to schedule='steps'; with 'cosine'"),
        ({"epochs": 5, "schedule": "steps", "milestones": (3, 2)}, "milestones must rise and lie in 1..4, got .3, 2."),
        ({"epochs": 5, "schedule": "steps", "milestones": (5,)}, "milestones must rise and lie in 1..4"),
        ({"schedule": "linear"}, "schedule must be one of cosine, poly, steps, got 'linear'"),
        ({"precision": "fp8"}, "precision must be one of auto, fp32, bf16, fp16"),
    ],
)
def test_recipes_that_make_no_sense_are_refused(choices, message):
    with pytest.raises(ValueError, match=message):
        Recipe(**choices)
