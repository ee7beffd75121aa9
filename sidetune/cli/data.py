"""Reading a user's data with everything checked before hours are spent on it."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager

from sidetune.cli.choices import Setup
from sidetune.cli.progress import ERR, Lines
from sidetune.data.check import check_images, summary
from sidetune.data.names import named
from sidetune.data.samples import Samples, Splits
from sidetune.data.sources import Source, placed
from sidetune.errors import DataWarning
from sidetune.tasks import find_task


def source_of(name: str, setup: Setup, *, skip_bad: bool = False) -> Source:
    """A data set as a setup has it read."""
    return Source(
        name=placed(name),
        tune=setup.tune,
        layout=setup.layout,
        reading=setup.reading,
        task=None if setup.task == "auto" else find_task(setup.task).targets,
        skip_bad=skip_bad,
    )


def read_checked(source: Source, report: Lines) -> Splits:
    """All parts of a data set with every image decoded once; bad ones raise, or are left out and named."""
    with notes_afterwards():
        splits = source.read()
        train = splits.train
        splits = splits.mapped(lambda s: checked(s, report, skip_bad=source.skip_bad, all_classes=s is train))
        counts = ", ".join(f"{len(samples):,} {part}" for part, samples in splits.parts().items())
        total = sum(len(samples) for samples in splits.parts().values())
        ERR.print(
            f"{splits.name}: {counts} images of {told_of(train)} ({total:,} in all)",
            markup=False,
        )
    return splits


def told_of(samples: Samples) -> str:
    """What there is to be learned, in words."""
    count = len(samples.classes)
    if samples.task == "regression":
        return f"{count} number{'s' * (count > 1)} each ({named(samples.classes)})"
    return f"{count} {'labels' if samples.task == 'multilabel' else 'classes'}"


def checked(samples: Samples, report: Lines, *, skip_bad: bool, all_classes: bool = False) -> Samples:
    good, bad = check_images(samples, skip_bad=skip_bad, all_classes=all_classes, progress=report.images)
    if bad:
        ERR.print(f"skipped: {summary(bad)}", style="yellow", markup=False)
    return good


@contextmanager
def notes_afterwards() -> Iterator[None]:
    """What there is to say of the data is said together at the end, before an error too."""
    caught: list[warnings.WarningMessage] = []
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always", DataWarning)
            yield
    finally:
        for note in caught:
            warnings.warn_explicit(note.message, note.category, note.filename, note.lineno)
