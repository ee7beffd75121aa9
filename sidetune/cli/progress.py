"""How far a run is: bars on a terminal, a line an epoch elsewhere. Goes to standard error."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from sidetune.tasks.metric import METRICS, Metric
from sidetune.train.epoch import Epoch

ERR = Console(stderr=True, soft_wrap=True, highlight=False)


def line(record: Epoch, num_epochs: int, metric: Metric) -> str:
    value = record.scored(metric.key)
    score = "" if value is None else f"  val {metric.title} {metric.told(value)}"
    where = f"epoch {record.epoch:>3}/{num_epochs}"
    return f"{where}  loss {record.loss:.4f}{score}  lr {record.lr:.1e}  {record.seconds:.1f} s"


class Lines:
    """For files and pipes."""

    def __init__(self) -> None:
        self.prefix, self.deciding = "", METRICS["accuracy"]
        self.said = time.monotonic()

    def method(self, name: str, seed: int) -> None:
        self.prefix = f"{name} (seed {seed})  "

    def metric(self, metric: Metric) -> None:
        self.deciding = metric

    def features(self, done: int, total: int) -> None:
        self.now_and_then(f"features of {done}/{total} images")

    def images(self, done: int, total: int) -> None:
        self.now_and_then(f"checked {done}/{total} images")

    def candidates(self, done: int, total: int) -> None:
        self.now_and_then(f"scored {done} of at most {total} sub-networks")

    def step(self, epoch: int, num_epochs: int, step: int, num_steps: int) -> None:
        pass

    def epoch(self, epoch: Epoch, num_epochs: int) -> None:
        ERR.print(self.prefix + line(epoch, num_epochs, self.deciding))

    def now_and_then(self, text: str) -> None:
        if time.monotonic() - self.said > 10:
            self.said = time.monotonic()
            ERR.print(text)


class Bars(Lines):
    """For terminals: one bar for what is going on, epochs scrolling by above it."""

    def __init__(self, bars: Progress) -> None:
        super().__init__()
        self.bars = bars
        self.task: TaskID | None = None
        self.shown = ""

    def show(self, what: str, done: int, total: int) -> None:
        if self.task is None or what != self.shown:
            if self.task is not None:
                self.bars.remove_task(self.task)
            self.task, self.shown = self.bars.add_task(what, total=total), what
        self.bars.update(self.task, completed=done, total=total)

    def features(self, done: int, total: int) -> None:
        self.show("frozen features", done, total)

    def images(self, done: int, total: int) -> None:
        self.show("checking images", done, total)

    def candidates(self, done: int, total: int) -> None:
        self.show("sub-networks", done, total)

    def step(self, epoch: int, num_epochs: int, step: int, num_steps: int) -> None:
        self.show(f"{self.prefix}training", (epoch - 1) * num_steps + step, num_epochs * num_steps)


@contextmanager
def progress() -> Iterator[Lines]:
    """The report of a run, fit for where standard error goes."""
    if not ERR.is_terminal:
        yield Lines()
        return
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    with Progress(*columns, console=ERR, transient=True) as bars:
        yield Bars(bars)
