"""The learning rate over epochs: linear warm-up, then a way down."""

from __future__ import annotations

import math

from sidetune.recipe import Recipe


def learning_rate(recipe: Recipe, peak: float, epoch: float) -> float:
    """The rate at an epoch, counted from 0 and fractional within one.

    Warm-up rises from `warmup_lr` to `peak`; then the way down over all of `epochs`, which warm-up cuts the start off
    rather than shifts; `min_lr` after its end.
    """
    warmup = recipe.epochs // 10 if recipe.warmup_epochs is None else recipe.warmup_epochs
    if epoch < warmup:
        return recipe.warmup_lr + (peak - recipe.warmup_lr) * epoch / warmup
    if epoch >= recipe.epochs:
        return recipe.min_lr
    return recipe.min_lr + (peak - recipe.min_lr) * WAYS[recipe.schedule](recipe, epoch)


def cosine(recipe: Recipe, epoch: float) -> float:
    """As the DTL authors run it."""
    return (1 + math.cos(math.pi * epoch / recipe.epochs)) / 2


def poly(recipe: Recipe, epoch: float) -> float:
    """Of power 1."""
    return 1 - epoch / recipe.epochs


def steps(recipe: Recipe, epoch: float) -> float:
    return math.prod(0.1 for milestone in recipe.milestones if epoch >= milestone)


WAYS = {"cosine": cosine, "poly": poly, "steps": steps}
"""What is left of the rate, 1 at the start."""


def num_epochs(recipe: Recipe) -> int:
    return recipe.epochs + recipe.cooldown_epochs
