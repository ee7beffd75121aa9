"""A run's folder: what it was asked to do, how far it came, and what it needs to go on from there."""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sidetune.atomic import replacing, write_text
from sidetune.errors import RunExists
from sidetune.train.epoch import Epoch

CHECKPOINT = "checkpoint.pt"
REQUEST = "run.json"
HISTORY = "history.json"
MODEL = ("sidetune.json", "model.safetensors", "README.md")
"""What a finished run leaves beside its own folder (`sidetune.saving`)."""


@dataclass(kw_only=True)
class Progress:
    """Where a run stands after an epoch. An epoch is a pure function of this and of the seed."""

    history: list[Epoch]
    trained: dict[str, Tensor]
    optimizer: dict[str, Any]
    scaler: dict[str, Any]
    best: tuple[float, dict[str, Tensor]] | None = None
    """The best validation accuracy and the parameters that reached it, where the run keeps the best."""


class RunFolder:
    """Everything a run writes apart from its model. All processes read it, one of them writes."""

    def __init__(self, path: Path, *, writes: bool = True) -> None:
        self.path, self.writes = path / "run", writes

    def start(self, request: dict[str, Any], *, resume: bool, overwrite: bool) -> Progress | None:
        """Begin a run, or go on with one; returns where it stands.

        Raises RunExists if the folder holds a run and neither is allowed, or a run that was asked for something else.
        """
        if not self.writes:
            return self.load()
        request = json.loads(json.dumps(request))
        asked = self.path / REQUEST
        if overwrite and not resume:
            shutil.rmtree(self.path, ignore_errors=True)
            for name in MODEL:
                (self.path.parent / name).unlink(missing_ok=True)
        found = "a run" if asked.exists() else "a model" if (self.path.parent / MODEL[0]).exists() else None
        if found and not resume:
            raise RunExists(
                f"{self.path.parent} already holds {found}; go on with a run by --resume (resume=True), replace it "
                f"by --overwrite (overwrite=True), or choose another folder"
            )
        if asked.exists():
            before = json.loads(asked.read_text())
            if before != request:
                raise RunExists(f"{self.path.parent} holds a run with other choices: {differences(before, request)}")
            return self.load()
        write_text(asked, json.dumps(request, indent=1))
        return None

    def save(self, progress: Progress) -> None:
        if not self.writes:
            return
        state = {**vars(progress), "history": [asdict(e) for e in progress.history]}
        size = sum(t.nbytes for t in progress.trained.values()) * 3  # with AdamW's two moments
        with replacing(self.path / CHECKPOINT, size) as beside:
            torch.save(state, beside)
        write_text(self.path / HISTORY, json.dumps(state["history"], indent=1))

    def load(self) -> Progress | None:
        """The last checkpoint; None if the run was stopped before its first."""
        if not (self.path / CHECKPOINT).exists():
            return None
        state = torch.load(self.path / CHECKPOINT, map_location="cpu", weights_only=True)
        return Progress(**{**state, "history": [Epoch(**e) for e in state["history"]]})


def differences(before: dict[str, Any], now: dict[str, Any], prefix: str = "") -> str:
    """What two requests differ in, as 'name: before -> now'."""
    found = []
    for name in sorted(before.keys() | now.keys()):
        old, new = before.get(name), now.get(name)
        if isinstance(old, dict) and isinstance(new, dict):
            if inner := differences(old, new, f"{prefix}{name}."):
                found.append(inner)
        elif old != new:
            found.append(f"{prefix}{name}: {old} -> {new}")
    return "; ".join(found)
