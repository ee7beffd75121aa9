"""A run's folder on the device: what was asked for, and everything it takes to go on from the middle of an epoch."""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from sidetune.atomic import remove_stale, replacing, write_text
from sidetune.edge.parameters import Array
from sidetune.errors import DataError, RunExists
from sidetune.saved import CARD, CONFIG, WEIGHTS
from sidetune.train.epoch import Epoch

STATE, REQUEST, HISTORY = "checkpoint.safetensors", "run.json", "history.json"


@dataclass(kw_only=True)
class Progress:
    """Where a run stands between two steps."""

    epoch: int = 0
    """The one that is going on, counted from 0."""
    step: int = 0
    """Steps of it that are done."""
    loss: float = 0.0
    """Sum of their losses."""
    seconds: float = 0.0
    """That they took."""
    history: list[Epoch] = field(default_factory=list)


class Run:
    """`FOLDER/run`."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.path = folder, folder / "run"

    def start(self, request: dict[str, Any], *, resume: bool, overwrite: bool) -> bool:
        """Begin a run; True if there is one to go on with. Raises RunExists if the folder holds one and that is not
        allowed, or one that was asked for something else."""
        if overwrite and not resume:
            shutil.rmtree(self.path, ignore_errors=True)
            for name in (CONFIG, WEIGHTS, CARD):
                (self.folder / name).unlink(missing_ok=True)
        self.check_free(resume=resume)
        remove_stale(self.path, "*")
        asked = self.path / REQUEST
        request = json.loads(json.dumps(request))
        if asked.exists():
            before = json.loads(asked.read_text())
            if before != request:
                names = sorted(n for n in before.keys() | request.keys() if before.get(n) != request.get(n))
                raise RunExists(f"{self.folder} holds a run with other choices: {', '.join(names)}")
            return (self.path / STATE).exists()
        write_text(asked, json.dumps(request, indent=1))
        return False

    def check_free(self, *, resume: bool) -> None:
        places = {"a run": self.path / REQUEST, "a model": self.folder / CONFIG}
        if not resume and (found := next((what for what, place in places.items() if place.exists()), None)):
            raise RunExists(
                f"{self.folder} already holds {found}; go on with a run by --resume, replace it by --overwrite, or "
                f"choose another folder"
            )

    def save(self, progress: Progress, steps: int, arrays: dict[str, Array]) -> None:
        told = {**vars(progress), "history": [asdict(e) for e in progress.history], "steps": steps}
        with replacing(self.path / STATE, sum(a.nbytes for a in arrays.values())) as beside:
            save_file(arrays, beside, metadata={"progress": json.dumps(told)})
        write_text(self.path / HISTORY, json.dumps(told["history"], indent=1))

    def load(self, arrays: dict[str, Array]) -> tuple[Progress, int]:
        """Read the last checkpoint into arrays of the same names; returns where it stands and the optimizer's steps."""
        try:
            with safe_open(self.path / STATE, framework="numpy") as file:
                told = json.loads(file.metadata()["progress"])
                for name, array in arrays.items():
                    array[...] = file.get_tensor(name)
        except (SafetensorError, ValueError, KeyError, TypeError) as e:
            raise DataError(f"{self.path / STATE} is damaged ({e}); begin again with --overwrite") from e
        steps = told.pop("steps")
        return Progress(**{**told, "history": [Epoch(**e) for e in told["history"]]}), steps
