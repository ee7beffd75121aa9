"""`sidetune plan`: what a run will take, before it is started."""

from __future__ import annotations

import json
import re
from dataclasses import astuple, fields
from typing import TYPE_CHECKING, Annotated

import typer

from sidetune.cli.options import JSON, Backbone, MemoryBudget, NumClasses, Set, TaskName

if TYPE_CHECKING:
    from sidetune.measure.plan import Plan


def plan_command(
    backbone: Backbone = "vit_base_patch16_224.augreg_in21k",
    method: Annotated[str, typer.Option(help="See `sidetune methods`.")] = "dtl+",
    task: TaskName = None,
    num_classes: NumClasses = 100,
    images: Annotated[
        int, typer.Option(help="Size of the data set, for what a store of features takes.", min=1)
    ] = 1000,
    memory_budget: MemoryBudget = None,
    settings: Set = [],  # noqa: B006
    as_json: JSON = False,
) -> None:
    """Memory of a training step by what it is made of, operations, disk for features; computes nothing."""
    import torch

    from sidetune.backbones import open_backbone
    from sidetune.cli.choices import Setup, changed, changed_recipe, parse
    from sidetune.cli.tasks import task_without_data
    from sidetune.measure.plan import fit_budget, largest_batch, plan, told
    from sidetune.methods import find_method
    from sidetune.model import adapt
    from sidetune.recipe import Recipe
    from sidetune.tasks import name_of_task

    choices = parse(settings, task)
    setup, recipe = changed(Setup(), choices.setup), changed_recipe(Recipe(), choices)
    learned = task_without_data(num_classes, setup, choices)
    with torch.device("meta"):
        shape = setup.architecture or backbone  # a weights file's shape is its architecture's
        opened = open_backbone(shape, image_size=setup.image_size, pretrained=False)
        model = adapt(opened, changed(find_method(method), choices.method), task=learned)
    largest = None
    if memory_budget is not None:
        budget = parse_bytes(memory_budget)
        recipe, _ = fit_budget(model, recipe, budget)
        largest = largest_batch(model, recipe, budget)
    found = plan(model, recipe)
    if as_json:
        store = {"images": images, "store_bytes": images * found.features_bytes, "largest_batch": largest}
        about = {"method": method, "task": name_of_task(learned), "num_classes": num_classes}
        print(json.dumps({**found.as_dict(), **about, **store}))
        return
    show(found, f"{method} for {name_of_task(learned)}", images)
    if largest is not None:
        ways = told(recipe) or "nothing has to be saved"
        print(f"within {memory_budget}: {ways}; the largest batch that fits this way is {largest:,}")


def show(p: Plan, method: str, images: int) -> None:
    height, width = p.image_size
    print(f"{method} on {p.backbone}, {height} x {width} px, batch {p.batch_size}, {p.precision}")
    print(
        f"{p.frozen_depth} of {p.num_blocks} blocks frozen; {p.parameters.trainable:,} trained parameters + "
        f"{p.parameters.head:,} of the head\n"
    )
    print("memory of a training step at its peak, features on the fly")
    peak = p.memory.peak
    for name, size in zip((f.name for f in fields(p.memory)), astuple(p.memory), strict=True):
        print(f"  {name:<12}{size / 2**20:>10,.1f} MiB  {'█' * round(40 * size / peak)}".rstrip())
    print(f"  {'peak':<12}{peak / 2**20:>10,.1f} MiB\n")
    o = p.operations
    print("multiply-adds of a step, an image (in 10^9)")
    print(f"  frozen prefix {o.prefix / 1e9:.2f}, suffix {o.suffix / 1e9:.2f}, backward {o.backward / 1e9:.2f}")
    print(f"  on the fly {o.on_the_fly / 1e9:.2f}, from kept features {o.from_features / 1e9:.2f}\n")
    if p.features_bytes:
        whole = images * p.features_bytes
        print(f"features: {p.features_bytes / 2**20:.3f} MiB an image, {whole / 2**30:.2f} GiB for {images:,} images")


def parse_bytes(text: str) -> int:
    """`2GiB`, `800 MiB`, `1.5GB` -> bytes. Raises ValueError for another form."""
    units = {"b": 1} | {p + u: b**n for n, p in enumerate("kmgt", 1) for u, b in (("ib", 1024), ("b", 1000))}
    found = re.fullmatch(r"\s*([\d.]+)\s*([kmgt]?i?b)\s*", text.lower())
    if not found or found[2] not in units:
        raise ValueError(f"an amount of memory is a number and a unit, such as 2GiB or 800MiB, got {text!r}")
    return int(float(found[1]) * units[found[2]])
