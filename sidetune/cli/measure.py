"""`sidetune measure`: what methods take on a backbone, on this machine."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sidetune.cli.options import JSON, Backbone, NumClasses, Set, TaskName

if TYPE_CHECKING:
    from sidetune.measure.costs import Cost


def measure_command(
    backbone: Backbone = "vit_base_patch16_224.augreg_in21k",
    methods: Annotated[str, typer.Option(help="Names with commas between.")] = "linear,dtl,dtl+,lora,full",
    sweep: Annotated[
        str | None,
        typer.Option(help="A choice of the methods and its values: first_write=1,4,7,10.", metavar="NAME=..."),
    ] = None,
    task: TaskName = None,
    num_classes: NumClasses = 100,
    time: Annotated[bool, typer.Option(help="Also time steps and inference, on random pixels and weights.")] = True,
    out: Annotated[Path, typer.Option(help="Folder of the result file and the picture.")] = Path("measure-report"),
    settings: Set = [],  # noqa: B006
    as_json: JSON = False,
) -> None:
    """Parameters, memory of a training step by what it is made of, step time, images a second."""
    import torch

    from sidetune.backbones import open_backbone
    from sidetune.cli.choices import Setup, changed, changed_recipe, parse, several
    from sidetune.cli.progress import ERR
    from sidetune.cli.tasks import task_without_data
    from sidetune.measure.costs import cost, save_costs
    from sidetune.measure.plots import plot_memory
    from sidetune.methods import find_method
    from sidetune.recipe import Recipe
    from sidetune.train.precision import best_device

    choices = parse(settings, task)
    setup, recipe = changed(Setup(), choices.setup), changed_recipe(Recipe(), choices)
    learned = task_without_data(num_classes, setup, choices)
    presets = {name: find_method(name) for name in several(methods)}
    shape = setup.architecture or backbone  # costs are those of the shape, whatever the weights
    device = best_device()
    with torch.device("cpu" if time else "meta"):
        opened = open_backbone(shape, image_size=setup.image_size, pretrained=False)
    rows: list[Cost] = []
    for name, preset in presets.items():
        for label, change in values_of(sweep):
            method = changed(changed(preset, choices.method), change)
            rows.append(cost(f"{name}{label}", opened, method, learned, recipe, device, timed=time))
            ERR.print(f"{rows[-1].method}: {rows[-1].memory.peak / 2**20:,.0f} MiB")
    out.mkdir(parents=True, exist_ok=True)
    save_costs(rows, opened.card, learned, recipe, out / "costs.json")
    plot_memory({row.method: row.memory for row in rows}, out / "memory.png")
    if as_json:
        print(json.dumps([asdict(row) for row in rows]))
        return
    show(rows)
    print(f"numbers in {out / 'costs.json'}, memory drawn in {out / 'memory.png'}")


def values_of(sweep: str | None) -> list[tuple[str, dict[str, str]]]:
    """`rank=1,2` -> what is added to a method's name, and the change. Raises ValueError for another form."""
    if sweep is None:
        return [("", {})]
    from sidetune.cli.choices import several

    name, equals, values = sweep.partition("=")
    if not equals or not values:
        raise ValueError(f"--sweep takes NAME=VALUE,VALUE,..., got {sweep!r}")
    return [(f" {name}={value}", {name: value}) for value in several(values)]


def show(rows: list[Cost]) -> None:
    from rich.console import Console
    from rich.table import Table

    batches = list(rows[0].images_per_second)
    speeds = [f"images/s by {batch}" for batch in batches]
    table = Table("method", "trained", "peak MiB", "activations", "step s", "from features", *speeds)
    for row in rows:
        kept = row.step_seconds_from_features
        cells: list[Any] = [
            row.method,
            f"{row.parameters.trainable:,}",
            f"{row.memory.peak / 2**20:,.0f}",
            f"{row.memory.activations / 2**20:,.0f}",
            "" if row.step_seconds is None else f"{row.step_seconds:.3f}",
            "" if kept is None else f"{kept:.3f}",
            *(f"{speed:.1f}" for speed in row.images_per_second.values()),
        ]
        table.add_row(*cells)
    Console().print(table)
