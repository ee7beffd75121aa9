"""Training on a file of features, without a network: epochs, checkpoints, the same numbers for the same seed."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from sidetune.edge.artefact import Artefact, Choices, save
from sidetune.edge.checkpoint import DeviceCheckpoint, DeviceFolder
from sidetune.edge.features import MISSING, FeatureFile
from sidetune.edge.parameters import Shape, start
from sidetune.edge.step import Learner, pool_weights
from sidetune.errors import DataError, NonFiniteLoss
from sidetune.locked import worked_on
from sidetune.means import Means
from sidetune.recipe import Recipe
from sidetune.train.epoch import Epoch
from sidetune.train.schedule import learning_rate, num_epochs

CHECKPOINT_SECONDS = 60.0
FOLLOWED = {
    "epochs", "batch_size", "lr", "warmup_epochs", "cooldown_epochs", "warmup_lr", "min_lr", "lr_update",
    "weight_decay", "betas", "micro_batch", "seed",
}  # fmt: skip
"""Choices of a recipe and of its means that mean something here."""


@dataclass(frozen=True, kw_only=True)
class Fit:
    """What a run came to."""

    k: int
    history: tuple[Epoch, ...]
    accuracy: dict[str, float]
    """By part that is not trained on: val, test."""
    num_parameters: int
    """Without the head's."""


def fit(
    path: Path,
    out: Path,
    *,
    choices: Choices | None = None,
    recipe: Recipe | None = None,
    resume: bool = False,
    overwrite: bool = False,
    checkpoint_seconds: float = CHECKPOINT_SECONDS,
    threads: int = 1,
    scored_on: Sequence[str] = ("val", "test"),
    report: Callable[[Epoch, int], None] = lambda epoch, total: None,
) -> Fit:
    """Train on the file's `train` images and write the model to `out`; a run that was stopped, even by a loss of power,
    ends with the same parameters if it goes on with `resume`. `threads` share a batch, up to 4; see `Learner`.

    Raises DataError for a file that is not complete, or damaged, ValueError for a k that it does not hold, RunExists,
    InUse where another process works on `out`, NoSpace, and NonFiniteLoss if the loss becomes NaN or infinite.
    """
    choices, recipe = choices or Choices(), recipe or Recipe()
    asked = {**asdict(recipe.means), **recipe.deciding()}
    plain = {**asdict(Means()), **Recipe().deciding()}
    if other := [name for name, value in asked.items() if name not in FOLLOWED and value != plain.get(name)]:
        raise ValueError(f"the device does not follow {', '.join(other)} of a recipe")
    with FeatureFile(path) as file:
        header = file.header
        choices = replace(choices, k=chosen_k(choices.k, header.ks, path))
        assert choices.k is not None
        check(file, choices.k)
        recipe = replace(recipe, lr=recipe.lr or choices.lr)
        shape = Shape(
            width=header.card.width, num_classes=len(header.classes), rank=choices.rank, layers=choices.layers
        )
        pool = pool_weights(header.card, choices.pool)
        learner = Learner(file, choices.k, start(shape, recipe.seed), pool, recipe, threads=threads)
        artefact = Artefact(
            card=header.card, classes=header.classes, choices=choices, recipe=recipe, parameters=learner.p
        )
        run, progress, request = DeviceFolder(out), DeviceCheckpoint(), request_of(file, choices, recipe)
        run.check_free(resume=resume, overwrite=overwrite)
        with worked_on(out), learner.threads:
            run.begin(
                request,
                resume=resume,
                overwrite=overwrite,
                about={"file": str(path.resolve()), "means": asdict(recipe.means)},
            )
            if run.has_checkpoint:
                progress, learner.optimizer.steps = run.load(state_of(learner))
            train(learner, run, progress, checkpoint_seconds, report)
            scores = {part: learner.accuracy(file.part(part)) for part in scored_on}
            save(out, artefact)
    return Fit(
        k=choices.k,
        history=tuple(progress.history),
        accuracy={part: score for part, score in scores.items() if score is not None},
        num_parameters=shape.num_parameters - shape.num_classes * (shape.width + 1),
    )


def chosen_k(k: int | None, ks: tuple[int, ...], path: Path) -> int:
    """The largest in the file where none is named."""
    if k is None:
        return max(ks)
    if k not in ks:
        raise ValueError(f"{path} holds the sums up to k = {', '.join(map(str, ks))}, not {k}; enrol with --k {k}")
    return k


def check(file: FeatureFile, k: int) -> None:
    missing = int((file.states == MISSING).sum())
    if missing:
        raise DataError(
            f"{file.path} lacks {missing:,} of {len(file.states):,} images; `sidetune edge enroll` goes on with it"
        )
    if bad := file.damaged([k]):
        names = ", ".join(file.header.images[i].path for i in bad[:3])
        raise DataError(
            f"the features of {len(bad):,} images in {file.path} are damaged ({names}); enrol again to mend it"
        )
    if not len(file.part("train")):
        raise DataError(f"{file.path} holds no image to train on")


def request_of(file: FeatureFile, choices: Choices, recipe: Recipe) -> dict[str, Any]:
    """What decides a run's result, for telling whether it may be resumed."""
    header = file.header
    assert choices.k is not None
    return {
        "recipe": recipe.deciding(),
        "method": asdict(choices),
        "backbone": asdict(header.card),
        "classes": header.classes,
        "precision": header.precision,
        "num_train_images": len(file.part("train")),
        "data": {"train": file.digest("train", choices.k)},
    }


def state_of(learner: Learner) -> dict[str, np.ndarray]:
    optimizer = learner.optimizer
    return {"parameters": learner.p.flat, "first": optimizer.first, "second": optimizer.second}


def train(
    learner: Learner,
    run: DeviceFolder,
    progress: DeviceCheckpoint,
    checkpoint_seconds: float,
    report: Callable[[Epoch, int], None],
) -> None:
    """Go on from `progress` to the end of the recipe. An epoch's order follows from seed and epoch alone."""
    recipe, images = learner.recipe, learner.file.part("train")
    val, total = learner.file.part("val"), num_epochs(learner.recipe)
    num_steps = max(len(images) // recipe.batch_size, 1)  # a last short batch is left out, unless it is the only one
    saved = time.monotonic()

    def checkpoint() -> None:
        if not np.isfinite(learner.p.flat).all():
            raise NonFiniteLoss(
                f"the parameters became NaN or infinite in epoch {progress.epoch}; {run.path} keeps what was before. "
                f"Try a lower --lr"
            )
        run.save(progress, learner.optimizer.steps, state_of(learner))

    while progress.epoch < total:
        order = images[np.random.default_rng([recipe.seed, progress.epoch]).permutation(len(images))]
        while progress.step < num_steps:
            began = time.monotonic()
            lr = rate(recipe, progress, num_steps)
            batch = order[progress.step * recipe.batch_size : (progress.step + 1) * recipe.batch_size]
            progress.loss += learner.update(batch, lr)
            progress.step += 1
            progress.seconds += time.monotonic() - began
            if not math.isfinite(progress.loss):
                raise NonFiniteLoss(
                    f"the loss became {progress.loss} in epoch {progress.epoch + 1}, step {progress.step} of "
                    f"{num_steps} (learning rate {lr:g}); try a lower --lr"
                )
            if progress.step < num_steps and time.monotonic() - saved > checkpoint_seconds:
                checkpoint()
                saved = time.monotonic()
        record = Epoch(
            epoch=progress.epoch + 1,
            lr=rate(recipe, replace(progress, step=num_steps - 1), num_steps),
            loss=progress.loss / num_steps,
            seconds=progress.seconds,
            val_accuracy=learner.accuracy(val),
        )
        progress.history.append(record)
        progress.epoch, progress.step, progress.loss, progress.seconds = progress.epoch + 1, 0, 0.0, 0.0
        if progress.epoch == total or time.monotonic() - saved > checkpoint_seconds:
            checkpoint()
            saved = time.monotonic()
        report(record, total)


def rate(recipe: Recipe, progress: DeviceCheckpoint, num_steps: int) -> float:
    assert recipe.lr is not None
    within = progress.step / num_steps if recipe.lr_update == "step" else 0
    return learning_rate(recipe, recipe.lr, progress.epoch + within)
