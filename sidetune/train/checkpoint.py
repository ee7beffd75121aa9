"""A run's folder: what it was asked to do, how far it came, and what it needs to go on from there."""

from __future__ import annotations

import io
import json
import pickle
import warnings
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sidetune import saved
from sidetune.atomic import remove_stale, replacing, write_text
from sidetune.errors import DataError, DataWarning, RunExists
from sidetune.sealed import SEAL, Sealing, digest_of, is_as_written, parsed, sealed_json, unsealed
from sidetune.train.epoch import Epoch

CHECKPOINT = "checkpoint.pt"
REQUEST = "run.json"
HISTORY = "history.json"
RESULT = "result.json"
CURVES = "tensorboard"
FORMER = b"PK"
"""How a checkpoint of version 0.1, which has no seal, begins."""
MEANS = (
    "micro_batch", "checkpoint", "checkpoint_blocks", "offload", "compile", "features", "features_limit", "num_workers",
)  # fmt: skip
"""Fields of a recipe that fit a run to a machine and do not make another run of it."""
AGAIN = "begin again with --overwrite (overwrite=True)"


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
        self.request: Mapping[str, Any] = {}

    def asked(self) -> dict[str, Any] | None:
        """What the run that stands here was asked to do; None if there is none. Raises DataError for a damaged file."""
        asked = self.path / REQUEST
        return parsed(asked, AGAIN) if asked.exists() else None

    def start(
        self, request: Mapping[str, Any], *, resume: bool, overwrite: bool, about: Mapping[str, Any] | None = None
    ) -> Progress | None:
        """Begin a run, or go on with one; returns where it stands. `about` is kept beside what was asked.

        Raises RunExists if the folder holds a run and neither is allowed, or a run that was asked for something else,
        or files that are not a run's; DataError if what it holds is damaged.
        """
        request = json.loads(json.dumps(request))
        if not self.writes:
            return self.load(request)
        self.check_free(resume=resume, overwrite=overwrite)
        if overwrite and not resume:
            self.clear()
        before = self.asked()
        if before is not None:
            if not (self.path / CHECKPOINT).exists() and not is_as_written(self.path / REQUEST, before):
                raise DataError(f"{self.path / REQUEST} is damaged: it is not as it was written; {AGAIN}")
            if told := differences(comparable(before, request), comparable(request, before)):
                raise RunExists(f"{self.path.parent} holds a run with other choices: {told}")
            remove_stale(self.path, "*")
            self.request = before
            return self.load(before)
        self.request = request
        write_text(self.path / REQUEST, sealed_json({"format": 2, **request, "about": about or {}}))
        return None

    def check_free(self, *, resume: bool, overwrite: bool) -> None:
        """Raises RunExists if the folder holds a run or a model that may not be touched, or files of others."""
        self.check_own()
        places = {"a run": self.path / REQUEST, "a model": self.path.parent / saved.CONFIG}
        found = next((what for what, place in places.items() if place.exists()), None)
        if found and not resume and not overwrite:
            raise RunExists(
                f"{self.path.parent} already holds {found}; go on with a run by --resume (resume=True), replace it "
                f"by --overwrite (overwrite=True), or choose another folder"
            )

    def check_own(self) -> None:
        """Raises RunExists where our names are taken by what sidetune did not write."""
        saved.check_own(self.path.parent)
        names = [name for name in (REQUEST, CHECKPOINT, HISTORY, RESULT, CURVES) if (self.path / name).exists()]
        asked = self.path / REQUEST
        own = asked.exists() and b'"recipe"' in (told := asked.read_bytes()) and b'"backbone"' in told
        if (names and not own) or (self.path.exists() and not self.path.is_dir()):
            raise RunExists(f"{self.path} holds what is no run of sidetune's; choose another folder")

    def clear(self) -> None:
        """Take away a run and its model, and nothing else."""
        saved.remove(self.path.parent)
        for path in [*(self.path / CURVES).glob("events.out.tfevents.*")]:
            path.unlink()
        for name in (CHECKPOINT, HISTORY, RESULT, REQUEST):  # what says whose they are goes last
            (self.path / name).unlink(missing_ok=True)
        remove_stale(self.path, "*")

    def save(self, progress: Progress) -> None:
        if not self.writes:
            return
        state = {**vars(progress), "history": [asdict(e) for e in progress.history], "run": bound(self.request)}
        size = sum(t.nbytes for t in progress.trained.values()) * 3  # with AdamW's two moments
        with replacing(self.path / CHECKPOINT, size) as beside, beside.open("wb") as file:
            sealing = Sealing(file)
            torch.save(state, sealing)  # type: ignore[arg-type]  # it is written to and nothing else
            sealing.close()
        write_text(self.path / HISTORY, json.dumps(state["history"], indent=1))

    def load(self, request: Mapping[str, Any] | None = None) -> Progress | None:
        """The last checkpoint; None if the run was stopped before its first.

        Raises DataError for a damaged one, and for one of another run than `request` asks for.
        """
        path = self.path / CHECKPOINT
        if not path.exists():
            return None
        content = unsealed(path, FORMER, AGAIN)
        try:
            state = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
            run, history = state.pop("run", None), [Epoch(**e) for e in state.pop("history")]
            progress = Progress(**state, history=history)
        except (RuntimeError, OSError, EOFError, ValueError, TypeError, KeyError, pickle.UnpicklingError) as e:
            raise DataError(
                f"{path} is damaged, or only half of it is there ({str(e).splitlines()[0]}); {AGAIN}"
            ) from e
        if request is not None:
            self.check_request(request, run)
        return progress

    def check_request(self, request: Mapping[str, Any], run: str | None) -> None:
        """That what was asked is what the checkpoint belongs to. More epochs alone are taken, and said."""
        if run is not None and run != bound(request):
            raise DataError(f"{self.path / CHECKPOINT} belongs to another run than {REQUEST} tells of; {AGAIN}")
        if not is_as_written(self.path / REQUEST, request):
            warnings.warn(
                f"{self.path / REQUEST} was changed since the run began; it is now one of "
                f"{request['recipe']['epochs']} epochs",
                DataWarning,
                stacklevel=2,
            )


OUTSIDE = ("format", "about", SEAL)
"""What stands in the file beside what was asked."""


def bound(request: Mapping[str, Any]) -> str:
    """The digest of what a checkpoint belongs to: all that was asked but the number of epochs."""
    asked = {name: value for name, value in request.items() if name not in OUTSIDE}
    return digest_of({**asked, "recipe": {n: v for n, v in asked["recipe"].items() if n not in (*MEANS, "epochs")}})


def comparable(request: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, Any]:
    """What decides a result, as far as both tell of it: version 0.1 told of less."""
    told = {name: value for name, value in request.items() if name in other and name not in OUTSIDE}
    told["recipe"] = {name: value for name, value in request["recipe"].items() if name not in MEANS}
    return {
        name: {n: v for n, v in value.items() if v is not None or n in other[name]}
        if isinstance(value, dict)
        else value
        for name, value in told.items()
    }


def differences(before: Mapping[str, Any], now: Mapping[str, Any], prefix: str = "") -> str:
    """What two requests differ in, as 'name: before -> now'."""
    found = []
    for name in sorted(before.keys() | now.keys()):
        old, new = before.get(name), now.get(name)
        if isinstance(old, dict) and isinstance(new, dict):
            if inner := differences(old, new, f"{prefix}{name}."):
                found.append(inner)
        elif old != new:
            found.append(CHANGED.get(f"{prefix}{name}", f"{prefix}{name}: {old} -> {new}"))
    return "; ".join(found)


CHANGED = {
    "data.train": "the training images or their labels were changed",
    "data.val": "the validation images or their labels were changed",
}
"""What is said in place of two digests."""
