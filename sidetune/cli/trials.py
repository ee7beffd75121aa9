"""`--lr auto`, `--set method.first_write=auto`, `--k auto`: what the command line says of the trials."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from sidetune.backbones import Backbone
from sidetune.choose.look import prepare
from sidetune.choose.rates import Choice, Trial
from sidetune.cli.progress import ERR, Lines
from sidetune.data.samples import Splits
from sidetune.means import Means
from sidetune.memo import Memo
from sidetune.methods import Method
from sidetune.recipe import Recipe
from sidetune.runs.run import Run
from sidetune.runs.trials import choose
from sidetune.tasks.task import Task


class Trials:
    """A report that shows trials rather than their epochs."""

    def __init__(self, report: Lines) -> None:
        self.report = report
        self.features, self.step, self.metric = report.features, report.step, report.metric

    def epoch(self, *_: object) -> None:
        pass

    def trial(self, trial: Trial) -> None:
        metric = self.report.deciding
        value = metric.told(metric.ranked(trial.val_accuracy))
        ERR.print(f"tried {told(trial.choice)} for {trial.epochs} epochs: val {metric.title} {value}")


def told(choice: Choice) -> str:
    return ", ".join(f"{name}={value:g}" for name, value in choice.items())


def chosen_for(
    run: Run,
    splits: Splits,
    backbone: Backbone,
    report: Lines,
    *,
    lr: bool,
    rates: Sequence[float] | None = None,
    left_open: Sequence[str] = (),
    means: Means | None = None,
    memo: Memo | None = None,
) -> Run:
    """The run with what was left open decided; see `sidetune.runs.trials.choose`."""
    found = choose(
        run, splits, backbone, Trials(report), lr=lr, rates=rates, left_open=left_open, means=means, memo=memo
    )
    ERR.print(f"chosen {told(found.choice)} after {len(found.trials)} runs on {found.num_images:,} validation images")
    return found.run


def with_rates(
    opened: Backbone,
    methods: Mapping[str, Method],
    recipe: Recipe,
    splits: Splits,
    transform: str,
    report: Lines,
    rates: Sequence[float] | None,
    memo: Memo,
    task: Task,
) -> dict[str, Method]:
    """Every method with the learning rate that validation images choose for it."""
    found = {}
    for name, method in methods.items():
        ERR.print(name)
        ready = prepare(method, opened, splits.train, transform=transform, seed=recipe.seed)
        run = Run.of(splits, opened, ready, recipe, task=task, transform=transform)
        run = chosen_for(run, splits, opened, report, lr=True, rates=rates, means=recipe.means, memo=memo)
        found[name] = replace(method, lr=run.recipe.lr or method.lr)
    return found
