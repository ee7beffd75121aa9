"""Choosing among learning rates, or other values, by runs of growing length that are scored on validation images."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # the small device chooses too, and tasks need PyTorch
    from sidetune.tasks.metric import Metric

SHORTEST_TRIAL = 3
"""Epochs of a run that only compares choices. After one of 25 steps all are about as good as chance."""

Choice = Mapping[str, float]
"""Values by name: `lr`, and fields of the method."""
ROUNDS = (1 / 4, 1 / 2, 1)
"""Shares of the epochs."""
LAST = 2
"""Choices that are left for the last round, at least."""


@dataclass(frozen=True, kw_only=True)
class Trial:
    """One choice, trained for some epochs."""

    choice: Choice
    epochs: int
    val_accuracy: float
    """Of other tasks than classification the rank of their metric's value; larger is better."""
    loss: float

    @property
    def rank(self) -> tuple[float, float]:
        """Better is larger: accuracy, then a lower training loss."""
        return self.val_accuracy, -self.loss


def halving(
    tried: Callable[[Choice, int], Trial],
    choices: Sequence[Choice],
    epochs: int,
    *,
    rounds: Sequence[float] = ROUNDS,
    open_ended: bool = False,
) -> tuple[Choice, list[Trial]]:
    """The best of some choices, and everything that `tried` was asked for.

    Successive halving: all choices are trained for a share of `epochs`, the better half (two at least) for more, and so
    on by `rounds`; runs too short to tell rates apart are lengthened, and rounds left out that would lead no further.
    The last round is of full length because short runs favour large rates. `open_ended`: a best learning rate that is
    the largest or the smallest tried is doubled or halved for as long as that is better still.
    """
    trials: list[Trial] = []

    def try_out(choice: Choice, length: int) -> Trial:
        trials.append(tried(choice, length))
        return trials[-1]

    left, shortest = list(choices), min(SHORTEST_TRIAL, epochs)
    lengths = sorted({max(int(epochs * share), shortest) for share in rounds})
    for length in lengths:
        if len(left) > LAST or length == lengths[-1]:
            ranked = sorted((try_out(choice, length) for choice in left), key=lambda t: t.rank, reverse=True)
            left = [t.choice for t in ranked[: max(-(-len(ranked) // 2), LAST)]]
    best = ranked[0]
    while open_ended and (factor := outward(best, trials)):
        further = try_out({**best.choice, "lr": factor * best.choice["lr"]}, best.epochs)
        if further.rank <= best.rank:
            break
        best = further
    return best.choice, trials


def outward(best: Trial, trials: Sequence[Trial]) -> float | None:
    """2 or 1/2 where the best rate is the largest or the smallest of those tried; None within."""
    rates = [t.choice["lr"] for t in trials]
    return 2 if best.choice["lr"] == max(rates) else 0.5 if best.choice["lr"] == min(rates) else None


def cautious(trials: Sequence[Trial], lr: float, num_images: int, metric: Metric) -> Choice:
    """The best choice with a rate as close to `lr` as `num_images` for validation allow.

    Of the longest runs, all within the metric's standard error of the best count as level; among these the method's own
    rate is a better guess than a lucky one.
    """
    longest = max(t.epochs for t in trials)
    last = sorted((t for t in trials if t.epochs == longest), key=lambda t: t.rank, reverse=True)
    best = last[0].val_accuracy
    margin = metric.standard_error(metric.ranked(best), num_images)
    level = [t for t in last if t.val_accuracy >= best - margin]
    return min(level, key=lambda t: round(abs(math.log(t.choice["lr"] / lr)), 6)).choice
