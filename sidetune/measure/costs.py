"""What a method takes on a backbone: parameters, memory, operations, and time on this machine."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from sidetune.atomic import write_text
from sidetune.backbones import Backbone, Card
from sidetune.measure.machine import birth_certificate
from sidetune.measure.memory import Memory
from sidetune.measure.parameters import Parameters
from sidetune.measure.plan import Operations, begun, plan
from sidetune.measure.speed import images_per_second, step_seconds
from sidetune.methods import Method
from sidetune.model import adapt
from sidetune.recipe import Recipe
from sidetune.tasks import Task, name_of_task
from sidetune.train.precision import TYPES, resolve

BATCHES = (1, 4, 16)


@dataclass(frozen=True, kw_only=True)
class Cost:
    method: str
    parameters: Parameters
    frozen_depth: int
    memory: Memory
    """Of a training step, features on the fly."""
    operations: Operations
    step_seconds: float | None
    step_seconds_from_features: float | None
    images_per_second: dict[int, float]
    """By batch size, at inference."""


def cost(
    name: str,
    backbone: Backbone,
    method: Method,
    task: Task,
    recipe: Recipe,
    device: torch.device,
    *,
    timed: bool,
) -> Cost:
    """Measure one method; without `timed` nothing is computed and the backbone may be on the meta device."""
    with torch.device("cpu" if timed else "meta"):
        model = adapt(backbone, method, task=begun(task, backbone.card.image_size))
    planned = plan(model, recipe)
    flying, kept, speeds = None, None, {}
    if timed:
        model.hold(TYPES[resolve(recipe.precision, device)], device, weights=recipe.weights)
        flying, kept = step_seconds(model, recipe)
        speeds = {batch: images_per_second(model, batch) for batch in BATCHES}
    return Cost(
        method=name,
        parameters=planned.parameters,
        frozen_depth=planned.frozen_depth,
        memory=planned.memory,
        operations=planned.operations,
        step_seconds=flying,
        step_seconds_from_features=kept,
        images_per_second=speeds,
    )


def save_costs(rows: Sequence[Cost], card: Card, task: Task, recipe: Recipe, path: Path) -> None:
    """Write everything, with machine, versions, commit and command, as JSON."""
    learned = {"task": name_of_task(task), "num_classes": len(task.classes)}
    about = {"kind": "costs", "backbone": asdict(card), **learned, "recipe": asdict(recipe), **birth_certificate()}
    write_text(path, json.dumps({**about, "rows": [asdict(row) for row in rows]}, indent=1) + "\n")
