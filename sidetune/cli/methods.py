"""`sidetune methods` and `sidetune recipes`: what there is to choose from."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated

import typer

from sidetune.cli.options import JSON

if TYPE_CHECKING:
    from sidetune.recipe import Recipe


def methods_command(as_json: JSON = False) -> None:
    """Which method works on which family of backbones, and why not where not."""
    from rich.console import Console
    from rich.table import Table

    from sidetune.methods.matrix import family_names, matrix, summary_of

    table, names = matrix(), family_names()
    if as_json:
        print(json.dumps(table))
        return
    shown = Table("method", "what is trained", *names)
    reasons: dict[str, str] = {}
    for name, by_family in table.items():
        marks = []
        for family in names:
            reason = by_family[family]
            marks.append("yes" if reason is None else "-")
            if reason:
                reasons[f"{name} on {family}"] = reason
        shown.add_row(name, summary_of(name), *marks)
    console = Console()
    console.print(shown)
    for pair, reason in reasons.items():
        console.print(f"{pair}: {reason}", highlight=False)


def recipes_command(
    match: Annotated[str, typer.Argument(help="Show only names that hold this.")] = "", as_json: JSON = False
) -> None:
    """The authors' choices for the papers' data sets, by the names that `fit --recipe` takes."""
    from dataclasses import asdict

    from sidetune.methods.dtl import DTL
    from sidetune.runs.conventions import conventions
    from sidetune.runs.papers import paper_runs

    chosen = {name: convention for name, convention in conventions() if match in name}
    runs = {name: run for name, run in paper_runs().items() if match in name}
    if as_json:
        everything = {name: asdict(c) for name, c in chosen.items()} | {name: asdict(run) for name, run in runs.items()}
        print(json.dumps(everything))
        return
    for name, convention in chosen.items():
        own = "".join(f", {preset} {key} {v:g}" for preset, c in convention.choices.items() for key, v in c.items())
        print(f"{name}: {convention.backbone}, {convention.transform}, {told(convention.recipe)}{own}")
    for name, run in runs.items():
        csn = run.method
        kernel = f", kernel {csn.kernel}" if isinstance(csn, DTL) and csn.fusion != "none" else ""
        print(f"{name}: {told(run.recipe)}{kernel}")


def told(recipe: Recipe) -> str:
    rate = "the method's lr" if recipe.lr is None else f"lr {recipe.lr:g}"
    return f"{rate}, drop path {recipe.drop_path:g}"
