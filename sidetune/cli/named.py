"""What `--recipe`, `--method` and `--backbone` come to together."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from sidetune.cli.choices import Setup
from sidetune.cli.options import DEFAULT_BACKBONE
from sidetune.methods import Method, find_method
from sidetune.recipe import Recipe
from sidetune.runs.conventions import named_run
from sidetune.runs.papers import PaperRun


@dataclass(frozen=True, kw_only=True)
class Asked:
    backbone: str
    preset: str
    method: Method
    recipe: Recipe
    setup: Setup
    rates: tuple[float, ...] | None = None
    """Learning rates that the recipe's authors tried."""
    task: Mapping[str, str] = field(default_factory=dict)
    """Choices of the task."""


def asked(recipe: str | None, method: str | None, backbone: str | None, default_method: str) -> Asked:
    """A named recipe's choices, but for the method and the backbone where those are named; defaults without one."""
    if recipe is None:
        preset = method or default_method
        return Asked(
            backbone=backbone or DEFAULT_BACKBONE,
            preset=preset,
            method=find_method(preset),
            recipe=Recipe(),
            setup=Setup(),
        )
    run = named_run(recipe, method)
    return Asked(
        backbone=backbone or run.backbone,
        preset=run.preset,
        method=run.method,
        recipe=run.recipe,
        setup=setup_of(run),
        rates=run.rates or None,
        task=run.task,
    )


def setup_of(run: PaperRun) -> Setup:
    task = "auto" if run.targets == "classification" else run.targets
    return Setup(transform=run.transform, mean=run.mean, std=run.std, image_size=run.image_size, task=task)
