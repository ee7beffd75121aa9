"""A run's folder: whose it is, what the run was asked to do, and whether it may be gone on with or replaced.

Without PyTorch: runs here and on the device keep the same folder and differ in how they write their checkpoint.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sidetune import saved
from sidetune.atomic import remove_stale, write_text
from sidetune.errors import DataError, DataWarning, RunExists
from sidetune.memo import is_memo
from sidetune.recipe import MEANS, Recipe
from sidetune.sealed import SEAL, digest_of, is_as_written, parsed, sealed_json

REQUEST = "run.json"
HISTORY = "history.json"
RESULT = "result.json"
TRIALS = "trials.json"
"""What was tried before the run began; see `sidetune.memo`."""
CURVES = "tensorboard"
CHECKPOINT, EDGE_CHECKPOINT = "checkpoint.pt", "checkpoint.safetensors"
FORMAT = 3
"""2 and version 0.1, whose files have no number, told of means within the recipe."""
OUTSIDE = ("format", "about", SEAL)
"""What stands in the file beside what was asked."""
AGAIN = "begin again with --overwrite (overwrite=True)"


class Folder:
    """`OUT/run`: everything a run writes apart from its model."""

    def __init__(self, out: Path) -> None:
        self.out, self.path = out, out / "run"
        self.request: Mapping[str, Any] = {}

    def asked(self) -> dict[str, Any] | None:
        """What the run that stands here was asked to do; None if there is none. Raises DataError for a damaged file."""
        asked = self.path / REQUEST
        return parsed(asked, AGAIN) if asked.exists() else None

    def begin(
        self, request: Mapping[str, Any], *, resume: bool, overwrite: bool, about: Mapping[str, Any] | None = None
    ) -> None:
        """Begin a run, or make ready to go on with one. `about` is kept beside what was asked.

        Raises RunExists if the folder holds a run and neither is allowed, or a run that was asked for something else,
        or files that are not a run's; DataError if what it holds is damaged.
        """
        request = json.loads(json.dumps(request))
        self.check_free(resume=resume, overwrite=overwrite)
        if overwrite and not resume:
            self.clear()
        before = self.asked()
        if before is None:
            self.request = request
            write_text(self.path / REQUEST, sealed_json({"format": FORMAT, **request, "about": about or {}}))
            return
        has_begun = any((self.path / name).exists() for name in (CHECKPOINT, EDGE_CHECKPOINT))
        if not has_begun and not is_as_written(self.path / REQUEST, before):
            raise DataError(f"{self.path / REQUEST} is damaged: it is not as it was written; {AGAIN}")
        if told := differences(comparable(before, request), comparable(request, before)):
            raise RunExists(f"{self.out} holds a run with other choices: {told}")
        remove_stale(self.path, "*")
        self.request = before

    def check_free(self, *, resume: bool, overwrite: bool) -> None:
        """Raises RunExists if the folder holds a run or a model that may not be touched, or files of others."""
        self.check_own()
        places = {"a run": self.path / REQUEST, "a model": self.out / saved.CONFIG}
        found = next((what for what, place in places.items() if place.exists()), None)
        if found and not resume and not overwrite:
            raise RunExists(
                f"{self.out} already holds {found}; go on with a run by --resume (resume=True), replace it "
                f"by --overwrite (overwrite=True), or choose another folder"
            )

    def check_own(self) -> None:
        """Raises RunExists where our names are taken by what sidetune did not write."""
        saved.check_own(self.out)
        names = (REQUEST, CHECKPOINT, EDGE_CHECKPOINT, HISTORY, RESULT, CURVES)
        asked = self.path / REQUEST
        own = asked.exists() and b'"recipe"' in (told := asked.read_bytes()) and b'"backbone"' in told
        is_taken = any((self.path / name).exists() for name in names)
        if (is_taken and not own) or (self.path.exists() and not self.path.is_dir()):
            raise RunExists(f"{self.path} holds what is no run of sidetune's; choose another folder")

    def clear(self) -> None:
        """Take away a run and its model, and nothing else."""
        saved.remove(self.out)
        for path in [*(self.path / CURVES).glob("events.out.tfevents.*")]:
            path.unlink()
        if is_memo(self.path / TRIALS):
            (self.path / TRIALS).unlink()
        for name in (CHECKPOINT, EDGE_CHECKPOINT, HISTORY, RESULT, REQUEST):  # what says whose they are goes last
            (self.path / name).unlink(missing_ok=True)
        remove_stale(self.path, "*")

    def check_request(self, checkpoint: Path, run: str | None) -> None:
        """That what was asked is what the checkpoint says that it belongs to. More epochs alone are taken, and said."""
        if run is not None and run != bound(self.request):
            raise DataError(f"{checkpoint} belongs to another run than {REQUEST} tells of; {AGAIN}")
        if not is_as_written(self.path / REQUEST, self.request):
            warnings.warn(
                f"{self.path / REQUEST} was changed since the run began; it is now one of "
                f"{self.request['recipe']['epochs']} epochs",
                DataWarning,
                stacklevel=2,
            )


def recipe_of(request: Mapping[str, Any]) -> Recipe:
    """The recipe that a run was asked to follow, with the means that it began with."""
    means = (request.get("about") or {}).get("means", {})
    return saved.from_saved(Recipe, {**request["recipe"], **means})


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
    "data.test": "the test images or their labels were changed",
}
"""What is said in place of two digests."""
