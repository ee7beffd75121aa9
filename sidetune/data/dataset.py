"""Samples as a torch data set, and the check that every image can be read before hours are spent on the others."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from sidetune.data.images import to_rgb
from sidetune.data.samples import Samples
from sidetune.errors import DataError


class Prepared(Dataset[tuple[Tensor, int]]):
    """A torch data set of (PIL picture, label) with a transform put behind it."""

    def __init__(self, pictures: Dataset[Any], transform: Callable[[Image.Image], Tensor], *, is_random: bool) -> None:
        self.pictures, self.transform, self.is_random = pictures, transform, is_random
        if hasattr(pictures, "classes"):
            self.classes = tuple(pictures.classes)

    def __len__(self) -> int:
        return len(self.pictures)  # type: ignore[arg-type]

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        picture, label = self.pictures[index]
        return self.transform(to_rgb(picture)), label


class ImageDataset(Dataset[tuple[Tensor, int]]):
    """(image tensor, label) of samples."""

    def __init__(self, samples: Samples, transform: Callable[[Image.Image], Tensor], *, is_random: bool) -> None:
        self.samples, self.transform, self.is_random = samples, transform, is_random
        self.classes = samples.classes

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.transform(self.samples.image(index)), self.samples.labels[index]


def check_images(
    samples: Samples, *, skip_bad: bool = False, progress: Callable[[int, int], None] | None = None
) -> tuple[Samples, list[str]]:
    """Decode every image once. Returns the samples that can be used and what was wrong with the others.

    Raises DataError naming the bad images, unless they are to be skipped; and if skipping them empties a class.
    """
    if isinstance(samples.images, np.ndarray):
        return samples, []
    complaints: dict[int, str] = {}
    with ThreadPoolExecutor() as pool:
        for index, complaint in enumerate(pool.map(lambda i: _complaint(samples, i), range(len(samples)))):
            if complaint:
                complaints[index] = complaint
            if progress:
                progress(index + 1, len(samples))
    if not complaints:
        return samples, []
    bad = list(complaints.values())
    if not skip_bad:
        raise DataError(f"{summary(bad)}\nRepair or remove them, or leave them out with --skip-bad (skip_bad=True)")
    good = samples.subset([i for i in range(len(samples)) if i not in complaints])
    if emptied := set(samples.labels) - set(good.labels):
        names = ", ".join(samples.classes[label] for label in sorted(emptied))
        raise DataError(f"without its bad images a class is empty: {names}\n{summary(bad)}")
    return good, bad


def _complaint(samples: Samples, index: int) -> str | None:
    try:
        samples.image(index)
    except DataError as e:
        return str(e)
    return None


def summary(bad: Sequence[str], most: int = 10) -> str:
    lines = "\n".join(f"  {line}" for line in bad[:most])
    more = f"\n  and {len(bad) - most} more" if len(bad) > most else ""
    return f"{len(bad)} image{'s' if len(bad) > 1 else ''} cannot be used:\n{lines}{more}"
