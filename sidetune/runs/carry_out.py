"""A run -> what it comes to: data read, backbone opened, method put on it, trained, scored. Every verb that trains
hands its runs in here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from accelerate import Accelerator

from sidetune.atomic import write_text
from sidetune.backbones.weights import digest_of
from sidetune.choose.look import begin
from sidetune.data.check import check_images
from sidetune.data.samples import Splits
from sidetune.datasets import Data
from sidetune.errors import DataError, WeightsMismatch
from sidetune.means import Means
from sidetune.measure.parameters import count
from sidetune.model import AdaptedModel
from sidetune.runs.result import Result
from sidetune.runs.run import Run, images_of
from sidetune.saving import found_again, opened_as
from sidetune.sealed import sealed_json
from sidetune.tasks.metric import Metric, metric_of
from sidetune.train.evaluate import evaluate
from sidetune.train.folder import RESULT, differences
from sidetune.train.loop import Report, fit


@dataclass(frozen=True, kw_only=True)
class Ready:
    """What a run works on, open: its images, its model before the first step, features that are kept already."""

    splits: Splits
    model: AdaptedModel
    features: Mapping[str, Data] = field(default_factory=dict)
    """By part, in place of the images."""

    def part(self, name: str) -> Data | None:
        kept = self.features if self.model.prefix is not None else {}
        return kept.get(name, self.splits.parts().get(name))


def ready(run: Run, *, force: bool = False) -> Ready:
    """Read a run's images and open its backbone.

    Raises ValueError where nobody can find them again, FileNotFoundError for weights that are gone, DataError for other
    images and WeightsMismatch for other weights than the run had, unless `force` takes those.
    """
    if run.source is None:
        raise ValueError("this run was trained on samples in memory, which nobody finds again")
    skip_bad = run.source.skip_bad
    splits = run.source.read()
    if skip_bad:
        splits = splits.mapped(lambda samples: check_images(samples, skip_bad=True)[0])
    if not force and (told := other_images(run, splits)):
        raise DataError(f"{run.source.name}: {told}")
    about = run.as_dict()["backbone"]
    backbone = opened_as(about, found_again(about, Path(run.backbone.name)))
    if not force and backbone.card.identity != run.backbone.identity:
        raise WeightsMismatch(
            f"the run had weights {run.backbone.identity[:12]}... of {run.backbone.name}, and these are "
            f"{backbone.card.identity[:12]}..."
        )
    return Ready(splits=splits, model=run.adapted(backbone))


def other_images(run: Run, splits: Splits) -> str:
    """In which parts images or labels are not those of the run, in words; nothing if all are."""
    return differences({"data": dict(run.images)}, {"data": images_of(splits)})


class RunReport(Report, Protocol):
    def metric(self, metric: Metric) -> None:
        """By which figure the epochs to come are judged."""
        ...


def carry_out(
    run: Run,
    means: Means | None = None,
    report: RunReport | None = None,
    *,
    having: Ready | None = None,
    scored: Sequence[str] = ("val", "test"),
    out: str | Path | None = None,
    store: str | Path | None = None,
    resume: bool = False,
    overwrite: bool = False,
    about: Mapping[str, Any] | None = None,
) -> Result:
    """Train and score, by `means`. What is open already is taken from `having` and not opened again; its model is then
    the trained one. Scores are of those of the parts `scored` that there are.

    With `out`, the folder keeps the run as `sidetune.fit` says (`store`, `resume`, `overwrite`, `about` too) and its
    result. Raises as `ready` and `sidetune.fit` do.
    """
    having = having or ready(run)
    model, train = having.model, having.part("train")
    assert train is not None
    if report is not None:
        report.metric(metric_of(run.task))
    if train is not having.splits.train:  # of features alone a method cannot see what it wants to
        begin(model, having.splits.train, run.recipe.seed)
    done = fit(
        model,
        train,
        val=having.part("val"),
        recipe=run.recipe,
        means=means,
        out=out,
        store=store,
        resume=resume,
        overwrite=overwrite,
        report=report,
        about=about,
    )
    scores = {}
    for part in scored:
        if (data := having.part(part)) is not None:
            scores[part] = evaluate(model, data, precision=done.precision)
    result = Result(
        run=run,
        means=means or Means(),
        history=done.history,
        num_found=done.num_found,
        kept_epoch=done.kept_epoch,
        scores=scores,
        parameters=count(model),
        frozen_depth=model.frozen_depth,
        features_kept=done.features_kept,
        features_seconds=done.features_seconds,
        precision=done.precision,
        trained=digest_of(model.trained()),
        model=model,
        out=None if out is None else str(out),
        named_recipe=(about or {}).get("named_recipe"),
    )
    if out is not None and Accelerator(mixed_precision="no").is_main_process:
        write_text(Path(out) / "run" / RESULT, sealed_json(result.as_dict()))
    return result
