"""A run's checkpoint: how far it came, and what it needs to go on from there."""

from __future__ import annotations

import io
import json
import pickle
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sidetune.atomic import replacing, write_text
from sidetune.errors import DataError
from sidetune.sealed import Sealing, unsealed
from sidetune.train.epoch import Epoch
from sidetune.train.folder import AGAIN, CHECKPOINT, HISTORY, Folder, bound

FORMER = b"PK"
"""How a checkpoint of version 0.1, which has no seal, begins."""


@dataclass(kw_only=True)
class Checkpoint:
    """Where a run stands after an epoch. An epoch is a pure function of this and of the seed."""

    history: list[Epoch]
    trained: dict[str, Tensor]
    optimizer: dict[str, Any]
    scaler: dict[str, Any]
    best: tuple[float, dict[str, Tensor]] | None = None
    """The best validation accuracy and the parameters that reached it, where the run keeps the best."""


class RunFolder(Folder):
    """All processes of a run read it, one of them writes."""

    def __init__(self, out: Path, *, writes: bool = True) -> None:
        super().__init__(out)
        self.writes = writes

    def start(
        self, request: Mapping[str, Any], *, resume: bool, overwrite: bool, about: Mapping[str, Any] | None = None
    ) -> Checkpoint | None:
        """Begin a run, or go on with one; returns where it stands. Raises as `begin` and `load` do."""
        if self.writes:
            self.begin(request, resume=resume, overwrite=overwrite, about=about)
        else:
            self.request = json.loads(json.dumps(request))
        return self.load()

    def save(self, progress: Checkpoint) -> None:
        if not self.writes:
            return
        state = {**vars(progress), "history": [asdict(e) for e in progress.history], "run": bound(self.request)}
        size = sum(t.nbytes for t in progress.trained.values()) * 3  # with AdamW's two moments
        with replacing(self.path / CHECKPOINT, size) as beside, beside.open("wb") as file:
            sealing = Sealing(file)
            torch.save(state, sealing)  # type: ignore[arg-type]  # it is written to and nothing else
            sealing.close()
        write_text(self.path / HISTORY, json.dumps(state["history"], indent=1))

    def load(self) -> Checkpoint | None:
        """The last checkpoint; None if the run was stopped before its first.

        Raises DataError for a damaged one, and for one of another run than was begun.
        """
        path = self.path / CHECKPOINT
        if not path.exists():
            return None
        content = unsealed(path, FORMER, AGAIN)
        try:
            state = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
            run, history = state.pop("run", None), [Epoch(**e) for e in state.pop("history")]
            progress = Checkpoint(**state, history=history)
        except (RuntimeError, OSError, EOFError, ValueError, TypeError, KeyError, pickle.UnpicklingError) as e:
            raise DataError(
                f"{path} is damaged, or only half of it is there ({str(e).splitlines()[0]}); {AGAIN}"
            ) from e
        if self.request:
            self.check_request(path, run)
        return progress
