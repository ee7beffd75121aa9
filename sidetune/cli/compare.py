"""`sidetune compare`: several methods on the same data, as a table and a folder of pictures."""

from __future__ import annotations

import json
from contextlib import ExitStack
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sidetune.cli.options import (
    DEFAULT_BACKBONE,
    JSON,
    EachRate,
    Epochs,
    Overwrite,
    RecipesBackbone,
    Resume,
    Set,
    SkipBad,
    TaskName,
)

if TYPE_CHECKING:
    from sidetune.runs.compare import Comparison


def compare_command(
    context: typer.Context,
    data: Annotated[str, typer.Argument(help="Image folder, or fashion-1k, sprites-location, sprites-orientation.")],
    methods: Annotated[str, typer.Option(help="Names with commas between.")] = "linear,lora,dtl+",
    seeds: Annotated[int, typer.Option(help="How many seeds each method is trained with.", min=1)] = 1,
    backbone: RecipesBackbone = None,
    task: TaskName = None,
    epochs: Epochs = None,
    lr: EachRate = None,
    recipe_name: Annotated[
        str | None, typer.Option("--recipe", help="A paper's convention for all of them, see `sidetune recipes`.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Folder of the report; compare-DATA if not given.")] = None,
    settings: Set = [],  # noqa: B006
    resume: Resume = False,
    overwrite: Overwrite = False,
    skip_bad: SkipBad = False,
    as_json: JSON = False,
) -> None:
    """Train methods side by side: accuracy, trained parameters, peak memory, seconds."""
    from sidetune.cli.choices import Setup, changed, changed_recipe, check_names, opened, parse, several
    from sidetune.cli.data import read_checked, source_of
    from sidetune.cli.named import setup_of
    from sidetune.cli.progress import progress
    from sidetune.cli.resumable import words_given
    from sidetune.cli.tasks import task_for
    from sidetune.cli.trials import with_rates
    from sidetune.methods import find_method
    from sidetune.recipe import Recipe
    from sidetune.runs.compare import compare
    from sidetune.runs.conventions import find_convention
    from sidetune.runs.folder import ADAPTERS, output_folder
    from sidetune.runs.report import write_report

    choices = parse(settings, task)
    if choices.method:
        raise ValueError("method choices differ from method to method; register a preset of your own to compare it")
    setup, recipe, names, rates = Setup(), Recipe(), several(methods), None
    if recipe_name is None:
        chosen = {name: find_method(name) for name in names}
    else:
        runs = {name: find_convention(recipe_name).run(name) for name in names}
        chosen, run = {name: run.method for name, run in runs.items()}, runs[names[0]]
        if any(other.mean != run.mean for other in runs.values()):
            raise ValueError(f"{recipe_name} normalises pixels otherwise for some of {methods}; compare those apart")
        setup, recipe, choices = setup_of(run), run.recipe, replace(choices, task={**run.task, **choices.task})
        backbone, rates = backbone or run.backbone, run.rates or None
    setup, recipe = changed(setup, choices.setup), changed_recipe(recipe, choices, epochs=epochs, lr=lr)
    backbone = backbone or DEFAULT_BACKBONE
    check_names(backbone, setup)
    with progress() as report, ExitStack() as held:
        source = source_of(data, setup, skip_bad=skip_bad)
        splits = read_checked(source, report)
        learned = task_for(splits.train, setup, choices)
        transform = setup.preset(learned.targets)
        network = opened(backbone, setup)
        out = out or Path(f"compare-{splits.name}")
        memo = held.enter_context(output_folder(out, words_given(context), resume=resume, overwrite=overwrite))
        if lr == "auto":
            chosen = with_rates(network, chosen, recipe, splits, transform, report, rates, memo, learned)
        comparison, models = compare(
            splits,
            network,
            chosen,
            recipe=recipe,
            seeds=range(recipe.seed, recipe.seed + seeds),
            transform=transform,
            task=learned,
            source=source,
            named_recipe=recipe_name,
            out=out / ADAPTERS,
            memo=memo,
            report=report,
        )
        write_report(out, [(comparison, models, splits.parts()[comparison.scored_on])])
    if as_json:
        print(json.dumps(asdict(comparison)))
        return
    show(comparison)
    print(f"report in {out / 'report.md'}, adapters in {out / ADAPTERS}")


def show(comparison: Comparison) -> None:
    """The comparison as a table on standard output."""
    from rich.console import Console
    from rich.table import Table

    from sidetune.runs.report import cells, footnote, heading, headings

    table = Table(*headings(comparison.figure), title=heading(comparison), title_justify="left")
    for row in comparison.rows:
        table.add_row(*cells(row, comparison.figure))
    console = Console()
    console.print(table)
    console.print(footnote(comparison), highlight=False)
