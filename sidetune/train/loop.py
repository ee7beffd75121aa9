"""The training loop: epochs over batches, a checkpoint after each, the same numbers for the same seed."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import torch
from accelerate import Accelerator
from accelerate.utils import set_seed
from torch import Tensor, nn
from torch.amp.grad_scaler import GradScaler
from torch.utils.data import Dataset

from sidetune.choose.look import begin
from sidetune.data.dataset import ImageDataset
from sidetune.data.sources import read_training
from sidetune.datasets import Data, Targets, as_dataset, is_unnamed, sized
from sidetune.errors import Interrupted, NonFiniteLoss
from sidetune.locked import worked_on
from sidetune.means import Means
from sidetune.model import AdaptedModel
from sidetune.recipe import Precision, Recipe
from sidetune.seam.features import Features
from sidetune.store import Kept
from sidetune.tasks import described
from sidetune.tasks.metric import Metric, decided, metric_of
from sidetune.train.batches import evaluation_batches, training_batches
from sidetune.train.checkpoint import Checkpoint, RunFolder
from sidetune.train.epoch import Epoch
from sidetune.train.evaluate import check_metric, score
from sidetune.train.kept import keep
from sidetune.train.logs import TensorBoard
from sidetune.train.optimizer import make_optimizer, set_lr
from sidetune.train.precision import TYPES, resolve
from sidetune.train.schedule import learning_rate, num_epochs
from sidetune.train.step import backward, can_be_cut, save_memory


class Report(Protocol):
    """Who is told how far a run is; the command line draws bars or writes lines."""

    def features(self, done: int, total: int) -> None: ...
    def step(self, epoch: int, num_epochs: int, step: int, num_steps: int) -> None: ...
    def epoch(self, epoch: Epoch, num_epochs: int) -> None: ...


class Silent:
    """Tells nobody."""

    def features(self, done: int, total: int) -> None:
        pass

    def step(self, epoch: int, num_epochs: int, step: int, num_steps: int) -> None:
        pass

    def epoch(self, epoch: Epoch, num_epochs: int) -> None:
        pass

    def metric(self, metric: Metric) -> None:
        pass


@dataclass(frozen=True, kw_only=True)
class Fit:
    """What a run came to."""

    history: tuple[Epoch, ...]
    kept_epoch: int
    """The epoch, counted from 1, whose parameters the model now has."""
    num_found: int
    """Epochs that were done already when the run was gone on with."""
    features_kept: bool
    """Whether the frozen half ran once rather than every epoch."""
    features_seconds: float
    """What that one pass took."""
    precision: Precision


def fit(
    model: AdaptedModel,
    train: Data,
    *,
    val: Data | None = None,
    recipe: Recipe | None = None,
    means: Means | None = None,
    out: str | Path | None = None,
    store: str | Path | None = None,
    resume: bool = False,
    overwrite: bool = False,
    report: Report | None = None,
    about: Mapping[str, Any] | None = None,
) -> Fit:
    """Train a model in place on samples, any torch data set of (image, label), or what `sidetune fit` takes: an image
    folder, a folder with file lists, a data set's name. Of those with several parts, the training images are trained on
    and the validation images validated on, unless `val` is given; a folder of classes is trained on whole.

    `recipe` decides the result, `means` (the recipe's, if not given) fit the run to this machine.

    With `out`, a checkpoint is written there after every epoch and the model at the end; a stopped run goes on with
    `resume`, by other means too; `about` is kept with what it was asked to do. With
    `store`, features of the frozen half are kept on disk there, where later runs find them. Uses the GPU if there is
    one, and all processes of `accelerate launch` or `torchrun`.

    Raises DataError for data that does not fit and for a damaged run, ValueError for choices that do not go together
    and, before anything is trained, for a metric that the task's score does not have, RunExists if `out` already holds
    a run, another than is to be resumed, or files of others, InUse while another process works on it, NonFiniteLoss if
    the loss becomes NaN or infinite and Interrupted at Ctrl-C (both leave the last checkpoint), NoSpace before a full
    disk.
    """
    recipe, report = recipe or Recipe(), report or Silent()
    recipe = recipe if means is None else replace(recipe, means=means)
    accelerator = Accelerator(mixed_precision="no")  # precision is handled here, in plain sight
    precision = resolve(recipe.precision, accelerator.device)
    recipe = replace(recipe, lr=recipe.lr or model.method.lr)
    if isinstance(train, (str, Path)):
        train, beside = read_training(train, None if is_unnamed(model) else model.classes, model.task.targets)
        val = beside if val is None else val
    train_set = as_dataset(train, model, training=True)
    if recipe.keep == "best" and val is None:
        raise ValueError("keep='best' chooses by validation images; pass val= (--set tune=true), or keep='last'")
    val_set = None if val is None else as_dataset(val, model, training=False)
    model.task = model.task.begin(Targets(train_set))
    check_metric(model)
    model.recipe = recipe
    if recipe.means.micro_batch is not None and not can_be_cut(model):
        raise ValueError(
            "micro_batch does not go with trained BatchNorms, whose statistics are a whole batch's; "
            "use a smaller batch_size instead"
        )
    model.suffix.set_drop_path(recipe.drop_path)
    save_memory(model, recipe)
    model.hold(TYPES[precision], accelerator.device, weights=recipe.weights)
    if recipe.means.compile:
        model.compile_halves()
    alone: AbstractContextManager[None] = (
        worked_on(Path(out)) if out is not None and accelerator.is_main_process else nullcontext()
    )
    with alone:
        folder, progress = None, None
        if out is not None:
            folder = RunFolder(Path(out), writes=accelerator.is_main_process)
            with accelerator.main_process_first():
                asked = request_of(model, recipe, train_set, val_set)
                about = {**(about or {}), "means": asdict(recipe.means)}
                progress = folder.start(asked, resume=resume, overwrite=overwrite, about=about)
        try:
            if progress is None:
                begin(model, train_set, recipe.seed)
            kept_in = None if store is None else Path(store)
            run = Training(model, recipe, precision, accelerator, report, folder, kept_in)
            return run(train_set, val_set, progress)
        except KeyboardInterrupt as e:
            hint = f"; go on with --resume (resume=True), {out} keeps the last finished epoch" if out else ""
            raise Interrupted(f"stopped{hint}") from e


def request_of(
    model: AdaptedModel, recipe: Recipe, train: Dataset[Any], val: Dataset[Any] | None = None
) -> dict[str, Any]:
    """What decides a run's result, for telling whether a run may be resumed: validation images where they choose."""
    digests = {"train": digest_of_images(train), "val": None if recipe.keep == "last" else digest_of_images(val)}
    return {
        "recipe": recipe.deciding(),
        "method": {"type": type(model.method).__name__, **asdict(model.method)},
        "backbone": model.card.described(),
        **described(model.task),
        "transform": asdict(model.transform),
        "num_train_images": len(sized(train)),
        "data": {part: digest for part, digest in digests.items() if digest is not None},
    }


def digest_of_images(data: Dataset[Any] | None) -> str | None:
    """Of images and labels; None for a data set of the caller's, which does not tell."""
    return data.samples.digest() if isinstance(data, ImageDataset) else None


class Training:
    """One run of `fit` on one process."""

    def __init__(
        self,
        model: AdaptedModel,
        recipe: Recipe,
        precision: Precision,
        accelerator: Accelerator,
        report: Report,
        folder: RunFolder | None,
        store: Path | None,
    ) -> None:
        assert recipe.lr is not None
        self.model, self.recipe, self.precision, self.accelerator = model, recipe, precision, accelerator
        self.report, self.folder, self.store, self.lr = report, folder, store, recipe.lr
        self.optimizer = make_optimizer(model, recipe, self.lr)
        self.scaler = GradScaler(accelerator.device.type, enabled=precision == "fp16")
        self.terms: dict[str, Tensor] = {}
        """The sums of an epoch's losses by name."""

    def __call__(self, train: Dataset[Any], val: Dataset[Any] | None, progress: Checkpoint | None) -> Fit:
        start = time.perf_counter()
        train = self.keep(train)
        val = None if val is None else self.keep(val)
        features_seconds = time.perf_counter() - start
        batches, order = training_batches(train, self.recipe, self.accelerator.num_processes)
        batches = self.accelerator.prepare_data_loader(batches)
        val_batches = None
        if val is not None:
            val_batches = self.accelerator.prepare_data_loader(evaluation_batches(val, self.recipe))
        parallel = self.accelerator.prepare_model(self.model) if self.accelerator.num_processes > 1 else self.model
        progress = self.restore(progress)
        num_found = len(progress.history)
        total = num_epochs(self.recipe)
        with TensorBoard(self.folder.path if self.folder and self.folder.writes else None) as board:
            for number in range(len(progress.history), total):
                order.epoch = number
                record = self.train_epoch(parallel, batches, number)
                if val_batches is not None:
                    val_score = dict(score(self.model, val_batches, self.accelerator).values)
                    decided(self.model.task, val_score)
                    record = replace(record, val_accuracy=val_score.get("accuracy"), val=val_score)
                self.close_epoch(progress, record)
                board.epoch(record)
                self.report.epoch(record, total)
        kept = total
        if progress.best is not None:
            self.model.load_trained(progress.best[1])
            kept = next(e.epoch for e in progress.history if self.rank(e) == progress.best[0])
        if self.folder and self.folder.writes:
            self.model.save_pretrained(self.folder.path.parent)
        self.accelerator.wait_for_everyone()
        self.model.eval()
        return Fit(
            history=tuple(progress.history),
            kept_epoch=kept,
            num_found=num_found,
            features_kept=isinstance(train, Kept),
            features_seconds=features_seconds if isinstance(train, Kept) else 0.0,
            precision=self.precision,
        )

    def restore(self, progress: Checkpoint | None) -> Checkpoint:
        """Put a checkpoint back, or begin."""
        if progress is None:
            return Checkpoint(history=[], trained={}, optimizer={}, scaler={})
        self.model.load_trained(progress.trained)
        self.optimizer.load_state_dict(progress.optimizer)
        self.scaler.load_state_dict(progress.scaler)
        return progress

    def keep(self, data: Dataset[Any]) -> Dataset[Any]:
        """The data set's features, where they can be kept, in place of its images."""
        share = self.accelerator.process_index / self.accelerator.num_processes
        kept = keep(self.model, data, self.recipe, self.compute, self.report.features, store=self.store, share=share)
        self.accelerator.wait_for_everyone()
        return kept

    def compute(self, images: Tensor) -> Features:
        features = self.model.features(images.to(self.accelerator.device))
        assert isinstance(features, Features)
        return features

    def train_epoch(self, model: nn.Module, batches: Iterable[tuple[Any, Tensor]], number: int) -> Epoch:
        """One pass over the training images; `number` counts from 0."""
        start = time.perf_counter()
        # Seeding each epoch apart makes it depend on nothing that a resumed run would have to restore.
        set_seed(hash((self.recipe.seed, number, self.accelerator.process_index)) % 2**32)
        self.model.train()
        num_steps = len(batches)  # type: ignore[arg-type]
        total = torch.zeros((), device=self.accelerator.device)
        self.terms = {}
        for step, (x, targets) in enumerate(batches):
            within = step / num_steps if self.recipe.lr_update == "step" else 0
            set_lr(self.optimizer, lr := learning_rate(self.recipe, self.lr, number + within))
            total += self.step(model, x, targets)
            if step % 16 == 0 or step + 1 == num_steps:  # looking at every loss would make a GPU wait
                self.check(total, number, step, num_steps)
            self.report.step(number + 1, num_epochs(self.recipe), step + 1, num_steps)
        loss = self.accelerator.reduce(total, "mean").item() / num_steps
        several = None
        if len(self.terms) > 1:
            several = {n: self.accelerator.reduce(t, "mean").item() / num_steps for n, t in self.terms.items()}
        return Epoch(epoch=number + 1, lr=lr, loss=loss, seconds=time.perf_counter() - start, losses=several)

    def step(self, model: nn.Module, x: Tensor | Features, targets: Tensor) -> Tensor:
        """One update; returns the loss."""
        parallel = model if model is not self.model else None
        try:
            loss = backward(
                self.model,
                x,
                targets,
                micro_batch=self.recipe.means.micro_batch,
                scaler=self.scaler,
                parallel=parallel,
                terms=self.terms,
            )
        except ValueError as e:
            if len(targets) > 1 or can_be_cut(self.model):
                raise
            raise ValueError(
                "trained BatchNorms want at least two values a channel, and this batch has one image; choose a "
                "batch_size of 2 or more, and as many images, or a method that leaves BatchNorms frozen"
            ) from e
        if self.recipe.clip_grad is not None:
            self.scaler.unscale_(self.optimizer)
            nn.utils.clip_grad_norm_(self.model.parameters(), self.recipe.clip_grad)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad(set_to_none=True)
        return loss

    def rank(self, record: Epoch) -> float | None:
        """How good an epoch is by the task's metric; larger is better, None without validation images."""
        metric = metric_of(self.model.task)
        return None if (value := record.scored(metric.key)) is None else metric.rank(value)

    def check(self, total: Tensor, number: int, step: int, num_steps: int) -> None:
        if math.isfinite(total.item()):
            return
        kept = f"; {self.folder.path} keeps epoch {number}" if self.folder and number else ""
        raise NonFiniteLoss(
            f"the loss became {total.item()} in epoch {number + 1}, at or before step {step + 1} of {num_steps} "
            f"(learning rate {self.lr:g}, {self.precision}){kept}. Try a lower lr, clip_grad=1, or precision='fp32'"
        )

    def close_epoch(self, progress: Checkpoint, record: Epoch) -> None:
        """Note an epoch down, in memory and on disk."""
        progress.history.append(record)
        if self.recipe.keep == "best" and (reached := self.rank(record)) is not None:
            if progress.best is None or reached > progress.best[0]:
                progress.best = reached, {n: t.cpu().clone() for n, t in self.model.trained().items()}
        if self.folder:
            progress.trained = {n: t.cpu() for n, t in self.model.trained().items()}
            if not all(t.isfinite().all() for t in progress.trained.values()):
                raise NonFiniteLoss(
                    f"trained parameters became NaN or infinite in epoch {record.epoch} (learning rate {self.lr:g}, "
                    f"{self.precision}); {self.folder.path} keeps what was before. Try a lower lr, or clip_grad=1"
                )
            progress.optimizer, progress.scaler = self.optimizer.state_dict(), self.scaler.state_dict()
            self.folder.save(progress)
