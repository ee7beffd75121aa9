"""`sidetune rerun`: what a result file tells of, carried out again."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from sidetune.cli.options import JSON


def rerun_command(
    result: Annotated[
        Path, typer.Argument(help="result.json (or the folder of a fit), or a comparison's results JSON.")
    ],
    out: Annotated[
        Path | None, typer.Option(help="Keep the runs in this folder; they are forgotten if not given.")
    ] = None,
    as_json: JSON = False,
) -> None:
    """Repeat the runs of a result file and say what differs; ends with 1 where a number does."""
    from sidetune.cli.progress import ERR, progress
    from sidetune.runs.again import read_runs, repeat

    formers = read_runs(result)
    rows, is_same = [], True
    with progress() as report:
        for number, former in enumerate(formers, start=1):
            ERR.print(f"{number}/{len(formers)}: {former.name}", markup=False)
            place = None if out is None else out / str(number) if len(formers) > 1 else out
            again = repeat(former, report, out=place)
            is_same &= not again.numbers
            rows.append({"run": former.name, "numbers": again.numbers, "origin": again.origin, "out": again.result.out})
    if as_json:
        print(json.dumps(rows))
    else:
        for row in rows:
            print(f"{row['run']}: {row['numbers'] or 'every number is the same'}")
            if row["origin"]:
                print(f"  it came from something else: {row['origin']}")
    if not is_same:
        raise typer.Exit(1)
