"""`sidetune analyze`: the journal's figures 5 and 6 for models of your own."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sidetune.cli.apply import BackboneFile, Force, labelled, open_model
from sidetune.cli.options import JSON, Overwrite, SkipBad

if TYPE_CHECKING:
    from sidetune.measure.analysis import Analysis, Plane


def analyze_command(
    models: Annotated[
        list[Path], typer.Argument(help="Folders of saved dtl or dtlv2 models; with and without a shared G to compare.")
    ],
    data: Annotated[str, typer.Argument(help="Labelled images, as `sidetune evaluate` takes them.")],
    part: Annotated[
        str | None, typer.Option(help="train, val, test or any folder beside these, where the data has parts.")
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder of the result file and the pictures.")] = Path("analysis"),
    backbone: BackboneFile = None,
    force: Force = False,
    overwrite: Overwrite = False,
    skip_bad: SkipBad = False,
    as_json: JSON = False,
) -> None:
    """How much neighbouring low-rank maps repeat, and what sharing G changes of what it gives."""
    from sidetune.atomic import write_text
    from sidetune.cli.data import checked
    from sidetune.cli.progress import progress
    from sidetune.datasets import as_dataset
    from sidetune.measure.analysis import analyze, projections
    from sidetune.measure.analysis_plots import plot_projections, plot_redundancy
    from sidetune.measure.machine import birth_certificate
    from sidetune.recipe import Recipe
    from sidetune.runs.folder import check_free
    from sidetune.train.batches import evaluation_batches

    numbers = out / "analysis.json"
    check_free(out, resume=False, overwrite=overwrite)
    analyses: dict[str, Analysis] = {}
    described: dict[str, dict[str, Any]] = {}
    with progress() as report:
        for folder in dict.fromkeys(models):
            loaded = open_model(folder, backbone, force)
            source, samples = labelled(folder, loaded, data, part)
            samples = checked(samples, report, skip_bad=skip_bad)
            found = analyze(loaded, evaluation_batches(as_dataset(samples, loaded, training=False), Recipe()))
            analyses[str(folder)] = found
            described[str(folder)] = {
                "backbone": asdict(loaded.card),
                "method": {"type": type(loaded.method).__name__, **asdict(loaded.method)},
                "reads": loaded.suffix.side.reads,
                "writes": loaded.suffix.side.writes,
                "data": source,
                "num_images": found.num_images,
                "mean_cosine": found.mean_cosine,
                "cosines": [asdict(pair) for pair in found.pairs],
            }
    panels = projections(analyses)
    out.mkdir(parents=True, exist_ok=True)
    plot_redundancy(analyses, out / "redundancy.png")
    plot_projections(panels, out / "fusion.png")
    sharing = [{"title": p.title, "explained": p.explained, "shifts": p.shifts} for p in panels]
    result = {"kind": "analysis", "models": described, "fusion": sharing, **birth_certificate()}
    write_text(numbers, json.dumps(result, indent=1) + "\n")
    if as_json:
        print(json.dumps(result))
        return
    show(analyses, panels)
    print(f"numbers in {numbers}, drawn in {out / 'redundancy.png'} and {out / 'fusion.png'}")


def show(analyses: Mapping[str, Analysis], panels: Sequence[Plane]) -> None:
    for name, analysis in analyses.items():
        if analysis.mean_cosine is None:
            print(f"{name}: no two low-rank maps in one stage")
        else:
            print(
                f"{name}: neighbouring low-rank maps have a cosine similarity of {analysis.mean_cosine:.2f} in the mean"
            )
    for panel in panels:
        if panel.shifts:
            moved = ", ".join(f"block {block} {shift:.2f}" for block, shift in panel.shifts.items())
            print(f"{panel.title}: moved by sharing, in spreads: {moved}")
