"""`sidetune search`: which sizes a method's parts should have on a user's images, within a number of parameters."""

from __future__ import annotations

import json
import shlex
from contextlib import ExitStack
from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated

import typer

from sidetune.cli.options import JSON, Overwrite, RecipesBackbone, Resume, Set, SkipBad, TaskName

SUPERNET_LR = 5e-4
"""The authors'; single sub-networks are trained at twice that."""


def search_command(
    context: typer.Context,
    data: Annotated[str, typer.Argument(help="Image folder, or a data set's name, as `sidetune fit` takes it.")],
    max_parameters: Annotated[int, typer.Option(help="Most trained parameters, the head not counted.", min=1)],
    method: Annotated[str, typer.Option(help="A method with sizes to search for.")] = "noah",
    backbone: RecipesBackbone = None,
    task: TaskName = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder of the search; runs/DATA-METHOD-search if not given.")
    ] = None,
    epochs: Annotated[int, typer.Option(help="Passes of the supernet over the training images.", min=1)] = 500,
    generations: Annotated[int, typer.Option(help="Of the evolution.", min=1)] = 15,
    population: Annotated[int, typer.Option(help="Sub-networks that a generation scores.", min=2)] = 50,
    recipe: Annotated[str | None, typer.Option(help="A paper's convention, see `sidetune recipes`.")] = None,
    settings: Set = [],  # noqa: B006
    resume: Resume = False,
    overwrite: Overwrite = False,
    skip_bad: SkipBad = False,
    as_json: JSON = False,
) -> None:
    """Train a supernet, search its sub-networks on validation images, and say how to train the best one."""
    from sidetune.atomic import write_text
    from sidetune.choose.evolution import Evolution
    from sidetune.cli.choices import changed, changed_recipe, check_names, opened, parse
    from sidetune.cli.data import read_checked, source_of
    from sidetune.cli.named import asked
    from sidetune.cli.progress import progress
    from sidetune.cli.resumable import words_given
    from sidetune.cli.tasks import task_for
    from sidetune.data.samples import split
    from sidetune.measure.machine import birth_certificate
    from sidetune.runs.folder import output_folder
    from sidetune.runs.sizes import search_sizes
    from sidetune.runs.trials import SHARE_FOR_VALIDATION
    from sidetune.tasks import described

    choices = parse(settings, task)
    start = asked(recipe, method, backbone, method)
    setup, choices = changed(start.setup, choices.setup), replace(choices, task={**start.task, **choices.task})
    supernets = replace(start.recipe, epochs=epochs, warmup_epochs=None, lr=SUPERNET_LR)
    supernets = changed_recipe(supernets, choices)
    chosen = changed(start.method, choices.method)
    check_names(start.backbone, setup)
    source = replace(source_of(data, setup, skip_bad=skip_bad), tune=True)
    with progress() as report, ExitStack() as held:
        splits = read_checked(source, report)
        train, val = splits.train, splits.val
        if val is None:
            train, val = split(train, SHARE_FOR_VALIDATION, supernets.seed)
        learned = task_for(train, setup, choices)
        transform = setup.preset(learned.targets)
        network = opened(start.backbone, setup)
        out = out or Path("runs") / f"{splits.name}-{method}-search"
        memo = held.enter_context(output_folder(out, words_given(context), resume=resume, overwrite=overwrite))
        found = search_sizes(
            network,
            chosen,
            train,
            val,
            max_parameters=max_parameters,
            recipe=supernets,
            evolution=Evolution.of(generations, population),
            transform=transform,
            task=learned,
            out=out / "supernet",
            resume=resume,
            overwrite=overwrite,
            memo=memo,
            report=report,
        )
    metric = found.metric
    best = {name: getattr(found.method, name) for name in asdict(found.subnet)}
    words = ["sidetune", "fit", data, *(["--recipe", recipe] if recipe else []), "--backbone", start.backbone]
    words += ["--method", method, *(["--task", task] if task else [])]
    for setting in (
        *(setting for setting in settings if not setting.startswith("recipe.")),
        *(f"method.{name}={','.join(map(str, sizes))}" for name, sizes in best.items()),
    ):
        words += ["--set", setting]
    result = {
        "kind": "search",
        **birth_certificate(),
        "data": splits.name,
        "num_images": {"train": len(train), "val": len(val)},
        "backbone": asdict(network.card),
        "transform": transform,
        "named_recipe": recipe,
        "max_parameters": max_parameters,
        "supernet": {"method": asdict(chosen), "recipe": asdict(supernets)},
        "subnet": best,
        "num_parameters": found.num_parameters,
        "task": described(learned),
        "metric": metric.key,
        "val_accuracy": found.val_accuracy,
        "scored": [
            {**asdict(s.candidate), "score": metric.ranked(s.score), "generation": s.generation} for s in found.scored
        ],
        "train_it": words,
    }
    write_text(out / "search.json", json.dumps(result, indent=1) + "\n")
    if as_json:
        print(json.dumps(result))
        return
    print(
        f"{len(found.scored)} sub-networks scored; of the best, with the supernet's weights, {metric.title} "
        f"{metric.told(found.val_accuracy)} on {len(val):,} images"
    )
    print(f"{found.num_parameters:,} trained parameters: {out / 'search.json'}")
    print(f"train it anew: {shlex.join(words)}")
