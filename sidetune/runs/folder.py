"""The output folder of a verb that trains many models: whose it is, and what in it may be replaced.

`answers.json` makes it ours; `adapters/NAME` are folders of runs, `unfinished/NAME` those of runs that are not kept.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from sidetune.errors import RunExists
from sidetune.locked import worked_on
from sidetune.memo import Memo, is_memo
from sidetune.train.folder import Folder

ANSWERS, ADAPTERS, UNFINISHED = "answers.json", "adapters", "unfinished"
NUMBERS = ("results*.json", "analysis.json", "search.json")
WRITTEN = (
    *NUMBERS, "report.md", "accuracy-memory.png", "curves.png", "predictions-*.png", "study.png", "redundancy.png",
    "fusion.png",
)  # fmt: skip
RUNS = (ADAPTERS, UNFINISHED, "supernet")


@contextmanager
def output_folder(
    out: Path, words: Mapping[str, Any], *, resume: bool = False, overwrite: bool = False
) -> Iterator[Memo]:
    """Work in a folder alone: what was found in it already, where that is gone on with. `words` are kept beside it.

    Where what was asked for is refused (ValueError) before anything is found out, nothing is left of it.

    Raises RunExists if it holds a report and neither is allowed, or what sidetune did not write under names that a
    report uses; InUse where another process works there.
    """
    check_free(out, resume=resume, overwrite=overwrite)
    made_here = not out.exists()
    with worked_on(out):
        if overwrite and not resume:
            clear(out)
        is_new, memo = not (out / ANSWERS).exists(), Memo(out / ANSWERS)
        memo.about = memo.about or dict(words)
        memo.write()
        try:
            yield memo
        except ValueError:
            forget_empty(out)
            if is_new and not memo.answers and taken(out) == [out / ANSWERS]:
                (out / ANSWERS).unlink()
                forget_empty(out, itself=made_here)
            raise
        forget_empty(out)


def forget_empty(out: Path, *, itself: bool = False) -> None:
    for folder in (out / UNFINISHED, out / ADAPTERS, *[out] * itself):
        with suppress(OSError):  # only where nothing is left in it
            folder.rmdir()


def check_free(out: Path, *, resume: bool, overwrite: bool) -> None:
    found = taken(out)
    if not found:
        return
    if not is_own(out):
        raise RunExists(
            f"{found[0]} is in the way, and no report of sidetune's is there that it belongs to; choose another --out"
        )
    if not resume and not overwrite:
        raise RunExists(
            f"{out} already holds results; replace them by --overwrite, go on with what was stopped by --resume "
            f"(compare, ablate, search), or choose another --out"
        )


def taken(out: Path) -> list[Path]:
    """What stands under names that a report uses."""
    found = [path for pattern in (ANSWERS, *WRITTEN) for path in sorted(out.glob(pattern))]
    return found + [out / ADAPTERS] * (out / ADAPTERS).exists()


def is_own(out: Path) -> bool:
    """By its answers; a report of version 0.1, which kept none, by the numbers in it."""
    return is_memo(out / ANSWERS) or any(is_result(path) for path in numbers_in(out))


def numbers_in(out: Path) -> list[Path]:
    return [path for pattern in NUMBERS for path in sorted(out.glob(pattern))]


def is_result(path: Path) -> bool:
    try:
        told = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, OSError):
        return False
    return isinstance(told, dict) and "kind" in told and "versions" in told


def clear(out: Path) -> None:
    """Take away a report and the runs that it came from, and nothing else."""
    for name in RUNS:
        for asked in sorted((out / name).rglob("run/run.json")):
            forget(asked.parent.parent)
    others = [path for path in numbers_in(out) if not is_result(path)]
    for path in taken(out):
        if path.is_file() and path not in others and path.name != ANSWERS:
            path.unlink()
    (out / ANSWERS).unlink(missing_ok=True)  # what says whose they are goes last


def forget(folder: Path) -> None:
    """Take a run away, and its folder where nothing of others is in it."""
    run = Folder(folder)
    run.check_own()
    run.clear()
    for path in (run.path / "tensorboard", run.path, folder):
        with suppress(OSError):
            path.rmdir()
