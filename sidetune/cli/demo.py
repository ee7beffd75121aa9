"""`sidetune demo`: the main job on real input, in minutes on two CPU cores."""

from __future__ import annotations

import json
import tempfile
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated

import typer

from sidetune.cli.options import JSON, Overwrite

BACKBONE = "vit_small_patch14_dinov2.saliency"
METHODS = ("linear", "lora", "full", "dtl+")
EPOCHS = 6
TASKS = ("fashion-1k", "sprites-location")
K = 10
"""MIST's last tap: 5 N / 6, as validation images of both tasks choose."""


def demo_command(
    out: Annotated[Path, typer.Option(help="Folder of the report.")] = Path("demo-report"),
    overwrite: Overwrite = False,
    as_json: JSON = False,
) -> None:
    """Compare linear probe, LoRA, full fine-tuning, DTL+ and MIST on Fashion-1k and sprite location.

    MIST is trained as it is meant to be: the backbone in a service, the training in a process without PyTorch.
    """
    from sidetune.backbones import open_backbone
    from sidetune.cli.compare import show
    from sidetune.cli.pair import DEVICE, train_on_device
    from sidetune.cli.progress import ERR, progress
    from sidetune.data.sources import read_data
    from sidetune.methods import find_method
    from sidetune.recipe import Recipe
    from sidetune.runs.compare import compare
    from sidetune.runs.folder import ADAPTERS, output_folder
    from sidetune.runs.report import write_report

    start = time.perf_counter()
    backbone = open_backbone(BACKBONE, image_size=56)
    results = []
    with progress() as report, output_folder(out, {}, overwrite=overwrite):
        for name in TASKS:
            ERR.print(f"{name} on {BACKBONE} at 56 px")
            splits = read_data(name)
            comparison, models = compare(
                splits,
                backbone,
                {name: find_method(name) for name in METHODS},
                recipe=Recipe(epochs=EPOCHS, lr_update="step"),
                epochs={"full": 2},
                transform="vtab",
                out=out / ADAPTERS / name,
                report=report,
            )
            ERR.print("mist: a service and a device, as two processes")
            with tempfile.TemporaryDirectory() as work:
                row, model = train_on_device(
                    splits,
                    backbone,
                    k=K,
                    epochs=2 * EPOCHS,
                    precision="int8",
                    work=Path(work),
                    out=out / ADAPTERS / name / "mist",
                )
            comparison = replace(comparison, rows=(*comparison.rows, row))
            results.append((comparison, {**models, DEVICE: model}, splits.parts()["test"]))
        write_report(out, results)
    if as_json:
        print(json.dumps([asdict(comparison) for comparison, _, _ in results]))
        return
    for comparison, _, _ in results:
        show(comparison)
    print(f"{time.perf_counter() - start:.0f} s in all")
    print(f"report with pictures in {out / 'report.md'}, adapters in {out / ADAPTERS}")
