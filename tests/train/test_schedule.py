"""The learning rate of the authors' scheduler, and recipes by name."""

import pytest

from sidetune.methods import DTL
from sidetune.train.papers import paper_run, paper_runs
from sidetune.train.recipe import Recipe
from sidetune.train.schedule import learning_rate


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
