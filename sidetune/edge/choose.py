"""Which sum of taps to train on: a short run with each that the file holds, scored on validation images."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from sidetune.choose.rates import SHORTEST_TRIAL
from sidetune.edge.artefact import Choices
from sidetune.edge.features import FeatureFile
from sidetune.edge.trainer import fit
from sidetune.errors import DataError
from sidetune.recipe import Recipe
from sidetune.train.folder import Folder


def choose_k(
    path: Path,
    out: Path,
    *,
    choices: Choices,
    recipe: Recipe,
    resume: bool = False,
    overwrite: bool = False,
    threads: int = 1,
    report: Callable[[int, float], None] = lambda k, val_accuracy: None,
) -> int:
    """The k of best validation accuracy after a quarter of the recipe's epochs; the largest of those that are level.

    The runs are kept in `out/trials` and gone on with like any other. Raises as `fit` does, and DataError for a file
    without validation images.
    """
    Folder(out).check_free(resume=resume, overwrite=overwrite)
    with FeatureFile(path) as file:
        ks, num_val = file.header.ks, len(file.part("val"))
    if not num_val:
        raise DataError(f"{path} holds no validation images to choose k by; enrol a folder with val/, or give --k")
    short = replace(recipe, epochs=max(recipe.epochs // 4, min(SHORTEST_TRIAL, recipe.epochs)))
    scores = {}
    for k in ks:
        done = fit(
            path,
            out / "trials" / f"k-{k}",
            choices=replace(choices, k=k),
            recipe=short,
            resume=not overwrite,
            overwrite=overwrite,
            threads=threads,
            scored_on=["val"],
        )
        scores[k] = done.accuracy["val"]
        report(k, scores[k])
    return max(ks, key=lambda k: (scores[k], k))
