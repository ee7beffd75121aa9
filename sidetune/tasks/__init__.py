"""What the adapted features are for: a head, a loss, a score, and what an answer looks like."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from sidetune.data.samples import NO_INSTANCES, Samples
from sidetune.errors import unknown
from sidetune.saved import from_saved
from sidetune.tasks.classification import Classification
from sidetune.tasks.detection import Detection
from sidetune.tasks.multilabel import Multilabel
from sidetune.tasks.regression import Regression
from sidetune.tasks.segmentation import Segmentation
from sidetune.tasks.task import Task

__all__ = [
    "TASKS",
    "Classification",
    "Detection",
    "Multilabel",
    "Regression",
    "Segmentation",
    "Task",
    "described",
    "find_task",
    "from_description",
]

TASKS: dict[str, type[Task]] = {
    "classification": Classification,
    "multilabel": Multilabel,
    "regression": Regression,
    "segmentation": Segmentation,
    "detection": Detection,
}


def find_task(name: str) -> type[Any]:
    """The task of a name. Raises ValueError for another."""
    if name == "instances" and name not in TASKS:
        raise ValueError(NO_INSTANCES)
    if name not in TASKS:
        hint = "one of your own is known once its module is imported (sidetune --import MODULE VERB ...)"
        raise ValueError(f"{unknown('task', name, TASKS)}; {hint}")
    return TASKS[name]


def name_of_task(task: Task) -> str:
    """Under which name a task's type stands in TASKS. Raises ValueError for one that does not."""
    for name, kind in TASKS.items():
        if type(task) is kind:
            return name
    raise ValueError(f"the task {type(task).__name__} has no name; put it into sidetune.TASKS")


def described(task: Task) -> dict[str, Any]:
    """For JSON: the classes, and the rest of what is not a plain classification's."""
    name, about = name_of_task(task), asdict(task)  # type: ignore[call-overload]
    classes = list(about.pop("classes"))
    is_plain = isinstance(task, Classification) and task == Classification(classes=task.classes)
    return {"classes": classes} | ({} if is_plain else {"task": {"name": name, **about}})


def from_description(about: Mapping[str, Any]) -> Task:
    """What `described` told."""
    told = dict(about.get("task") or {})
    kind = find_task(told.pop("name", "classification"))
    task: Task = from_saved(kind, {"classes": tuple(about["classes"]), **told})
    return task


def task_of(samples: Samples, name: str = "auto") -> Task:
    """The task of a name, or, `auto`, the one that samples are for."""
    task: Task = find_task(samples.task if name == "auto" else name)(classes=samples.classes)
    return task
