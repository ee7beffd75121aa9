"""Short runs that choose what a recipe leaves open."""

import pytest
import torch

import sidetune
from sidetune.errors import DataWarning, RunExists
from sidetune.memo import Memo
from sidetune.train.loop import Silent
from sidetune.train.recipe import Recipe
from sidetune.train.search import Trial, cautious, outward, search


class Heard(Silent):
    def __init__(self):
        self.trials = []

    def trial(self, trial):
        self.trials.append(trial)


def test_the_better_half_is_trained_on_and_the_best_wins(vit, samples):
    heard, rates = Heard(), [1e-9, 1e-8, 1e-7, 3e-2]

    def make(choice):
        return sidetune.adapt(vit, "dtl", classes=samples.classes, transform="vtab")

    choices = [{"lr": lr} for lr in rates]
    train, val = samples.subset(range(0, len(samples), 2)), samples.subset(range(1, len(samples), 2))
    best, trials = search(make, choices, train, val, Recipe(epochs=12, batch_size=4, precision="fp32"), heard)
    assert best == {"lr": 3e-2}
    assert [t.epochs for t in trials] == [3, 3, 3, 3, 12, 12] and heard.trials == trials
    first, second = trials[:4], trials[4:]
    assert {t.choice["lr"] for t in second} == {t.choice["lr"] for t in sorted(first, key=lambda t: t.rank)[2:]}


def test_trials_that_are_known_are_not_trained_again(vit, samples, tmp_path):
    made = []

    def make(choice):
        made.append(choice["lr"])
        return sidetune.adapt(vit, "linear", classes=samples.classes, transform="vtab")

    def tried(about="these"):
        recipe = Recipe(epochs=3, batch_size=8, precision="fp32")
        choices = [{"lr": 1e-3}, {"lr": 1e-2}]
        return search(make, choices, samples, samples, recipe, Heard(), memo=Memo(tmp_path / "t.json"), about=about)

    first = tried()
    assert made == [1e-3, 1e-2] and tried() == first and len(made) == 2
    assert tried("others") == first and len(made) == 4
    (tmp_path / "t.json").write_text((tmp_path / "t.json").read_text().replace("0.", "1.", 1))
    with pytest.warns(DataWarning, match="not as it was written; what it kept is found anew"):
        assert tried() == first
    assert len(made) == 6
    (tmp_path / "t.json").write_text("mine")
    with pytest.raises(RunExists, match="sidetune did not write it"):
        tried()
    assert (tmp_path / "t.json").read_text() == "mine"


def test_a_choice_whose_loss_explodes_loses(vit, samples):
    def make(choice):
        model = sidetune.adapt(vit, "linear", classes=samples.classes, transform="vtab")
        if choice["lr"] > 1:
            with torch.no_grad():
                model.head.weight.fill_(torch.inf)
        return model

    best, trials = search(
        make, [{"lr": 2.0}, {"lr": 1e-3}], samples, samples, Recipe(epochs=4, batch_size=8, precision="fp32"), Heard()
    )
    assert best == {"lr": 1e-3} and trials[0].loss == pytest.approx(torch.inf)


def test_a_best_rate_at_the_edge_is_doubled_while_that_is_better(vit, samples):
    heard = Heard()

    def make(choice):
        return sidetune.adapt(vit, "linear", classes=samples.classes, transform="vtab")

    recipe = Recipe(epochs=4, batch_size=8, precision="fp32")
    best, trials = search(make, [{"lr": 1e-5}], samples, samples, recipe, heard, open_ended=True)
    assert [t.choice["lr"] for t in trials] == [1e-5 * 2**i for i in range(len(trials))] and len(trials) > 2
    ranks = [t.rank for t in trials]
    assert ranks[:-1] == sorted(ranks[:-1]) and ranks[-1] <= ranks[-2]
    assert best == trials[-2].choice and heard.trials == trials and {t.epochs for t in trials} == {4}


@pytest.mark.parametrize(("best", "factor"), [(1e-3, 0.5), (2e-3, None), (4e-3, 2)])
def test_only_an_outermost_rate_leads_further(best, factor):
    trials = [Trial(choice={"lr": lr}, epochs=1, val_accuracy=lr == best, loss=1.0) for lr in (1e-3, 4e-3, 2e-3)]
    assert outward(max(trials, key=lambda t: t.rank), trials) == factor


def test_rounds_that_lead_no_further_are_left_out(vit, samples):
    def make(choice):
        return sidetune.adapt(vit, "linear", classes=samples.classes, transform="vtab")

    recipe = Recipe(epochs=13, batch_size=8, precision="fp32")
    for rates, lengths in ((5, [3] * 5 + [6] * 3 + [13] * 2), (3, [3] * 3 + [13] * 2), (2, [13] * 2), (1, [13])):
        _, trials = search(make, [{"lr": 1e-3 * 2**i} for i in range(rates)], samples, samples, recipe, Heard())
        assert [t.epochs for t in trials] == lengths


@pytest.mark.parametrize(
    ("accuracies", "chosen"),
    [
        ({5e-4: 0.78, 1e-3: 0.78, 2e-3: 0.80}, 1e-3),  # a standard error on 200 images is 0.028
        ({5e-4: 0.79, 1e-3: 0.77, 2e-3: 0.80}, 2e-3),
        ({5e-4: 0.70, 1e-3: 0.75, 2e-3: 0.80}, 2e-3),
        ({1e-3: 1.0, 4e-3: 1.0}, 1e-3),
        ({1e-3: 0.99, 4e-3: 1.0}, 4e-3),
    ],
)
def test_the_methods_own_rate_is_left_only_for_one_that_is_clearly_better(accuracies, chosen):
    short = [Trial(choice={"lr": lr}, epochs=3, val_accuracy=1.0, loss=0.1) for lr in (1e-3, 8e-3)]
    long = [Trial(choice={"lr": lr}, epochs=12, val_accuracy=a, loss=1.0) for lr, a in accuracies.items()]
    assert cautious([*short, *long], 1e-3, 200)["lr"] == chosen


def test_of_level_choices_with_the_same_rate_the_better_one_is_taken():
    trials = [
        Trial(choice={"lr": 1e-3, "k": k}, epochs=12, val_accuracy=a, loss=1.0) for k, a in ((6, 0.78), (10, 0.8))
    ]
    best = Trial(choice={"lr": 2e-3, "k": 12}, epochs=12, val_accuracy=0.81, loss=1.0)
    assert cautious([*trials, best], 1e-3, 200) == {"lr": 1e-3, "k": 10}
