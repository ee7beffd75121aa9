"""The task that a command line asks for: `--task`, `--set task=NAME`, `--set task.NAME=VALUE`."""

from __future__ import annotations

from typing import TypeVar

from sidetune.cli.choices import Settings, Setup, changed
from sidetune.data.samples import Samples
from sidetune.tasks import Task, find_task, task_of

T = TypeVar("T", bound=Task)


def with_choices(task: T, choices: Settings) -> T:
    """The task with what was set. Raises ValueError for what its type does not have, and for classes."""
    if "classes" in choices.task:
        raise ValueError(
            "task.classes cannot be set: classes and their order are those of the data, which names of folders sort "
            "(1-low, 2-mid, 3-high). In Python any order may be given, sidetune.adapt(backbone, task=...(classes=...))"
        )
    return changed(task, choices.task)


def task_for(samples: Samples, setup: Setup, choices: Settings) -> Task:
    """The task that is asked for, on samples; that which they are for if none is named."""
    return with_choices(task_of(samples, setup.task), choices)


def task_without_data(num_classes: int, setup: Setup, choices: Settings) -> Task:
    """The task that is asked for, of so many classes; classification if none is named."""
    kind = find_task("classification" if setup.task == "auto" else setup.task)
    return with_choices(kind(classes=tuple(map(str, range(num_classes)))), choices)
