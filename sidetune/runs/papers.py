"""The DTL authors' choices for every data set of their experiments, by name."""

from __future__ import annotations

import csv
import difflib
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib.resources import files

from sidetune.backbones.sizes import Size
from sidetune.data.samples import Kind
from sidetune.errors import unknown
from sidetune.methods import Method
from sidetune.methods.dtl import DTL
from sidetune.recipe import Recipe

BACKBONES = {
    "vit_base_patch16_224_in21k": "vit_base_patch16_224.orig_in21k",
    "swin_base_patch4_window7_224_in22k": "swin_base_patch4_window7_224.ms_in22k",
}
"""The authors' names -> timm's today."""
TRANSFORMS = {"vtab": "vtab", "few_shot": "few-shot", "domain_generalization": "few-shot"}
"""For domain generalisation the authors name none; it is 16-shot training, so few-shot's."""
HALF = (0.5, 0.5, 0.5)


@dataclass(frozen=True, kw_only=True)
class PaperRun:
    """Everything that one run of the paper fixes."""

    backbone: str
    preset: str
    """The name of what `method` is a variant of."""
    method: Method
    recipe: Recipe
    transform: str
    mean: tuple[float, ...] = HALF
    std: tuple[float, ...] = HALF
    """Pixels are normalised to -1..1 in all of the DTL authors' runs."""
    rates: tuple[float, ...] = ()
    """Learning rates to choose from by validation, where the authors did."""
    targets: Kind = "classification"
    """What it is for."""
    task: Mapping[str, str] = field(default_factory=dict)
    """Choices of the task, as `--set task.NAME=VALUE` has them."""
    image_size: Size | None = None
    """Height and width; the backbone's own if None."""


@cache
def paper_runs() -> dict[str, PaperRun]:
    """All runs, named SUITE/DATASET[/SHOTS]/BACKBONE/METHOD: `vtab/cifar_100/vit/dtl+`."""
    with (files("sidetune.runs") / "dtl_recipes.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    runs = {}
    for row in rows:
        words = (row["suite"], row["dataset"], row["shots"], row["backbone"], row["method"].lower())
        name = "/".join(filter(None, words))
        runs[name] = PaperRun(
            backbone=BACKBONES[row["model"]],
            preset=row["method"].lower(),
            method=DTL(
                rank=int(row["rank"]),
                reads=blocks(row["read_blocks"]),
                first_write=blocks(row["write_blocks"])[0],
                beta=float(row["beta"]),
                fusion="depthwise" if int(row["dwconv_kernel"]) else "none",
                kernel=int(row["dwconv_kernel"]) or 3,
                lr=float(row["lr"]),
            ),
            recipe=Recipe(
                epochs=int(row["epochs"]),
                warmup_epochs=int(row["warmup_epochs"]),
                cooldown_epochs=10,
                batch_size=int(row["batch_size"]),
                lr=float(row["lr"]),
                weight_decay=float(row["weight_decay"]),
                drop_path=float(row["drop_path"]),
                keep="best" if row["suite"] == "few_shot" else "last",
                seed=42,
            ),
            transform=TRANSFORMS[row["suite"]],
        )
    return runs


def paper_run(name: str) -> PaperRun:
    """A run by name. Raises ValueError with the nearest names."""
    runs = paper_runs()
    if name not in runs:
        near = difflib.get_close_matches(name, runs, n=6, cutoff=0.3)
        raise unknown("recipe", name, [*near, f"... (`sidetune recipes` lists all {len(runs)})"])
    return runs[name]


def blocks(span: str) -> tuple[int, ...]:
    """'4-23', counted from 0, -> 5..24."""
    first, last = map(int, span.split("-"))
    return tuple(range(first + 1, last + 2))
