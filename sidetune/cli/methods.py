"""`sidetune methods` and `sidetune recipes`: what there is to choose from."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from sidetune.cli.options import JSON


def methods_command(as_json: JSON = False) -> None:
    """Which method works on which family of backbones, and why not where not."""
    from rich.console import Console
    from rich.table import Table

    from sidetune.methods.matrix import FAMILY_NAMES, matrix, summary_of

    table = matrix()
    if as_json:
        print(json.dumps(table))
        return
    shown = Table("method", "what is trained", *FAMILY_NAMES)
    reasons: dict[str, str] = {}
    for name, by_family in table.items():
        marks = []
        for family in FAMILY_NAMES:
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

    from sidetune.train.papers import paper_runs

    runs = {name: run for name, run in paper_runs().items() if match in name}
    if as_json:
        print(json.dumps({name: asdict(run) for name, run in runs.items()}))
        return
    for name, run in runs.items():
        kernel = f", kernel {run.method.kernel}" if run.method.fusion != "none" else ""
        print(f"{name}: lr {run.recipe.lr:g}, drop path {run.recipe.drop_path:g}{kernel}")
