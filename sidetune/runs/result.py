"""What a run came to, with all that it takes to repeat it; and in what two results differ."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from sidetune.means import Means
from sidetune.measure.machine import birth_certificate
from sidetune.measure.parameters import Parameters
from sidetune.model import AdaptedModel
from sidetune.recipe import Precision
from sidetune.runs.run import Run
from sidetune.saving import describe
from sidetune.tasks.task import Score
from sidetune.train.epoch import Epoch
from sidetune.train.folder import differences

FORMAT = 3
"""2 and version 0.1, whose files have no number, do not tell of the run as a value."""
NUMBERS = ("epochs", "kept_epoch", "losses", "scores", "precision", "trained")
"""Of a result, what another carrying out of the run has to give again."""
ORIGIN = ("means", "cpu", "gpu", "versions", "commit")


@dataclass(frozen=True, kw_only=True)
class Result:
    run: Run
    means: Means
    history: tuple[Epoch, ...]
    num_found: int
    """Epochs that were done already when the run was gone on with."""
    kept_epoch: int
    """Counted from 1."""
    scores: Mapping[str, Score]
    """By part that is not trained on."""
    parameters: Parameters
    frozen_depth: int
    features_kept: bool
    """Whether the frozen half ran once rather than every epoch."""
    features_seconds: float
    precision: Precision
    trained: str
    """SHA-256 of the trained parameters."""
    model: AdaptedModel = field(repr=False, compare=False)
    out: str | None = None
    named_recipe: str | None = None
    """Whose choices the run follows."""

    def as_dict(self) -> dict[str, Any]:
        """For JSON: the numbers, the run and the means, the machine, versions and the command."""
        source = self.run.source
        return {
            "format": FORMAT,
            "kind": "result",
            "out": self.out,
            "named_recipe": self.named_recipe,
            "data": source and source.name,
            "layout": source and source.layout,
            "run": self.run.as_dict(),
            "digest": self.run.digest,
            "means": asdict(self.means),
            "epochs": len(self.history),
            "kept_epoch": self.kept_epoch,
            "losses": [epoch.loss for epoch in self.history],
            "accuracy": {part: score.values.get("accuracy") for part, score in self.scores.items()},
            "scores": {part: score.described() for part, score in self.scores.items()},
            "parameters": asdict(self.parameters),
            "frozen_depth": self.frozen_depth,
            "seconds": sum(e.seconds for e in self.history) + self.features_seconds,
            "precision": self.precision,
            "trained": self.trained,
            "model": describe(self.model),
            **birth_certificate(),
        }


def differing(before: Mapping[str, Any], now: Mapping[str, Any]) -> tuple[str, str]:
    """In which numbers two results differ, and in what they came from, each as 'name: before -> now'; nothing where all
    is the same. What `before` does not tell is not compared."""
    now = json.loads(json.dumps(now))

    def told(names: tuple[str, ...]) -> str:
        known = [name for name in names if name in before]
        return differences({n: before[n] for n in known}, {n: only(now[n], before[n]) for n in known})

    return told(NUMBERS), told(ORIGIN)


def only(value: Any, pattern: Any) -> Any:
    """Of nested mappings what the pattern has too."""
    if isinstance(value, dict) and isinstance(pattern, dict):
        return {name: only(value[name], pattern[name]) for name in pattern if name in value}
    return value
