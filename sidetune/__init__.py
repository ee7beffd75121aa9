"""Adapts large pretrained vision networks on hardware that could not fine-tune them.

    model = sidetune.adapt("vit_base_patch16_224.augreg_in21k", method="dtl+", num_classes=37)
    sidetune.fit(model, "pets/train")
    model.save_pretrained("pets-dtl")
    sidetune.load("pets-dtl").predict("dog.jpg")

Names are imported when first used, so that `import sidetune` works, and is quick, without PyTorch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from sidetune.errors import MissingExtra

if TYPE_CHECKING:
    from sidetune.backbones import Backbone, open_backbone
    from sidetune.choose.look import begin, prepare
    from sidetune.contract import check_method
    from sidetune.data.reading import Reading
    from sidetune.data.samples import Samples, Splits
    from sidetune.data.sources import read_data
    from sidetune.data.transforms import Transform
    from sidetune.export import export_onnx
    from sidetune.means import Means
    from sidetune.measure.plan import fit_budget, plan
    from sidetune.methods import METHODS, Adaptation, Method, SideNetwork
    from sidetune.model import AdaptedModel, adapt, load
    from sidetune.opening import check_family
    from sidetune.recipe import Recipe
    from sidetune.runs.compare import compare
    from sidetune.runs.conventions import CONVENTIONS, find_convention
    from sidetune.runs.papers import PaperRun, paper_run, paper_runs
    from sidetune.saving import Adapter
    from sidetune.seam.features import Features
    from sidetune.seam.taps import Need, Tap
    from sidetune.tasks import TASKS, Classification, Detection, Multilabel, Regression, Segmentation, Task
    from sidetune.tasks.metric import Metric
    from sidetune.train.evaluate import evaluate
    from sidetune.train.loop import fit

__version__ = "0.1.0"

__all__ = [
    "CONVENTIONS",
    "METHODS",
    "TASKS",
    "AdaptedModel",
    "Adapter",
    "Adaptation",
    "Backbone",
    "Classification",
    "Detection",
    "Features",
    "Means",
    "Method",
    "Metric",
    "Multilabel",
    "Need",
    "PaperRun",
    "Reading",
    "Recipe",
    "Regression",
    "Samples",
    "Segmentation",
    "SideNetwork",
    "Splits",
    "Tap",
    "Task",
    "Transform",
    "adapt",
    "begin",
    "check_family",
    "check_method",
    "compare",
    "evaluate",
    "export_onnx",
    "find_convention",
    "fit",
    "fit_budget",
    "load",
    "open_backbone",
    "paper_run",
    "paper_runs",
    "plan",
    "prepare",
    "read_data",
]

HOMES = {
    "sidetune.backbones": ("Backbone", "open_backbone"),
    "sidetune.contract": ("check_method",),
    "sidetune.data.sources": ("read_data",),
    "sidetune.data.reading": ("Reading",),
    "sidetune.data.samples": ("Samples", "Splits"),
    "sidetune.data.transforms": ("Transform",),
    "sidetune.export": ("export_onnx",),
    "sidetune.runs.compare": ("compare",),
    "sidetune.measure.plan": ("fit_budget", "plan"),
    "sidetune.methods": ("METHODS", "Adaptation", "Method", "SideNetwork"),
    "sidetune.opening": ("check_family",),
    "sidetune.model": ("AdaptedModel", "adapt", "load"),
    "sidetune.saving": ("Adapter",),
    "sidetune.seam.features": ("Features",),
    "sidetune.seam.taps": ("Need", "Tap"),
    "sidetune.tasks": ("TASKS", "Classification", "Detection", "Multilabel", "Regression", "Segmentation", "Task"),
    "sidetune.tasks.metric": ("Metric",),
    "sidetune.runs.conventions": ("CONVENTIONS", "find_convention"),
    "sidetune.train.evaluate": ("evaluate",),
    "sidetune.train.loop": ("fit",),
    "sidetune.means": ("Means",),
    "sidetune.runs.papers": ("PaperRun", "paper_run", "paper_runs"),
    "sidetune.choose.look": ("begin", "prepare"),
    "sidetune.recipe": ("Recipe",),
}


def __getattr__(name: str) -> object:
    for home, names in HOMES.items():
        if name in names:
            try:
                return getattr(importlib.import_module(home), name)
            except ModuleNotFoundError as e:
                if (e.name or "").startswith("sidetune"):
                    raise
                raise MissingExtra(f"sidetune.{name} (which imports {e.name})", "train") from e
    raise AttributeError(f"module 'sidetune' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
