"""Several methods on the same data and backbone: trained one after the other, measured alike, one row each."""

from __future__ import annotations

import json
import math
import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import quote

import torch
from accelerate import Accelerator

from sidetune import tasks
from sidetune.atomic import write_text
from sidetune.backbones import Backbone
from sidetune.choose.look import prepare
from sidetune.data.dataset import collate, dataset_of
from sidetune.data.samples import Samples, Splits
from sidetune.data.sources import Source
from sidetune.data.transforms import preset_for
from sidetune.datasets import Targets
from sidetune.measure.machine import birth_certificate
from sidetune.measure.memory import training_peak
from sidetune.measure.parameters import Parameters, count
from sidetune.memo import Memo
from sidetune.methods import Method
from sidetune.model import AdaptedModel
from sidetune.recipe import Recipe
from sidetune.runs.carry_out import Ready, RunReport, carry_out
from sidetune.runs.folder import UNFINISHED, forget
from sidetune.runs.run import Run, images_of
from sidetune.saved import CONFIG, from_saved
from sidetune.saving import Adapter
from sidetune.tasks.metric import Metric, decided, metric_named, metric_of
from sidetune.tasks.task import Task
from sidetune.train.epoch import Epoch
from sidetune.train.evaluate import check_metric
from sidetune.train.kept import share_features
from sidetune.train.loop import Silent
from sidetune.train.precision import TYPES, resolve


@dataclass(frozen=True, kw_only=True)
class Row:
    """What one method came to, over its seeds."""

    method: str
    recipe: Recipe
    """With the first seed."""
    parameters: Parameters
    frozen_depth: int
    peak_bytes: int
    """Of a training step with the frozen half on the fly; of the trainer's process where `whole_process`."""
    whole_process: bool = False
    """Trained in a process of its own, whose largest resident set is told, Python included."""
    seconds_per_epoch: float
    """Median over epochs and seeds; from features in memory where `features_kept`."""
    features_kept: bool
    accuracies: tuple[float, ...]
    """On the test images (validation images where there are none), a number a seed; of other tasks their metric."""
    histories: tuple[tuple[Epoch, ...], ...]
    choices: Mapping[str, Any] = field(default_factory=dict)
    """The method's type and fields."""
    seeds: tuple[int, ...] = ()
    """None in files of earlier versions, which do not tell the run either."""
    run: Mapping[str, Any] = field(default_factory=dict)
    """That of the first seed, as `Run.as_dict` tells it."""

    @property
    def accuracy(self) -> float:
        return statistics.fmean(self.accuracies)

    @property
    def spread(self) -> float:
        """Standard deviation over seeds; NaN for one seed."""
        return statistics.stdev(self.accuracies) if len(self.accuracies) > 1 else math.nan


@dataclass(frozen=True, kw_only=True)
class Comparison:
    data: str
    backbone: str
    image_size: tuple[int, int]
    transform: str
    num_images: dict[str, int]
    scored_on: str
    """`test` or `val`."""
    shared_features_seconds: float
    """One pass of the frozen half over all images, for all methods together; 0 where nothing was shared."""
    rows: tuple[Row, ...]
    named_recipe: str | None = None
    """The convention of a paper that all rows follow; see `sidetune.runs.conventions`."""
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    """How pixels were normalised; None in files of earlier versions."""
    metric: str = "accuracy"
    """What `Row.accuracies` are."""
    metric_is: Metric | None = None
    """How it is told, as its task states it; None in files of earlier versions."""

    @property
    def figure(self) -> Metric:
        return self.metric_is or metric_named(self.metric)

    def save(self, path: Path) -> None:
        """Write everything, with machine, versions, commit and command, as JSON."""
        result = {"kind": "comparison", **birth_certificate(), **asdict(self)}
        write_text(path, json.dumps(result, indent=1, ensure_ascii=False) + "\n")

    @staticmethod
    def load(path: Path) -> Comparison:
        """Read what `save` wrote."""
        result = json.loads(path.read_text(encoding="utf-8"))
        rows = [
            Row(
                **{
                    **row,
                    "recipe": from_saved(Recipe, row["recipe"]),
                    "parameters": Parameters(**row["parameters"]),
                    "accuracies": tuple(row["accuracies"]),
                    "seeds": tuple(row.get("seeds", ())),
                    "histories": tuple(tuple(Epoch(**e) for e in history) for history in row["histories"]),
                }
            )
            for row in result["rows"]
        ]
        own = {f.name: result[f.name] for f in fields(Comparison) if f.name in result}
        own |= {name: tuple(own[name]) for name in ("mean", "std") if own.get(name)}
        if own.get("metric_is"):
            own["metric_is"] = from_saved(Metric, own["metric_is"])
        return Comparison(**{**own, "rows": tuple(rows), "image_size": tuple(result["image_size"])})


class CompareReport(RunReport, Protocol):
    def method(self, name: str, seed: int) -> None: ...


class SilentCompare(Silent):
    def method(self, name: str, seed: int) -> None:
        pass


def compare(
    splits: Splits,
    backbone: Backbone,
    methods: Mapping[str, Method],
    *,
    recipe: Recipe,
    epochs: Mapping[str, int] | None = None,
    seeds: Sequence[int] = (0,),
    transform: str | None = None,
    task: Task | None = None,
    source: Source | None = None,
    named_recipe: str | None = None,
    out: Path | None = None,
    memo: Memo | None = None,
    report: CompareReport | None = None,
) -> tuple[Comparison, dict[str, AdaptedModel]]:
    """Train every method with every seed and score it; also returns each method's model of the first seed.

    `task` is that of the data if not given; its metric is a row's number. `epochs` overrides the recipe's for single
    methods. Where training images are the same in every epoch, the frozen halves of all methods run together, once.
    `source` tells where `splits` came from, for whoever repeats it; `named_recipe` says whose choices `recipe` and the
    others are. With `out`, the first seed's models are saved in `out/METHOD`. With `memo`, what it knows of an earlier
    call is not trained again, and runs that were stopped go on; of models that are not saved, those of known runs come
    untrained.
    """
    report = report or SilentCompare()
    task = task or tasks.task_of(splits.train)
    transform = preset_for(task.targets, transform)
    scored_on = "val" if splits.test is None else "test"
    if scored_on == "val" and splits.val is None:
        raise ValueError(f"{splits.name} has neither test nor validation images to score on")

    methods = {
        name: prepare(method, backbone, splits.train, transform=transform, seed=seeds[0], batch_size=recipe.batch_size)
        for name, method in methods.items()
    }
    images = images_of(splits)

    def run_of(name: str, seed: int) -> Run:
        length = (epochs or {}).get(name, recipe.epochs)
        return Run.of(
            splits,
            backbone,
            methods[name],
            replace(recipe, epochs=length, seed=seed),
            task=task,
            transform=transform,
            source=source,
            images=images,
        )

    places = {
        (name, seed): Place(
            name=name,
            run=run_of(name, seed),
            scored_on=scored_on,
            saved=out / name if out and seed == seeds[0] else None,
            memo=memo,
        )
        for name in methods
        for seed in seeds
    }
    models = {name: places[name, seeds[0]].run.adapted(backbone) for name in methods}
    left = [name for name in models if not all(places[name, seed].is_known for seed in seeds)]
    sharing = [models[name] for name in left]
    if sharing:
        check_metric(sharing[0])
    start = time.perf_counter()
    shared = share_features(splits.parts(), backbone, sharing, recipe, report.features) if sharing else {}
    seconds = time.perf_counter() - start if shared else 0.0
    rows = []
    for name, model in models.items():
        outcomes: list[Outcome] = []
        for seed in seeds:
            place = places[name, seed]
            if place.is_known:
                if seed == seeds[0]:
                    recall(model, place)
                outcomes.append(place.known)
                continue
            own = replace(place.run.recipe, means=recipe.means)
            peak = peak_of(model, splits.train, own) if seed == seeds[0] else outcomes[0].peak_bytes
            report.method(name, seed)
            trained = model if seed == seeds[0] else place.run.adapted(backbone)
            done = carry_out(
                place.run,
                recipe.means,
                report,
                having=Ready(splits=splits, model=trained, features=shared),
                scored=(scored_on,),
                out=place.folder,
                resume=memo is not None,
            )
            outcome = Outcome(
                accuracy=decided(task, done.scores[scored_on].values),
                history=done.history,
                features_kept=done.features_kept,
                peak_bytes=peak,
            )
            place.keep(outcome)
            outcomes.append(outcome)
        first = places[name, seeds[0]].run
        rows.append(
            Row(
                method=name,
                recipe=replace(first.recipe, means=recipe.means),
                parameters=count(model),
                frozen_depth=model.frozen_depth,
                peak_bytes=outcomes[0].peak_bytes,
                seconds_per_epoch=statistics.median(e.seconds for outcome in outcomes for e in outcome.history),
                features_kept=outcomes[0].features_kept,
                accuracies=tuple(outcome.accuracy for outcome in outcomes),
                histories=tuple(outcome.history for outcome in outcomes),
                choices={"type": type(methods[name]).__name__, **asdict(methods[name])},
                seeds=tuple(seeds),
                run=first.as_dict(),
            )
        )
    comparison = Comparison(
        data=splits.name,
        backbone=backbone.card.name or backbone.card.architecture,
        image_size=backbone.card.image_size,
        transform=transform,
        num_images={part: len(samples) for part, samples in splits.parts().items()},
        scored_on=scored_on,
        shared_features_seconds=seconds,
        rows=tuple(rows),
        named_recipe=named_recipe,
        mean=backbone.card.mean,
        std=backbone.card.std,
        metric=task.metric,
        metric_is=metric_of(task),
    )
    return comparison, models


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What one run of a comparison came to."""

    accuracy: float
    history: tuple[Epoch, ...]
    features_kept: bool
    peak_bytes: int


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where one run of a comparison trains and saves its model, and what is known of it already."""

    name: str
    run: Run
    scored_on: str
    saved: Path | None
    memo: Memo | None

    @property
    def question(self) -> Any:
        return {"run": self.run.digest, "on": self.scored_on}

    @property
    def folder(self) -> Path | None:
        """Where it trains: where its model is to be saved, or a folder that lasts as long as the run."""
        if self.saved is not None or self.memo is None or self.memo.path is None:
            return self.saved
        return self.memo.path.parent / UNFINISHED / quote(f"{self.name}-{self.run.recipe.seed}", safe="+*=,. ")

    @property
    def is_known(self) -> bool:
        has_model = self.saved is None or (self.saved / CONFIG).exists()
        return self.memo is not None and has_model and self.memo.find(self.question) is not None

    @property
    def known(self) -> Outcome:
        assert self.memo is not None
        told = self.memo.find(self.question)
        return Outcome(**{**told, "history": tuple(Epoch(**e) for e in told["history"])})

    def keep(self, outcome: Outcome) -> None:
        if self.memo is not None:
            self.memo.put(self.question, asdict(outcome))
        if self.saved is None and self.folder is not None:
            forget(self.folder)


def recall(model: AdaptedModel, place: Place) -> None:
    """Make a model what its run made it, where that was saved."""
    if place.saved is None:
        return
    device, recipe = Accelerator(mixed_precision="no").device, place.run.recipe
    model.recipe = recipe
    adapter = Adapter.read(place.saved)
    model.task = adapter.task
    model.hold(TYPES[resolve(recipe.precision, device)], device, weights=recipe.weights)
    model.take(adapter)
    model.eval()


def peak_of(model: AdaptedModel, samples: Samples, recipe: Recipe) -> int:
    """Peak memory of a training step on the first images."""
    device = Accelerator(mixed_precision="no").device
    model.hold(TYPES[resolve(recipe.precision, device)], device, weights=recipe.weights)
    dataset = dataset_of(samples, model.transform, training=True)
    with torch.random.fork_rng(devices=[]):
        images, targets = collate([dataset[i] for i in range(min(recipe.batch_size, len(samples)))])
    model.task = model.task.begin(Targets(dataset))
    return training_peak(model, images.to(device), targets.to(device), recipe)
