"""`--lr auto`, `--set method.first_write=auto`, `--k auto`: what the command line tries, and what it says of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from itertools import product

from sidetune.backbones import Backbone
from sidetune.cli.progress import ERR, Lines
from sidetune.data.samples import Splits, split
from sidetune.memo import Memo
from sidetune.methods import Method
from sidetune.model import AdaptedModel, adapt
from sidetune.tasks import described, task_of
from sidetune.tasks.task import Task
from sidetune.train.batches import Data
from sidetune.train.begin import begin
from sidetune.train.kept import share_features
from sidetune.train.prepare import prepare
from sidetune.train.recipe import Recipe
from sidetune.train.search import Choice, Trial, cautious, search

FACTORS = (0.25, 0.5, 1, 2)
"""Of the method's own learning rate."""
SHARE_FOR_VALIDATION = 0.2


class Trials:
    """A report that shows trials rather than their epochs."""

    def __init__(self, report: Lines) -> None:
        self.features = report.features
        self.step = report.step

    def epoch(self, *_: object) -> None:
        pass

    def trial(self, trial: Trial) -> None:
        ERR.print(f"tried {told(trial.choice)} for {trial.epochs} epochs: val {100 * trial.val_accuracy:.1f} %")


def told(choice: Choice) -> str:
    return ", ".join(f"{name}={value:g}" for name, value in choice.items())


def searched(
    opened: Backbone,
    method: Method,
    recipe: Recipe,
    splits: Splits,
    transform: str,
    report: Lines,
    *,
    task: Task,
    rates: Sequence[float] | None,
    lr: bool,
    left_open: Sequence[str],
    memo: Memo | None = None,
) -> tuple[Method, Recipe]:
    """The method and recipe with what was left open chosen on validation images.

    `left_open` names choices of the method's. `rates` are those to try; multiples of the method's own if None, and
    beyond them where the best is at the edge: its own is kept unless another is clearly better. Without validation
    images, a fifth of the training images stands in for them; the run itself then trains on all. `memo` keeps trials.
    """
    val, train = splits.val, splits.train
    if val is None:
        train, val = split(train, SHARE_FOR_VALIDATION, recipe.seed)
    axes: dict[str, list[float]] = {}
    if lr:
        axes["lr"] = list(rates or (method.lr * factor for factor in FACTORS))
    worth_trying = method.worth_trying(opened)
    for name in left_open:
        if name not in worth_trying:
            known = ", ".join(worth_trying) or "nothing"
            raise ValueError(f"{type(method).__name__} leaves {known} to validation images, not {name}; give its value")
        axes[name] = list(worth_trying[name])
    choices: list[Choice] = [dict(zip(axes, values, strict=True)) for values in product(*axes.values())]

    def make(choice: Choice) -> AdaptedModel:
        chosen = replace(method, **{name: value for name, value in choice.items() if name != "lr"})  # type: ignore[arg-type]
        return adapt(opened, chosen, task=task, transform=transform, seed=recipe.seed)

    def make_begun(choice: Choice) -> AdaptedModel:
        model = make(choice)
        begin(model, train, recipe.seed)
        return model

    quick = replace(recipe, views=0)
    parts = {"train": train, "val": val}
    data: dict[str, Data] = {
        **parts,
        **share_features(parts, opened, [make(c) for c in choices], quick, report.features),
    }
    own = lr and not rates
    best, trials = search(
        make_begun,
        choices,
        data["train"],
        data["val"],
        quick,
        Trials(report),
        open_ended=own,
        memo=memo,
        about={
            "method": {"type": type(method).__name__, **asdict(method)},
            "backbone": opened.card.described(),
            "transform": transform,
            **(described(task) if task != task_of(train) else {}),
            "data": [train.digest(), val.digest()] if memo else None,
        },
    )
    if own:
        best = cautious(trials, method.lr, len(val))
    ERR.print(f"chosen {told(best)} after {len(trials)} runs on {len(val):,} validation images")
    kept = {name: value for name, value in best.items() if name != "lr"}
    return replace(method, **kept), replace(recipe, lr=best.get("lr", recipe.lr))  # type: ignore[arg-type]


def with_rates(
    opened: Backbone,
    methods: Mapping[str, Method],
    recipe: Recipe,
    splits: Splits,
    transform: str,
    report: Lines,
    rates: Sequence[float] | None = None,
    memo: Memo | None = None,
    task: Task | None = None,
) -> dict[str, Method]:
    """Every method with the learning rate that validation images choose for it."""
    found = {}
    for name, method in methods.items():
        ERR.print(name)
        ready = prepare(method, opened, splits.train, transform=transform, seed=recipe.seed)
        _, chosen = searched(
            opened,
            ready,
            recipe,
            splits,
            transform,
            report,
            task=task or task_of(splits.train),
            rates=rates,
            lr=True,
            left_open=(),
            memo=memo,
        )
        found[name] = replace(method, lr=chosen.lr or method.lr)
    return found
