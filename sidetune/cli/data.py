"""Reading a user's data with everything checked before hours are spent on it."""

from __future__ import annotations

from sidetune.cli.progress import ERR, Lines
from sidetune.data.check import check_images, summary
from sidetune.data.named import read_data
from sidetune.data.samples import Samples, Splits


def read_checked(source: str, report: Lines, *, skip_bad: bool, tune: bool) -> Splits:
    """All parts of a data set with every image decoded once; bad ones raise, or are left out and named."""
    splits = read_data(source, tune=tune)
    parts = {part: checked(samples, report, skip_bad=skip_bad) for part, samples in splits.parts().items()}
    splits = Splits(name=splits.name, train=parts["train"], val=parts.get("val"), test=parts.get("test"))
    counts = ", ".join(f"{len(samples):,} {part}" for part, samples in splits.parts().items())
    ERR.print(f"{splits.name}: {counts} images of {len(splits.train.classes)} classes")
    return splits


def checked(samples: Samples, report: Lines, *, skip_bad: bool) -> Samples:
    good, bad = check_images(samples, skip_bad=skip_bad, progress=report.images)
    if bad:
        ERR.print(f"skipped: {summary(bad)}", style="yellow", markup=False)
    return good
