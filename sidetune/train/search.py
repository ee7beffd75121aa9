"""Choosing what a recipe leaves open by short runs, scored on validation images; test images are never seen."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

from sidetune.errors import NonFiniteLoss
from sidetune.memo import Memo
from sidetune.model import AdaptedModel
from sidetune.tasks.task import SHARES, rank
from sidetune.train.batches import Data
from sidetune.train.loop import Report, fit
from sidetune.train.recipe import Recipe
from sidetune.train.schedule import SHORTEST_TRIAL

Choice = Mapping[str, float]
"""Values by name: `lr`, and fields of the method."""
LAST = 2
"""Choices that are left for the last round, at least."""


@dataclass(frozen=True, kw_only=True)
class Trial:
    """One choice, trained for some epochs."""

    choice: Choice
    epochs: int
    val_accuracy: float
    """Of other tasks than classification their metric; larger is better."""
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
    rounds: Sequence[float] = (1 / 4, 1 / 2, 1),
    open_ended: bool = False,
    memo: Memo | None = None,
    about: Any = None,
) -> tuple[Choice, list[Trial]]:
    """The best of some choices on `val`, and everything that was tried.

    Successive halving: all choices are trained for a share of the recipe's epochs, the better half (two at least) for
    more, and so on by `rounds`; runs too short to tell rates apart are lengthened, and rounds left out that would lead
    no further. Every training is a whole run with its own warm-up and cosine, so that rates are compared as they will
    be used; the last round is of full length because short runs favour large rates. `open_ended`: a best learning rate
    that is the largest or the smallest tried is doubled or halved for as long as that is better still. Trials that
    `memo` knows, of the same data and method as `about` tells of, are not trained again.
    """
    trials: list[Trial] = []
    memo = memo or Memo()

    def tried(choice: Choice, epochs: int) -> Trial:
        short = replace(recipe, epochs=epochs, lr=choice.get("lr", recipe.lr), lr_update="step", cooldown_epochs=0)
        short = replace(short, warmup_epochs=None, keep="last")
        question = {"trial": choice, "recipe": short.deciding(), "about": about}
        if (known := memo.find(question)) is None:
            try:
                model = make(choice)
                last = fit(model, train, val=val, recipe=short, report=report).history[-1]
                known = rank(model.task.metric, last.scored(model.task.metric) or 0), last.loss
            except NonFiniteLoss:
                known = -math.inf if model.task.metric not in SHARES else 0, math.inf
            memo.put(question, known)
        trial = Trial(choice=choice, epochs=epochs, val_accuracy=known[0], loss=known[1])
        trials.append(trial)
        report.trial(trial)
        return trial

    left, shortest = list(choices), min(SHORTEST_TRIAL, recipe.epochs)
    lengths = sorted({max(int(recipe.epochs * share), shortest) for share in rounds})
    for epochs in lengths:
        if len(left) > LAST or epochs == lengths[-1]:
            ranked = sorted((tried(choice, epochs) for choice in left), key=lambda t: t.rank, reverse=True)
            left = [t.choice for t in ranked[: max(-(-len(ranked) // 2), LAST)]]
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


def cautious(trials: Sequence[Trial], lr: float, num_images: int) -> Choice:
    """The best choice with a rate as close to `lr` as `num_images` for validation allow.

    Of the longest runs, all within a standard error sqrt(p (1 - p) / n) of the best accuracy count as level; among
    these the method's own rate is a better guess than a lucky one.
    """
    longest = max(t.epochs for t in trials)
    last = sorted((t for t in trials if t.epochs == longest), key=lambda t: t.rank, reverse=True)
    best = last[0].val_accuracy
    level = [t for t in last if t.val_accuracy >= best - math.sqrt(max(best * (1 - best), 0) / num_images)]
    return min(level, key=lambda t: round(abs(math.log(t.choice["lr"] / lr)), 6)).choice
