"""Finding the sizes of a method's parts: train a supernet that holds them all, then search its sub-networks."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from accelerate import Accelerator
from torch import Tensor

from sidetune.backbones import Backbone
from sidetune.backbones.weights import digest_of
from sidetune.choose.evolution import Evolution, Scored, evolve
from sidetune.data.samples import Samples, Splits
from sidetune.datasets import as_dataset
from sidetune.memo import Memo
from sidetune.methods import Method
from sidetune.model import AdaptedModel
from sidetune.recipe import Recipe
from sidetune.runs.carry_out import Ready, RunReport, carry_out
from sidetune.runs.run import Run
from sidetune.seam.features import Features
from sidetune.tasks import Task, described, task_of
from sidetune.tasks.metric import Metric, decided, metric_of
from sidetune.train.batches import evaluation_batches
from sidetune.train.evaluate import score
from sidetune.train.kept import keep
from sidetune.train.loop import Report, Silent

Subnet = Any
"""A sub-network as the method describes it; hashable."""


@runtime_checkable
class Searchable(Protocol):
    """A method whose sizes are searched for."""

    def as_supernet(self) -> Method:
        """The variant that trains all sub-networks at once."""
        ...

    def with_subnet(self, subnet: Subnet) -> Method:
        """The variant that is one of them."""
        ...

    def activate(self, model: AdaptedModel, subnet: Subnet) -> None:
        """Make a supernet compute as one of its sub-networks until told otherwise."""
        ...

    def num_parameters(self, backbone: Backbone, subnet: Subnet) -> int: ...

    def space(self, backbone: Backbone) -> Any:
        """All sub-networks: `draw`, `mutate`, `cross` and `smallest`."""
        ...


class SearchReport(RunReport, Protocol):
    def candidates(self, done: int, total: int) -> None: ...


class SilentSearch(Silent):
    def candidates(self, done: int, total: int) -> None:
        pass


@dataclass(frozen=True, kw_only=True)
class Found:
    method: Method
    """The method with the sub-network that won; train it anew."""
    subnet: Subnet
    metric: Metric
    val_accuracy: float
    """The metric's value with the supernet's weights; of classification the accuracy, in 0..1."""
    num_parameters: int
    """Trained ones, without the head."""
    scored: list[Scored[Subnet]]
    """Everything that was scored, best first; among equals the smallest. Scores are ranks of the metric's values."""


def search_sizes(
    backbone: Backbone,
    method: Method,
    train: Samples,
    val: Samples,
    *,
    max_parameters: int,
    recipe: Recipe,
    evolution: Evolution | None = None,
    transform: str | None = None,
    task: Task | None = None,
    out: str | Path | None = None,
    resume: bool = False,
    overwrite: bool = False,
    memo: Memo | None = None,
    report: SearchReport | None = None,
) -> Found:
    """Train the method's supernet by `recipe`, then find the sub-network of at most `max_parameters` trained parameters
    (the head not counted) that does best on `val` by the metric of `task`, which is that of the data if not given; test
    images are never seen.

    With `out`, the supernet is saved there, with a checkpoint after every epoch. `memo` keeps scores. Runs in one
    process. Raises ValueError for a method without sizes to search for, and for a limit that no sub-network keeps.
    """
    report = report or SilentSearch()
    if not isinstance(method, Searchable):
        raise ValueError(f"{type(method).__name__} has no sizes to search for; noah has")
    if Accelerator(mixed_precision="no").num_processes > 1:
        raise ValueError("a search runs in one process; start it without accelerate launch or torchrun")
    space = method.space(backbone)
    smallest = method.num_parameters(backbone, space.smallest)
    if smallest > max_parameters:
        raise ValueError(f"max_parameters is {max_parameters:,}, but the smallest sub-network has {smallest:,}")
    alone = Splits(name="", train=train, val=None, test=None)
    task = task or task_of(train)
    run = Run.of(alone, backbone, method.as_supernet(), recipe, task=task, transform=transform)
    model = run.adapted(backbone)
    having = Ready(splits=alone, model=model)
    carry_out(run, recipe.means, report, having=having, out=out, resume=resume, overwrite=overwrite)

    goodness = scorer(model, val, recipe, report)
    rng = random.Random(recipe.seed)

    def chance(probability: float) -> bool:
        return rng.random() < probability

    weights = None if memo is None else digest_of(model.trained())
    images = None if memo is None else val.digest()
    asked = {} if task == task_of(train) else {"task": described(task)}

    def score_of(subnet: Subnet) -> float:
        question = {"subnet": asdict(subnet), "weights": weights, "images": images, **asked}
        if memo is None or (known := memo.find(question)) is None:
            method.activate(model, subnet)
            known = goodness()
            if memo is not None:
                memo.put(question, known)
        return float(known)

    scored = evolve(
        draw=lambda: space.draw(rng.choice),
        mutate=lambda subnet: space.mutate(subnet, rng.choice, chance),
        cross=lambda first, second: space.cross(first, second, chance),
        admissible=lambda subnet: method.num_parameters(backbone, subnet) <= max_parameters,
        score=score_of,
        choose=rng.choice,
        how=evolution or Evolution(),
        first=space.smallest,
        report=report.candidates,
    )
    scored.sort(key=lambda s: (-s.score, method.num_parameters(backbone, s.candidate)))
    best = scored[0]
    return Found(
        method=method.with_subnet(best.candidate),
        subnet=best.candidate,
        metric=metric_of(task),
        val_accuracy=metric_of(task).ranked(best.score),
        num_parameters=method.num_parameters(backbone, best.candidate),
        scored=scored,
    )


def scorer(model: AdaptedModel, val: Samples, recipe: Recipe, report: Report) -> Callable[[], float]:
    """What says how good the model is on `val` as it is at the moment; the frozen half runs once."""
    accelerator = Accelerator(mixed_precision="no")

    def compute(images: Tensor) -> Features:
        features = model.features(images.to(accelerator.device))
        assert isinstance(features, Features)
        return features

    kept = keep(model, as_dataset(val, model, training=False), recipe, compute, report.features)
    batches = accelerator.prepare_data_loader(evaluation_batches(kept, recipe))

    def goodness() -> float:
        return metric_of(model.task).rank(decided(model.task, score(model, batches, accelerator).values))

    return goodness
