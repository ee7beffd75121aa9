"""Result files -> the runs that gave them, to be carried out again; and in what they come out otherwise."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from sidetune.errors import DataError
from sidetune.means import Means
from sidetune.runs.carry_out import RunReport, carry_out, other_images, ready
from sidetune.runs.compare import Comparison
from sidetune.runs.result import Result, differing
from sidetune.runs.run import Run
from sidetune.saved import from_saved
from sidetune.sealed import is_as_written, parsed
from sidetune.train.folder import RESULT


@dataclass(frozen=True, kw_only=True)
class Former:
    """A run that was carried out, and what was told of it."""

    name: str
    run: Run
    means: Means
    told: Mapping[str, Any]
    """Some of what `Result.as_dict` tells."""


@dataclass(frozen=True, kw_only=True)
class Again:
    result: Result
    numbers: str
    """In which numbers it differs from the former result, as 'name: before -> now'; '' where all are the same."""
    origin: str
    """In what the results came from: images, weights, means, machine, versions."""


def read_runs(path: Path) -> list[Former]:
    """The runs of a result file of `fit`, `compare` or `ablate`, or of the folder of a `fit`.

    Raises DataError for a file that is none, is damaged, or tells too little: those of earlier versions do.
    """
    path = path / "run" / RESULT if path.is_dir() else path
    if not path.is_file():
        raise DataError(f"there is no result at {path}; name a result.json, or a results.json of a comparison")
    told = parsed(path, "nothing can be repeated from it")
    if not is_as_written(path, told):
        raise DataError(f"{path} is damaged: it is not as it was written")
    match told.get("kind"):
        case "result":
            means = from_saved(Means, told["means"])
            return [Former(name=str(path), run=Run.from_dict(told["run"]), means=means, told=told)]
        case "comparison" if all(row.get("run") for row in told["rows"]):
            return list(of_comparison(Comparison.load(path), told))
    raise DataError(
        f"{path} does not tell all that it takes to repeat it: it is of an earlier version, or of another verb than "
        f"fit, compare and ablate"
    )


def of_comparison(c: Comparison, told: Mapping[str, Any]) -> list[Former]:
    origin = {name: told.get(name) for name in ("cpu", "gpu", "versions", "commit")}
    found = []
    for row in c.rows:
        for seed, history, number in zip(row.seeds, row.histories, row.accuracies, strict=True):
            run = Run.from_dict(row.run).with_seed(seed)
            numbers = {"losses": [e.loss for e in history], "scores": {c.scored_on: {c.metric: number}}}
            found.append(
                Former(
                    name=f"{row.method} (seed {seed})",
                    run=run,
                    means=row.recipe.means,
                    told={**origin, **numbers, "run": run.as_dict(), "means": asdict(row.recipe.means)},
                )
            )
    return found


def repeat(former: Former, report: RunReport | None = None, *, out: Path | None = None) -> Again:
    """Carry a run out again, on the images and weights that are there now, and tell what differs.

    Raises as `ready` does where they are gone.
    """
    having = ready(former.run, force=True)
    result = carry_out(former.run, former.means, report, having=having, out=out)
    numbers, origin = differing(former.told, result.as_dict())
    weights = having.model.card.identity != former.run.backbone.identity
    others = [other_images(former.run, having.splits), "the backbone's weights were changed" * weights, origin]
    return Again(result=result, numbers=numbers, origin="; ".join(filter(None, others)))
