"""What a run leaves open, chosen by short runs on validation images."""

import math

import pytest

import sidetune
from sidetune.data.samples import Splits
from sidetune.errors import DataWarning, RunExists
from sidetune.memo import Memo
from sidetune.recipe import Recipe
from sidetune.runs import trials as module
from sidetune.runs.run import Run
from sidetune.runs.trials import choose
from sidetune.tasks import task_of
from sidetune.train.loop import Silent


class Heard(Silent):
    def __init__(self):
        self.trials = []

    def trial(self, trial):
        self.trials.append(trial)


QUICK = Recipe(epochs=3, batch_size=8, precision="fp32")


@pytest.fixture
def splits(samples):
    train, val = samples.subset(range(0, len(samples), 2)), samples.subset(range(1, len(samples), 2))
    return Splits(name="squares", train=train, val=val, test=None)


def run_of(splits, vit, method="linear", recipe=QUICK):
    return Run.of(splits, vit, sidetune.METHODS[method], recipe, task=task_of(splits.train), transform="vtab")


def test_the_rate_that_labels_most_of_validation_right_is_taken_and_the_rest_of_the_run_stays(vit, splits):
    heard, run = Heard(), run_of(splits, vit, "dtl", Recipe(epochs=12, batch_size=4, precision="fp32", keep="best"))
    found = choose(run, splits, vit, heard, lr=True, rates=[1e-9, 1e-8, 1e-7, 3e-2])
    assert found.choice == {"lr": 3e-2} and found.run.recipe.lr == 3e-2 and found.num_images == len(splits.val)
    assert found.run.recipe.keep == "best" and found.run.recipe.epochs == 12 and found.run.method == run.method
    assert found.run.images == run.images
    assert [t.epochs for t in found.trials] == [3, 3, 3, 3, 12, 12] and heard.trials == list(found.trials)


def test_trials_that_are_known_are_not_carried_out_again(vit, splits, tmp_path, monkeypatch):
    carried = []
    monkeypatch.setattr(module, "carry_out", lambda run, *a, **k: carried.append(run) or real(run, *a, **k))
    real = sidetune.runs.carry_out.carry_out

    def tried(which=splits):
        memo = Memo(tmp_path / "t.json")
        return choose(run_of(which, vit), which, vit, Heard(), lr=True, rates=[1e-3, 1e-2], memo=memo)

    first = tried()
    assert [run.recipe.lr for run in carried] == [1e-3, 1e-2] and tried() == first and len(carried) == 2
    fewer = Splits(name="fewer", train=splits.train.subset(range(len(splits.train) - 1)), val=splits.val, test=None)
    tried(fewer)
    assert len(carried) == 4
    (tmp_path / "t.json").write_text((tmp_path / "t.json").read_text().replace("0.", "1.", 1))
    with pytest.warns(DataWarning, match="not as it was written; what it kept is found anew"):
        assert tried() == first
    assert len(carried) == 6
    (tmp_path / "t.json").write_text("mine")
    with pytest.raises(RunExists, match="sidetune did not write it"):
        tried()
    assert (tmp_path / "t.json").read_text() == "mine"


def test_a_choice_whose_loss_explodes_loses(vit, splits):
    found = choose(run_of(splits, vit, "dtl"), splits, vit, Heard(), lr=True, rates=[1e30, 1e-3])
    assert found.choice == {"lr": 1e-3} and found.trials[0].loss == math.inf and found.trials[0].val_accuracy == 0


def test_choices_of_a_method_are_tried_all_with_all(vit, splits):
    run = run_of(splits, vit, "mist")
    found = choose(run, splits, vit, Heard(), lr=True, rates=[1e-3, 1e-2], left_open=["k"])
    ks = list(run.method.worth_trying(vit)["k"])
    assert {(t.choice["lr"], t.choice["k"]) for t in found.trials} == {(lr, k) for lr in (1e-3, 1e-2) for k in ks}
    assert found.run.method.k == found.choice["k"] and found.run.recipe.lr == found.choice["lr"]
    with pytest.raises(ValueError, match="MIST leaves k to validation images, not rank; give its value"):
        choose(run, splits, vit, Heard(), lr=False, left_open=["rank"])


def test_where_there_are_no_validation_images_a_fifth_of_the_training_images_stand_in(vit, samples):
    alone = Splits(name="squares", train=samples, val=None, test=None)
    run = run_of(alone, vit)
    found = choose(run, alone, vit, Heard(), lr=True, rates=[1e-3])
    assert found.num_images == 9 and found.run.images == run.images  # of 16 of each class, 3
