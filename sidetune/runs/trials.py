"""What a run leaves open (`--lr auto`, `--set method.first_write=auto`): short runs decide on validation images."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import Any, Protocol

from sidetune.backbones import Backbone
from sidetune.choose.rates import ROUNDS, Choice, Trial, cautious, halving
from sidetune.data.samples import Splits, split
from sidetune.errors import NonFiniteLoss
from sidetune.means import Means
from sidetune.memo import Memo
from sidetune.runs.carry_out import Ready, RunReport, carry_out
from sidetune.runs.run import Run, images_of
from sidetune.tasks.metric import Metric, metric_of
from sidetune.train.evaluate import check_metric
from sidetune.train.kept import share_features

FACTORS = (0.25, 0.5, 1, 2)
"""Of the method's own learning rate."""
SHARE_FOR_VALIDATION = 0.2


class TrialReport(RunReport, Protocol):
    def trial(self, trial: Trial) -> None: ...


@dataclass(frozen=True, kw_only=True)
class Chosen:
    run: Run
    """The run with what was left open decided."""
    choice: Choice
    trials: tuple[Trial, ...]
    num_images: int
    """For validation."""


def choose(
    run: Run,
    splits: Splits,
    backbone: Backbone,
    report: TrialReport,
    *,
    lr: bool,
    rates: Sequence[float] | None = None,
    left_open: Sequence[str] = (),
    rounds: Sequence[float] = ROUNDS,
    open_ended: bool | None = None,
    means: Means | None = None,
    memo: Memo | None = None,
) -> Chosen:
    """Decide the learning rate of a run, where `lr` says so, and `left_open` choices of its method.

    `rates` are those to try; multiples of the method's own if None, and beyond them where the best is at the edge
    (`open_ended` does so with others too): its own is kept unless another is clearly better. `rounds` are shares of the
    run's epochs. Every trial is a whole run with its own warm-up and cosine, so that
    rates are compared as they will be used. Without validation images, a fifth of the training images stands in for
    them; the run itself then trains on all. Trials that `memo` knows are not carried out again. Raises ValueError for
    a choice that the method does not leave to validation images.
    """
    val, train = splits.val, splits.train
    if val is None:
        train, val = split(train, SHARE_FOR_VALIDATION, run.recipe.seed)
    parts = Splits(name=splits.name, train=train, val=val, test=None)
    quick = replace(run, images=images_of(parts))
    choices = choices_of(run, backbone, lr, rates, left_open)
    recipe = replace(run.recipe, views=0, means=means or Means())
    metric = metric_of(run.task)
    report.metric(metric)
    models = [with_choice(quick, choice).adapted(backbone) for choice in choices]
    check_metric(models[0])
    features = share_features(parts.parts(), backbone, models, recipe, report.features)
    memo = memo or Memo()

    def tried(choice: Choice, epochs: int) -> Trial:
        trial = shortened(with_choice(quick, choice), epochs)
        if (known := memo.find({"trial": trial.digest})) is None:
            having = Ready(splits=parts, model=trial.adapted(backbone), features=features)
            known = outcome(trial, having, means, report, metric)
            memo.put({"trial": trial.digest}, known)
        found = Trial(choice=choice, epochs=epochs, val_accuracy=known[0], loss=known[1])
        report.trial(found)
        return found

    own = lr and not rates
    ends = own if open_ended is None else open_ended
    best, trials = halving(tried, choices, run.recipe.epochs, rounds=rounds, open_ended=ends)
    if own:
        best = cautious(trials, run.method.lr, len(val), metric)
    return Chosen(run=with_choice(run, best), choice=best, trials=tuple(trials), num_images=len(val))


def choices_of(
    run: Run, backbone: Backbone, lr: bool, rates: Sequence[float] | None, left_open: Sequence[str]
) -> list[Choice]:
    axes: dict[str, list[float]] = {}
    if lr:
        axes["lr"] = list(rates or (run.method.lr * factor for factor in FACTORS))
    worth_trying = run.method.worth_trying(backbone)
    for name in left_open:
        if name not in worth_trying:
            known = ", ".join(worth_trying) or "nothing"
            kind = type(run.method).__name__
            raise ValueError(f"{kind} leaves {known} to validation images, not {name}; give its value")
        axes[name] = list(worth_trying[name])
    return [dict(zip(axes, values, strict=True)) for values in product(*axes.values())]


def with_choice(run: Run, choice: Choice) -> Run:
    own: dict[str, Any] = {name: value for name, value in choice.items() if name != "lr"}
    recipe = replace(run.recipe, lr=choice.get("lr", run.recipe.lr))
    return replace(run, method=replace(run.method, **own), recipe=recipe)


def shortened(run: Run, epochs: int) -> Run:
    recipe = replace(run.recipe, epochs=epochs, lr_update="step", cooldown_epochs=0, views=0)
    return replace(run, recipe=replace(recipe, warmup_epochs=None, keep="last"))


def outcome(run: Run, having: Ready, means: Means | None, report: RunReport, metric: Metric) -> tuple[float, float]:
    """How good the last epoch is on validation images, larger being better, and its loss."""
    try:
        last = carry_out(run, means, report, having=having, scored=()).history[-1]
    except NonFiniteLoss:
        return metric.rank(metric.worst), math.inf
    value = last.scored(metric.key)
    assert value is not None
    return metric.rank(value), last.loss
