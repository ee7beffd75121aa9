"""A run's checkpoint on the device: everything it takes to go on from the middle of an epoch."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from sidetune.atomic import replacing, write_text
from sidetune.edge.parameters import Array
from sidetune.errors import DataError
from sidetune.train.epoch import Epoch
from sidetune.train.folder import AGAIN, EDGE_CHECKPOINT, HISTORY, Folder, bound

PROGRESS, SEAL = "progress", "sha256"


@dataclass(kw_only=True)
class DeviceCheckpoint:
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


class DeviceFolder(Folder):
    @property
    def has_checkpoint(self) -> bool:
        return (self.path / EDGE_CHECKPOINT).exists()

    def save(self, progress: DeviceCheckpoint, steps: int, arrays: Mapping[str, Array]) -> None:
        history = [asdict(e) for e in progress.history]
        told = json.dumps({**vars(progress), "history": history, "steps": steps, "run": bound(self.request)})
        with replacing(self.path / EDGE_CHECKPOINT, sum(a.nbytes for a in arrays.values())) as beside:
            save_file(dict(arrays), beside, metadata={PROGRESS: told, SEAL: digest(told, arrays)})
        write_text(self.path / HISTORY, json.dumps(history, indent=1))

    def load(self, arrays: Mapping[str, Array]) -> tuple[DeviceCheckpoint, int]:
        """Read the last checkpoint into arrays of the same names; returns where it stands and the optimizer's steps.

        Raises DataError for a damaged one, and for one of another run than was begun.
        """
        path = self.path / EDGE_CHECKPOINT
        try:
            with safe_open(path, framework="numpy") as file:
                about = file.metadata()
                for name, array in arrays.items():
                    array[...] = file.get_tensor(name).reshape(array.shape)
            told: dict[str, Any] = json.loads(about[PROGRESS])
            steps, run = told.pop("steps"), told.pop("run", None)
            history = [Epoch(**e) for e in told.pop("history")]
            progress = DeviceCheckpoint(**told, history=history)
        except (SafetensorError, ValueError, KeyError, TypeError, OSError) as e:
            raise DataError(f"{path} is damaged ({e}); {AGAIN}") from e
        is_former = about.keys() == {PROGRESS} and run is None  # of version 0.1, which sealed nothing
        if not is_former and about.get(SEAL) != digest(about[PROGRESS], arrays):
            raise DataError(f"{path} is damaged: it is not as it was written; {AGAIN}")
        self.check_request(path, run)
        return progress, steps


def digest(told: str, arrays: Mapping[str, Array]) -> str:
    """SHA-256 of all that a checkpoint holds."""
    found = hashlib.sha256(told.encode())
    for name in sorted(arrays):
        found.update(f"{name} {arrays[name].dtype} {arrays[name].shape}".encode())
        found.update(arrays[name].tobytes())
    return found.hexdigest()
