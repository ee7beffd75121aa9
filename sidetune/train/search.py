"""Choosing what a recipe leaves open by short runs, scored on validation images; test images are never seen."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from sidetune.errors import NonFiniteLoss
from sidetune.model import AdaptedModel
from sidetune.train.batches import Data
from sidetune.train.loop import Report, fit
from sidetune.train.recipe import Recipe
from sidetune.train.schedule import SHORTEST_TRIAL

Choice = Mapping[str, float]
"""Values by name: `lr`, and fields of the method."""


@dataclass(frozen=True, kw_only=True)
class Trial:
    """One choice, trained for some epochs."""

    choice: Choice
    epochs: int
    val_accuracy: float
    loss: float

    @property
    def rank(self) -> tuple[float, float]:
        """Better is larger: accuracy, then a lower training loss."""
        return self.val_accuracy, -self.loss


class SearchReport(Report, Protocol):
    def trial(self, trial: Trial) -> None: ...


def search(
    make: Callable[[Choice], AdaptedModel],
    choices: Sequence[Choice],
    train: Data,
    val: Data,
    recipe: Recipe,
    report: SearchReport,
    *,
    rungs: int = 2,
    open_ended: bool = False,
) -> tuple[Choice, list[Trial]]:
    """The best of some choices on `val`, and everything that was tried.

    Successive halving: all choices are trained for a share of the recipe's epochs, the better half for twice as many,
    and so on for `rungs` rounds, the last of them for half the recipe's epochs; runs too short to tell rates apart are
    left out. Every training is a whole short run with its own warm-up and cosine, so that rates are compared as they
    will be used. `open_ended`: a best learning rate that is the largest or the smallest tried is doubled or halved for
    as long as that is better still.
    """
    trials: list[Trial] = []

    def tried(choice: Choice, epochs: int) -> Trial:
        short = replace(recipe, epochs=epochs, lr=choice.get("lr", recipe.lr), lr_update="step", cooldown_epochs=0)
        short = replace(short, warmup_epochs=None, keep="last")
        try:
            last = fit(make(choice), train, val=val, recipe=short, report=report).history[-1]
            trial = Trial(choice=choice, epochs=epochs, val_accuracy=last.val_accuracy or 0, loss=last.loss)
        except NonFiniteLoss:
            trial = Trial(choice=choice, epochs=epochs, val_accuracy=0, loss=math.inf)
        trials.append(trial)
        report.trial(trial)
        return trial

    left = list(choices)
    shortest = min(SHORTEST_TRIAL, recipe.epochs)
    for epochs in sorted({max(recipe.epochs // 2**halvings, shortest) for halvings in range(1, rungs + 1)}):
        ranked = sorted((tried(choice, epochs) for choice in left), key=lambda t: t.rank, reverse=True)
        left = [t.choice for t in ranked[: -(-len(ranked) // 2)]]
    best = ranked[0]
    while open_ended and (factor := outward(best, trials)):
        further = tried({**best.choice, "lr": factor * best.choice["lr"]}, best.epochs)
        if further.rank <= best.rank:
            break
        best = further
    return best.choice, trials


def outward(best: Trial, trials: Sequence[Trial]) -> float | None:
    """2 or 1/2 where the best rate is the largest or the smallest of those tried; None within."""
    rates = [t.choice["lr"] for t in trials]
    return 2 if best.choice["lr"] == max(rates) else 0.5 if best.choice["lr"] == min(rates) else None
