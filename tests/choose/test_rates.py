"""Choosing by runs of growing length."""

import math

import pytest

from sidetune.choose.rates import Trial, cautious, halving, outward
from sidetune.tasks.metric import METRICS


def best_at(lr, tried=None):
    """Trials whose accuracy falls with the distance from a rate, by halves and doubles, and grows with their length."""

    def trial(choice, epochs):
        distance = abs(math.log2(choice["lr"] / lr))
        found = Trial(choice=choice, epochs=epochs, val_accuracy=0.9 - distance / 20 - 0.1 / epochs, loss=distance)
        if tried is not None:
            tried.append(found)
        return found

    return trial


def test_the_better_half_is_trained_on_and_the_best_wins():
    asked = []
    choices = [{"lr": lr} for lr in (1e-9, 1e-8, 1e-7, 3e-2)]
    best, trials = halving(best_at(3e-2, asked), choices, 12)
    assert best == {"lr": 3e-2} and trials == asked
    assert [t.epochs for t in trials] == [3, 3, 3, 3, 12, 12]
    assert [t.choice["lr"] for t in trials[4:]] == [3e-2, 1e-7]


@pytest.mark.parametrize(("start", "end", "factor"), [(1e-5, 16e-5, 2), (16e-5, 1e-5, 0.5)])
def test_a_best_rate_at_the_edge_is_followed_while_that_is_better(start, end, factor):
    best, trials = halving(best_at(end), [{"lr": start}, {"lr": start / factor}], 4, open_ended=True)
    assert best["lr"] == pytest.approx(end) and {t.epochs for t in trials} == {4}
    assert [t.choice["lr"] for t in trials[2:]] == [start * factor**i for i in range(1, 6)], "and one beyond the best"


def test_rounds_that_lead_no_further_are_left_out():
    for rates, lengths in ((5, [3] * 5 + [6] * 3 + [13] * 2), (3, [3] * 3 + [13] * 2), (2, [13] * 2), (1, [13])):
        _, trials = halving(best_at(1e-3), [{"lr": 1e-3 * 2**i} for i in range(rates)], 13)
        assert [t.epochs for t in trials] == lengths


@pytest.mark.parametrize(("best", "factor"), [(1e-3, 0.5), (2e-3, None), (4e-3, 2)])
def test_only_an_outermost_rate_leads_further(best, factor):
    trials = [Trial(choice={"lr": lr}, epochs=1, val_accuracy=lr == best, loss=1.0) for lr in (1e-3, 4e-3, 2e-3)]
    assert outward(max(trials, key=lambda t: t.rank), trials) == factor


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
    assert cautious([*short, *long], 1e-3, 200, METRICS["accuracy"])["lr"] == chosen


def test_of_level_choices_with_the_same_rate_the_better_one_is_taken():
    trials = [
        Trial(choice={"lr": 1e-3, "k": k}, epochs=12, val_accuracy=a, loss=1.0) for k, a in ((6, 0.78), (10, 0.8))
    ]
    best = Trial(choice={"lr": 2e-3, "k": 12}, epochs=12, val_accuracy=0.81, loss=1.0)
    assert cautious([*trials, best], 1e-3, 200, METRICS["accuracy"]) == {"lr": 1e-3, "k": 10}
