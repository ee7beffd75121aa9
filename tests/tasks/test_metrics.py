"""What a figure is called, in which unit it is told, and which way is better: one value that everything reads."""

import math
from dataclasses import dataclass, replace
from typing import ClassVar

import pytest
import torch
from conftest import tiny_backbone

import sidetune
from sidetune.choose.evolution import Evolution
from sidetune.choose.rates import Trial, cautious
from sidetune.cli.progress import line
from sidetune.recipe import Recipe
from sidetune.runs.compare import Comparison, compare
from sidetune.runs.plots import plot_accuracy_memory, plot_curves, plot_study
from sidetune.runs.report import markdown, write_report
from sidetune.runs.run import Run
from sidetune.runs.sizes import search_sizes
from sidetune.runs.trials import choose
from sidetune.tasks import TASKS
from sidetune.tasks.classification import Classification
from sidetune.tasks.metric import METRICS, Metric, metric_of
from sidetune.train import loop
from sidetune.train.epoch import Epoch
from sidetune.train.loop import Silent

QUICK = Recipe(epochs=1, batch_size=16, precision="fp32")


@dataclass(frozen=True)
class OffByScore:
    num_images: int
    off_by: float
    """In classes, on average."""

    @property
    def values(self):
        return {"off_by": self.off_by, "within_one": 1.0}

    def described(self):
        return {**self.values, "num_images": self.num_images}

    def in_words(self):
        return f"off by {self.off_by:.2f}"


class OffByMeter:
    def __init__(self):
        self.differences = []

    def add(self, outputs, targets):
        self.differences += (outputs.argmax(dim=1) - targets).abs().tolist()

    def score(self):
        return OffByScore(len(self.differences), sum(self.differences) / len(self.differences))


@dataclass(frozen=True, kw_only=True)
class Steps(Classification):
    """A task of somebody else's: its score has no accuracy, and less is better of what decides."""

    metric: str = "off_by"
    metrics: ClassVar = (Metric("off_by", "steps off", lower_is_better=True),)

    def __post_init__(self):
        pass

    def meter(self):
        return OffByMeter()


@pytest.fixture(autouse=True)
def known(monkeypatch):
    monkeypatch.setitem(TASKS, "steps", Steps)


@pytest.fixture
def splits(samples):
    return sidetune.Splits(name="squares", train=samples, val=samples, test=samples)


def test_a_task_states_its_own_metrics_and_others_are_the_librarys_or_plain_numbers():
    task = Steps(classes=("a", "b"))
    assert metric_of(task) == Metric("off_by", "steps off", lower_is_better=True)
    assert metric_of(replace(task, metric="mae")) == METRICS["mae"] and METRICS["mae"].lower_is_better
    assert metric_of(replace(task, metric="qwk")) == Metric("qwk")
    assert Metric("qwk").title == "qwk" and not Metric("qwk").percent and not Metric("qwk").lower_is_better


@pytest.mark.parametrize("name", ["classification", "multilabel", "regression", "segmentation"])
def test_every_figure_of_the_librarys_scores_has_a_name_and_a_unit(name):
    task = TASKS[name](classes=("a", "b"))
    meter, targets = task.meter(), task.stand_in(4, (8, 8))
    meter.add(torch.zeros(4, 2, 2, 2) if name == "segmentation" else torch.zeros(4, 2), targets)
    values = meter.score().values
    assert task.metric in values and values.keys() <= METRICS.keys()
    assert {METRICS[key].percent for key in values} == {name != "regression"}


def test_figures_are_told_in_their_unit_and_ranked_in_their_direction():
    share, error, loss = METRICS["miou"], METRICS["mae"], Metric("error_rate", percent=True, lower_is_better=True)
    assert (share.told(0.875), error.told(1234.56), share.axis, error.axis) == ("87.5 %", "1235", "mIoU (%)", "MAE")
    assert share.rank(0.9) > share.rank(0.1) and error.rank(1) > error.rank(2) and loss.rank(0.1) > loss.rank(0.9)
    assert all(m.ranked(m.rank(0.3)) == 0.3 for m in (share, error, loss))
    assert all(m.rank(m.worst) <= m.rank(v) for m in (share, error, loss) for v in (0.0, 1.0))
    assert share.rank(math.nan) == error.rank(math.nan) == -math.inf


@pytest.mark.parametrize(
    ("metric", "kept"),
    [("off_by", 3), ("within_one", 2), ("mae", 3)],
)
def test_the_epoch_that_is_best_by_the_metrics_own_direction_is_kept(vit, samples, monkeypatch, metric, kept):
    numbers = iter([math.nan, 5.0, 1.0, 3.0])

    def score(*_):
        value = next(numbers)
        return type("Score", (), {"values": {"off_by": value, "within_one": value, "mae": value}})

    monkeypatch.setattr(loop, "score", score)
    monkeypatch.setattr(loop, "check_metric", lambda model: None)
    task = Steps(classes=samples.classes, metric=metric)
    model = sidetune.adapt(vit, "linear", task=task, transform="vtab")
    done = sidetune.fit(model, samples, val=samples, recipe=replace(QUICK, epochs=4, keep="best"))
    assert done.kept_epoch == kept


class Hearing(Silent):
    def __init__(self):
        self.epochs, self.trials, self.metrics = [], [], []

    def epoch(self, epoch, num_epochs):
        self.epochs.append(epoch)

    def trial(self, trial):
        self.trials.append(trial)

    def metric(self, metric):
        self.metrics.append(metric)


@pytest.mark.parametrize("keep", ["last", "best"])
@pytest.mark.parametrize("val", [True, False])
def test_a_misspelt_metric_is_an_error_before_anything_is_trained(vit, samples, tmp_path, keep, val):
    if keep == "best" and not val:
        return
    model = sidetune.adapt(vit, "linear", task=Steps(classes=samples.classes, metric="of_by"), transform="vtab")
    before, heard = {n: t.clone() for n, t in model.trained().items()}, Hearing()
    with pytest.raises(ValueError, match="unknown metric 'of_by'; did you mean off_by.* Known: off_by, within_one"):
        sidetune.fit(
            model,
            samples,
            val=samples if val else None,
            recipe=replace(QUICK, keep=keep),
            out=tmp_path / "m",
            report=heard,
        )
    assert not heard.epochs and not (tmp_path / "m").exists()
    assert all(torch.equal(t, before[n]) for n, t in model.trained().items())


def test_a_look_at_the_metric_leaves_the_model_as_it_was_and_asks_no_other_process(samples, monkeypatch):
    monkeypatch.setattr("sidetune.train.evaluate.Accelerator", None)  # GPUs gather nothing that is on the CPU still
    model = sidetune.adapt(tiny_backbone("resnet"), "full", classes=samples.classes, transform="vtab").train()
    before, state = {n: t.clone() for n, t in model.state_dict().items()}, torch.get_rng_state()
    loop.check_metric(model)
    assert model.training and torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(t, before[n]) for n, t in model.state_dict().items())


def test_a_score_that_two_images_are_too_few_for_tells_at_the_first_validation(vit, samples, monkeypatch):
    class Late(OffByMeter):
        def score(self):
            if len(self.differences) < 10:
                raise ZeroDivisionError
            return super().score()

    monkeypatch.setattr(Steps, "meter", lambda self: Late())
    fitted, heard = {"val": samples, "recipe": replace(QUICK, epochs=3)}, Hearing()
    task = Steps(classes=samples.classes, metric="of_by")
    with pytest.raises(ValueError, match="unknown metric 'of_by'"):
        sidetune.fit(sidetune.adapt(vit, "linear", task=task, transform="vtab"), samples, report=heard, **fitted)
    assert not heard.epochs, "the first epoch is not closed"
    done = sidetune.fit(
        sidetune.adapt(vit, "linear", task=replace(task, metric="off_by"), transform="vtab"), samples, **fitted
    )
    assert len(done.history) == 3


def test_progress_tells_the_figure_that_decides():
    record = Epoch(epoch=1, lr=1e-3, loss=1.0, seconds=1.0, val_accuracy=0.5, val={"accuracy": 0.5, "macro_f1": 0.25})
    assert "val macro F1 25.0 %  lr" in line(record, 9, METRICS["macro_f1"])
    assert "val accuracy 50.0 %" in line(record, 9, METRICS["accuracy"])
    own = Epoch(epoch=1, lr=1e-3, loss=1.0, seconds=1.0, val={"off_by": 0.25, "within_one": 1.0})
    assert "val steps off 0.25  lr" in line(own, 9, Steps.metrics[0]) and "within" not in line(own, 9, Steps.metrics[0])
    assert "val" not in line(Epoch(epoch=1, lr=1e-3, loss=1.0, seconds=1.0), 9, METRICS["accuracy"])


def compared(vit, splits, task):
    methods = {name: sidetune.METHODS[name] for name in ("linear", "dtl+")}
    return compare(splits, vit, methods, recipe=QUICK, transform="vtab", task=task)


def test_a_comparison_by_an_own_metric_is_drawn_told_and_read_again(vit, splits, tmp_path, monkeypatch):
    comparison, models = compared(vit, splits, Steps(classes=splits.train.classes))
    write_report(tmp_path, [(comparison, models, splits.test)])
    assert "| method | steps off |" in (tmp_path / "report.md").read_text()
    assert "%" not in markdown(comparison).partition("\n\n")[2]
    plot_study(comparison, "own", tmp_path / "study.png")
    monkeypatch.delitem(TASKS, "steps")
    again = Comparison.load(tmp_path / "results-squares.json")
    assert again == comparison and again.figure == Steps.metrics[0] and markdown(again) == markdown(comparison)
    unstated = replace(comparison, metric="qwk", metric_is=None)
    plot_accuracy_memory([unstated], tmp_path / "a.png")
    plot_curves([unstated], tmp_path / "b.png")
    assert "| method | qwk |" in markdown(unstated)
    assert "| method | MAE |" in markdown(replace(comparison, metric="mae", metric_is=None)), "of earlier versions"


def test_a_misspelt_metric_stops_a_comparison_before_any_feature_is_made(vit, splits, monkeypatch):
    monkeypatch.setattr("sidetune.runs.compare.share_features", None)
    with pytest.raises(ValueError, match="unknown metric 'of_by'"):
        compared(vit, splits, Steps(classes=splits.train.classes, metric="of_by"))


def test_a_rate_is_chosen_by_the_metrics_own_direction(vit, splits):
    task, heard = Steps(classes=splits.train.classes), Hearing()
    recipe = Recipe(epochs=6, batch_size=4, precision="fp32")
    run = Run.of(splits, vit, sidetune.METHODS["dtl"], recipe, task=task, transform="vtab")
    found = choose(run, splits, vit, heard, lr=True, rates=[1e-9, 1e-2])
    assert found.choice == {"lr": 1e-2} and heard.metrics[0] == Steps.metrics[0]
    worse, better = (t.val_accuracy for t in found.trials)
    assert worse < better <= 0 and Steps.metrics[0].ranked(better) == -better


@pytest.mark.parametrize(
    ("metric", "ranks", "chosen"),
    [
        (METRICS["map"], (0.78, 0.80), 1e-3),
        (METRICS["r2"], (0.78, 0.80), 2e-3),  # of which no standard error is known
        (METRICS["mae"], (-0.22, -0.20), 2e-3),
        (Metric("error_rate", percent=True, lower_is_better=True), (-0.22, -0.20), 1e-3),
    ],
)
def test_only_shares_of_images_have_the_standard_error_of_a_share(metric, ranks, chosen):
    trials = [
        Trial(choice={"lr": lr}, epochs=9, val_accuracy=r, loss=1.0) for lr, r in zip((1e-3, 2e-3), ranks, strict=True)
    ]
    assert cautious(trials, 1e-3, 200, metric)["lr"] == chosen


def test_sizes_are_searched_for_by_the_task_that_is_asked_for(vit, samples):
    task = Steps(classes=samples.classes)
    how = {"max_parameters": 9_000, "recipe": replace(QUICK, lr=5e-3), "transform": "vtab", "task": task}
    found = search_sizes(vit, sidetune.METHODS["noah"], samples, samples, evolution=Evolution.of(1, 4), **how)
    assert found.metric == Steps.metrics[0] and found.val_accuracy == -max(s.score for s in found.scored)
    assert all(s.score <= 0 for s in found.scored)
