"""`sidetune ablate`: variants of a method on the same data, drawn by what varies."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sidetune.cli.options import JSON, Backbone, EachRate, Epochs, Overwrite, Resume, Set, SkipBad, TaskName

if TYPE_CHECKING:
    from sidetune.methods import Method


def ablate_command(
    context: typer.Context,
    data: Annotated[str, typer.Argument(help="Image folder, or fashion-1k, sprites-location, sprites-orientation.")],
    study: Annotated[
        str,
        typer.Argument(help="A study of the papers (dtl-rank, mist-k, ...), or METHOD:CHOICE=VALUE,VALUE,..."),
    ],
    seeds: Annotated[int, typer.Option(help="How many seeds each variant is trained with.", min=1)] = 1,
    backbone: Backbone = "vit_base_patch16_224.augreg_in21k",
    task: TaskName = None,
    epochs: Epochs = None,
    lr: EachRate = None,
    out: Annotated[Path | None, typer.Option(help="Folder of the results; ablate-DATA-STUDY if not given.")] = None,
    settings: Set = [],  # noqa: B006
    resume: Resume = False,
    overwrite: Overwrite = False,
    skip_bad: SkipBad = False,
    as_json: JSON = False,
) -> None:
    """Train variants of a method side by side: accuracy and peak memory against what varies."""
    from sidetune.atomic import write_text
    from sidetune.cli.choices import Setup, changed, changed_recipe, check_names, opened, parse
    from sidetune.cli.compare import show
    from sidetune.cli.data import read_checked, source_of
    from sidetune.cli.progress import progress
    from sidetune.cli.resumable import words_given
    from sidetune.cli.tasks import task_for
    from sidetune.cli.trials import with_rates
    from sidetune.recipe import Recipe
    from sidetune.runs.compare import compare
    from sidetune.runs.folder import output_folder
    from sidetune.runs.plots import plot_study
    from sidetune.runs.report import markdown
    from sidetune.runs.studies import find_study

    choices = parse(settings, task)
    setup, recipe = changed(Setup(), choices.setup), changed_recipe(Recipe(), choices, epochs=epochs, lr=lr)
    own = varied(study) if ":" in study else None
    variants = find_study(study) if own is None else lambda _: own
    check_names(backbone, setup)
    with progress() as report, ExitStack() as held:
        source = source_of(data, setup, skip_bad=skip_bad)
        splits = read_checked(source, report)
        learned = task_for(splits.train, setup, choices)
        transform = setup.preset(learned.targets)
        network = opened(backbone, setup)
        methods = {label: changed(method, choices.method) for label, method in variants(network).items()}
        out = out or Path(f"ablate-{splits.name}-{study.partition('=')[0].replace(':', '-')}")
        memo = held.enter_context(output_folder(out, words_given(context), resume=resume, overwrite=overwrite))
        if lr == "auto":
            methods = with_rates(network, methods, recipe, splits, transform, report, None, memo, learned)
        comparison, _ = compare(
            splits,
            network,
            methods,
            recipe=recipe,
            seeds=range(recipe.seed, recipe.seed + seeds),
            transform=transform,
            task=learned,
            source=source,
            memo=memo,
            report=report,
        )
        comparison.save(out / "results.json")
        plot_study(comparison, study, out / "study.png")
        write_text(out / "report.md", f"# {study}\n\n![accuracy and memory](study.png)\n\n{markdown(comparison)}")
    if as_json:
        print(json.dumps(asdict(comparison)))
        return
    show(comparison)
    print(f"report in {out / 'report.md'}")


def varied(text: str) -> Mapping[str, Method]:
    """`dtl+:rank=1,2,4` -> the variants by value. Raises ValueError for another form, or unknown names."""
    from sidetune.cli.choices import changed, several
    from sidetune.methods import find_method

    name, _, rest = text.partition(":")
    choice, equals, values = rest.partition("=")
    if not equals or not values:
        raise ValueError(f"a study of your own is METHOD:CHOICE=VALUE,VALUE,... (dtl+:rank=1,2,4), got {text!r}")
    return {value: changed(find_method(name), {choice: value}) for value in several(values)}
