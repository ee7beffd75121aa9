"""What whole papers fix and differ in from each other: named, so that methods are compared under one of them.

A convention is a checkpoint, a normalisation, a resize, a pooling, an optimiser with its schedule, a rule of
selection, and which form of a method a name means (LoRA on q and v apart or fused, Adapter with one start or the
other). Any method can be run under any convention. `NAME/DATASET` adds what the paper's authors chose for a data set
of VTAB-1k.

No convention selects by test accuracy: where the authors took the best test epoch, the last one is kept here.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from importlib.resources import files

from sidetune.backbones.sizes import Size
from sidetune.data.samples import Kind
from sidetune.errors import unknown
from sidetune.heads.linear import HeadStart
from sidetune.methods import find_method
from sidetune.recipe import Recipe
from sidetune.runs.papers import HALF, PaperRun, paper_run

IN21K = "vit_base_patch16_224.orig_in21k"
AUGREG = "vit_base_patch16_224.augreg_in21k"
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)

NOAHS = Recipe(batch_size=64, lr=1e-3, weight_decay=1e-4, warmup_lr=1e-6, min_lr=1e-5, drop_path=0.1)
"""100 epochs of AdamW, a tenth of them warm-up; NOAH's repository, which FacT, SPT and others started from."""

ADE20K = Recipe(
    epochs=127,
    batch_size=16,
    lr=6e-5,
    weight_decay=0.01,
    warmup_epochs=1500 * 16 / 20_210,
    warmup_lr=1e-6,
    min_lr=0.0,
    schedule="poly",
    lr_update="step",
)
"""mmsegmentation's schedule of 160,000 steps in epochs of 20,210 images, so that it fits other sets; 1,500 warm up."""


@dataclass(frozen=True, kw_only=True)
class Convention:
    source: str
    """Whose it is, and what in it is not reproduced here."""
    method: str
    """The preset that is trained if none is named."""
    backbone: str
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD
    in_halves: tuple[str, ...] = ()
    """Presets whose pixels are normalised to -1..1 instead."""
    transform: str = "vtab"
    pool: str = "token"
    head_start: HeadStart = "normal"
    recipe: Recipe
    rates: tuple[float, ...] = ()
    """Learning rates that the authors chose from by validation; `--lr auto` tries them."""
    selection: str
    """What the authors' numbers are of."""
    forms: Mapping[str, str] = field(default_factory=dict)
    """What a preset's name means here."""
    choices: Mapping[str, Mapping[str, object]] = field(default_factory=dict)
    """Changes of presets' fields."""
    targets: Kind = "classification"
    """What it is for. Heads other than classification's have no pooling and no start of their own."""
    task: Mapping[str, str] = field(default_factory=dict)
    """Choices of the task, as `--set task.NAME=VALUE` has them."""
    image_size: Size | None = None
    """Height and width; the backbone's own if None."""

    def run(self, method: str | None = None) -> PaperRun:
        """Everything that a run of one method fixes. Raises ValueError for an unknown preset."""
        name = method or self.method
        preset = self.forms.get(name, name)
        halved = preset in self.in_halves
        of_head = {"pool": self.pool, "head_start": self.head_start} if self.targets == "classification" else {}
        return PaperRun(
            backbone=self.backbone,
            preset=preset,
            method=find_method(preset, **of_head, **self.choices.get(preset, {})),
            recipe=self.recipe,
            transform=self.transform,
            mean=HALF if halved else self.mean,
            std=HALF if halved else self.std,
            rates=self.rates,
            targets=self.targets,
            task=self.task,
            image_size=self.image_size,
        )


CONVENTIONS: dict[str, Convention] = {
    "dtl-aaai24": Convention(
        source="Fu et al., AAAI 2024; rates and drop path by data set are in the runs named vtab/DATASET/...",
        method="dtl+",
        backbone=IN21K,
        mean=HALF,
        std=HALF,
        pool="mean",
        recipe=Recipe(cooldown_epochs=10, drop_path=0.1, seed=42),
        selection="the last epoch",
    ),
    "noah": Convention(
        source="Zhang et al., 2022; their prompts also have position embeddings, which is another way to write them",
        method="adapter",
        backbone=IN21K,
        in_halves=("vpt-deep", "vpt-shallow"),
        recipe=NOAHS,
        selection="not said",
        forms={"lora": "lora-fused"},
        choices={name: {"dropout": 0.1} for name in ("vpt-deep", "vpt-shallow", "adapter", "lora-fused")},
    ),
    "vpt": Convention(
        source="Jia et al., 2022; rate and weight decay are grids there, weight decay {1e-2, 1e-3, 1e-4, 0}",
        method="vpt-deep",
        backbone=IN21K,
        recipe=Recipe(
            optimizer="sgd",
            batch_size=64,
            lr=0.625,
            weight_decay=1e-3,
            warmup_lr=0,
            min_lr=0,
            seed=42,
        ),
        head_start="kaiming",
        rates=tuple(base * 64 / 256 for base in (50, 25, 10, 5, 2.5, 1, 0.5, 0.25, 0.1, 0.05)),
        selection="rates by the 200 validation images, then five seeds on all 1,000",
        forms={"adapter": "adapter-vpt"},
    ),
    "ssf": Convention(
        source="Lian et al., 2022: a stronger checkpoint than the others'",
        method="ssf",
        backbone=AUGREG,
        mean=HALF,
        std=HALF,
        transform="vtab-crop",
        recipe=Recipe(lr=5e-3, weight_decay=5e-5, cooldown_epochs=10),
        selection="the best test epoch",
    ),
    "fact": Convention(
        source="Jie and Deng, AAAI 2023; the scale is chosen from {0.01, 0.1, 1, 10, 100}",
        method="fact-tt",
        backbone=IN21K,
        recipe=replace(NOAHS, seed=42),
        selection="the best test accuracy of every tenth epoch",
    ),
    "spt": Convention(
        source="He et al., ICCV 2023",
        method="spt-lora",
        backbone=IN21K,
        recipe=NOAHS,
        selection="the best of five budgets",
    ),
    "arc": Convention(
        source="Dong et al., 2023",
        method="arc",
        backbone=IN21K,
        head_start="zero",
        recipe=Recipe(lr=1e-2, weight_decay=0.0, clip_grad=1.0),
        selection="the best test epoch",
    ),
    "rlrr": Convention(
        source="Dong et al., CVPR 2024; what they call drop path drops single activations",
        method="rlrr",
        backbone=IN21K,
        mean=HALF,
        std=HALF,
        recipe=Recipe(lr=1e-3, weight_decay=5e-5, cooldown_epochs=10, drop_path=0.1),
        selection="the best test epoch",
    ),
    "ade20k-upernet": Convention(
        source="Swin's and Mona's configurations for mmsegmentation, which DTLv2's tables take over: 160,000 steps of "
        "16 crops, which are 127 epochs of ADE20K's 20,210 images. Mona's own rows ran at 3e-4 and drop path 0.2 there",
        method="dtlv2",
        backbone="swin_large_patch4_window7_224.ms_in22k",
        transform="scene",
        recipe=replace(ADE20K, drop_path=0.3),
        selection="the last step",
        choices={name: {"rank": 192} for name in ("dtl+", "dtlv2", "dtlv2-ls")},
        targets="segmentation",
        task={"decoder": "upernet", "width": "512", "norm": "batch"},
        image_size=(512, 512),
    ),
    "ade20k-segformer": Convention(
        source="SegFormer's configuration for mmsegmentation, which MIST's table takes over: the decoder at ten times "
        "the rate. MiT's weights are under a licence for research alone; pass their file as --backbone",
        method="mist",
        backbone="mit_b4",
        transform="scene",
        recipe=replace(ADE20K, drop_path=0.1, head_rate=10.0),
        selection="the last step",
        targets="segmentation",
        task={"decoder": "segformer", "width": "256", "norm": "batch"},
        image_size=(512, 512),
    ),
}


@cache
def by_dataset() -> dict[str, Convention]:
    """All conventions with what was chosen for one data set put in, named `ssf/cifar_100`."""
    with (files("sidetune.runs") / "baseline_recipes.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    found: dict[str, Convention] = {}
    for row in rows:
        name = f"{row['convention']}/{row['dataset']}"
        before = found.get(name, CONVENTIONS[row["convention"]])
        numbers = {key: float(row[key]) for key in ("lr", "weight_decay", "drop_path") if row[key]}
        own = dict(pair.split("=") for pair in row["choices"].split())
        choices = {row["method"]: {key: whole_or_real(value) for key, value in own.items()}} if own else {}
        found[name] = replace(
            before,
            recipe=replace(before.recipe, **numbers),  # type: ignore[arg-type]
            transform=row["transform"] or before.transform,
            choices={**before.choices, **choices},
        )
    return found


def whole_or_real(text: str) -> int | float:
    return int(text) if text.isdigit() else float(text)


def conventions() -> Iterator[tuple[str, Convention]]:
    """Every name that `find_convention` takes."""
    yield from CONVENTIONS.items()
    yield from by_dataset().items()


def find_convention(name: str) -> Convention:
    """A convention by name, or one with a data set's choices (`noah`, `ssf/cifar_100`).

    Raises ValueError with the known names.
    """
    if name in CONVENTIONS:
        return CONVENTIONS[name]
    convention = name.partition("/")[0]
    known = [known for known in by_dataset() if known.startswith(f"{convention}/")]
    if name not in known:
        raise unknown("recipe", name, known or CONVENTIONS)
    return by_dataset()[name]


def named_run(name: str, method: str | None = None) -> PaperRun:
    """What `fit --recipe NAME` fixes: a convention's run of `method` (its own if None), or a run of the DTL papers.

    Raises ValueError for unknown names, and for a method beside a run that names its own.
    """
    if name.partition("/")[0] in CONVENTIONS:
        return find_convention(name).run(method)
    if "/" not in name:
        raise unknown("recipe", name, [*CONVENTIONS, "... (`sidetune recipes` lists all)"])
    run = paper_run(name)
    if method not in (None, run.preset):
        raise ValueError(f"{name} is a run of {run.preset}; leave out the method, or choose a convention without one")
    return run
