"""A feature service and a small device as two processes on this machine: what the demo trains MIST with."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from sidetune.backbones import Backbone
from sidetune.data.samples import Splits
from sidetune.errors import ServiceError, SidetuneError
from sidetune.measure.parameters import count
from sidetune.methods.mist import MIST
from sidetune.model import AdaptedModel, load
from sidetune.recipe import Recipe
from sidetune.runs.compare import Row
from sidetune.train.epoch import Epoch

DEVICE = "mist, on a device"
COMMAND = (sys.executable, "-c", "from sidetune.cli.entry import main; main()")


@contextmanager
def service(*words: object) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """`sidetune serve` with these options, on a free port unless they name one: the process and its address."""
    command = (*COMMAND, "serve", "--port", "0", "--set", "drain_timeout=0", *map(str, words))
    running = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    assert running.stderr is not None
    try:
        said = ""
        while (found := re.search(r"running on (https?://\S+)", said)) is None:
            if not (line := running.stderr.readline()):
                raise ServiceError(f"the service did not start: {said.strip()}")
            said += line
        yield running, found[1]
    finally:
        running.terminate()
        running.communicate()


def device(*words: str | Path) -> dict[str, Any]:
    """`sidetune edge ...` in a process of its own; its result."""
    one_thread_for_blas = {**os.environ, "OPENBLAS_NUM_THREADS": "1"}
    command = (*COMMAND, "edge", *map(str, words), "--json")
    ended = subprocess.run(command, capture_output=True, text=True, env=one_thread_for_blas)
    if ended.returncode:
        raise SidetuneError(f"the device stopped: {ended.stderr.strip()}")
    result: dict[str, Any] = json.loads(ended.stdout)
    return result


def write_images(splits: Splits, folder: Path) -> None:
    """The data as a folder of PNG files, PART/CLASS/NUMBER.png."""
    for part, samples in splits.parts().items():
        for i, label in enumerate(samples.labels):
            path = folder / part / samples.classes[label] / f"{i:05}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            samples.image(i).save(path)


def train_on_device(
    splits: Splits, backbone: Backbone, *, k: int, epochs: int, precision: str, work: Path, out: Path
) -> tuple[Row, AdaptedModel]:
    """Serve the backbone, enrol the images over HTTP, train without it, and load what came out.

    The row's memory is the largest resident set of the training process as a whole, Python included.
    """
    write_images(splits, work / "images")
    about: Sequence[str] = ("--backbone", backbone.card.name, "--image-size", str(backbone.card.image_size[0]))
    with service(*about, "--transform", "vtab") as (_, address):
        file = work / "features.sidetune"
        words: Sequence[str | Path] = ("--server", address, "--precision", precision, "--k", str(k))
        device("enroll", work / "images", "--out", file, "--in-flight", "16", *words)
    done = device("fit", file, "--out", out, "--k", str(k), "--epochs", str(epochs))
    model = load(out, backbone=backbone)
    history = tuple(Epoch(**epoch) for epoch in done["history"])
    row = Row(
        method=DEVICE,
        recipe=replace(Recipe(), epochs=epochs, lr=history[0].lr, lr_update="step"),
        parameters=count(model),
        frozen_depth=model.frozen_depth,
        peak_bytes=done["peak_bytes"],
        whole_process=True,
        seconds_per_epoch=sorted(e.seconds for e in history)[len(history) // 2],
        features_kept=True,
        accuracies=(done["accuracy"]["test"],),
        histories=(history,),
        choices={"type": MIST.__name__, "k": k, "precision": precision},
    )
    return row, model
