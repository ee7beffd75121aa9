"""Labelled images before they are tensors: files on disk or pixels in memory, with the names of their classes."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from sidetune.data.digests import digests_of
from sidetune.data.reading import Reading
from sidetune.errors import DataError

if TYPE_CHECKING:
    from PIL import Image

    from sidetune.data.masks import Coding

Kind = Literal["classification", "multilabel", "regression", "segmentation", "detection", "instances"]
PLACED = ("segmentation", "detection", "instances")
"""Kinds whose targets say something of places in a picture."""
NO_INSTANCES = (
    "masks of single objects (instances) cannot be learned yet; --task detection (in Python: task='detection') takes "
    "the boxes of the same folder"
)


WHOLE = ""
"""The part of a data set without parts."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Samples:
    images: Sequence[Path] | np.ndarray
    """Paths, or grey pixels of shape (image, row, column) and type uint8."""
    labels: Sequence[Any]
    """Of each image the number of its class; a row of 0 and 1, one a label; a row of numbers; its mask, a file or
    class numbers int16 (row, column); or its `Objects`."""
    classes: tuple[str, ...]
    """Names of classes, labels or numbers, in order."""
    reading: Reading = Reading()
    """How files are read."""
    task: Kind = "classification"
    """What the labels are for."""
    coding: Coding | None = None
    """How masks say classes, where labels are masks."""

    def __len__(self) -> int:
        return len(self.labels)

    def image(self, index: int) -> Image.Image:
        """An RGB picture. Raises DataError for a file that cannot be read."""
        from PIL import Image  # the small device lists files and opens none, so it needs no Pillow

        from sidetune.data.images import open_image

        item = self.images[index]
        return Image.fromarray(item).convert("RGB") if isinstance(item, np.ndarray) else open_image(item, self.reading)

    def target(self, index: int) -> Any:
        """The label; for segmentation the mask as class numbers int16 (row, column) in the frame of the upright
        picture, -1 where there is no class. Raises DataError for a mask that cannot be used."""
        if self.coding is None:
            return self.labels[index]
        from sidetune.data.masks import read_mask

        return read_mask(self.labels[index], self.coding, picture=self.images[index])

    def files(self) -> list[Path]:
        """Those that labels are read from."""
        return list(self.labels) if self.coding is not None else []

    def fingerprint(self) -> str:
        """A digest that changes when images, masks or boxes do: of pixels, or of paths with size and time of change."""
        digest = hashlib.sha256()
        is_array = isinstance(self.images, np.ndarray)
        if is_array:
            digest.update(np.ascontiguousarray(self.images).data)
        for label in self.labels if self.task in PLACED and self.coding is None else ():
            digest.update(json.dumps(described(label)).encode())
        for path in (*(() if is_array else self.images), *self.files()):
            about = path.stat()
            digest.update(f"{path.resolve()}\0{about.st_size}\0{about.st_mtime_ns}\0".encode())
        return digest.hexdigest()

    def digest(self) -> str:
        """SHA-256 over pixels or files' bytes, in order, with labels and classes, wherever the files lie."""
        digest = hashlib.sha256()
        if isinstance(self.images, np.ndarray):
            digest.update(np.ascontiguousarray(self.images).data)
        else:
            digest.update(" ".join(digests_of([Path(p) for p in self.images])).encode())
        if self.coding is None:
            labels: list[Any] = [[described(label) for label in self.labels], self.classes]
        else:
            labels = [digests_of(self.files()), self.classes, asdict(self.coding)]
        digest.update(json.dumps(labels).encode())
        return digest.hexdigest()

    def subset(self, indices: Sequence[int]) -> Samples:
        if isinstance(self.images, np.ndarray):
            images: Sequence[Path] | np.ndarray = self.images[list(indices)]
        else:
            images = [self.images[i] for i in indices]
        return replace(self, images=images, labels=[self.labels[i] for i in indices])


def described(label: Any) -> Any:
    """A label as JSON has it; a mask by its digest."""
    if isinstance(label, np.ndarray):
        return hashlib.sha256(label.tobytes()).hexdigest()
    return label.described() if hasattr(label, "described") else label


@dataclass(frozen=True, kw_only=True, eq=False)
class Splits:
    """The three parts of a data set; labels mean the same class in all."""

    name: str
    train: Samples
    val: Samples | None
    test: Samples | None

    def __post_init__(self) -> None:
        classes = self.train.classes
        if len(classes) < 2 and self.train.task == "classification":
            raise DataError(f"{self.name} has one class only ({', '.join(classes)}); a classifier needs at least two")
        for part, samples in (("validation", self.val), ("test", self.test)):
            if samples is not None and (samples.classes != classes or samples.task != self.train.task):
                raise DataError(f"the {part} images of {self.name} have other classes than the training images")

    def final(self) -> Splits:
        """Training and validation images joined to train on."""
        if self.val is None:
            return self
        first, second = self.train, self.val
        arrays = isinstance(first.images, np.ndarray)
        images = np.concatenate([first.images, second.images]) if arrays else [*first.images, *second.images]
        train = replace(first, images=images, labels=[*first.labels, *second.labels])
        return replace(self, train=train, val=None)

    def mapped(self, change: Callable[[Samples], Samples]) -> Splits:
        """Each part changed; one that is left without images is none."""
        changed = {part: change(samples) for part, samples in self.parts().items()}
        val, test = (samples if samples else None for samples in map(changed.get, ("val", "test")))
        return replace(self, train=changed["train"], val=val, test=test)

    def parts(self) -> dict[str, Samples]:
        """The parts that exist: train, val, test."""
        parts = {"train": self.train, "val": self.val, "test": self.test}
        return {name: samples for name, samples in parts.items() if samples is not None}


def split_up(name: str, parts: Mapping[str, Samples], *, val: float, test: float, seed: int) -> Splits:
    """A set without parts split by these shares; beside training images, missing validation images are split off these
    and a missing test stays missing. Raises DataError where there are parts and no train."""
    if WHOLE in parts:
        rest, tested = split(parts[WHOLE], test, seed)
        train, validated = split(rest, val / (1 - test), seed)
        return Splits(name=name, train=train, val=some(validated), test=some(tested))
    if "train" not in parts:
        raise DataError(f"{name} has {', '.join(parts)} and no train")
    train, given = parts["train"], parts.get("val")
    if given is None:
        train, off = split(train, val, seed)
        given = some(off)
    return Splits(name=name, train=train, val=given, test=parts.get("test"))


def some(samples: Samples) -> Samples | None:
    return samples if len(samples) else None


def split(samples: Samples, fraction: float, seed: int) -> tuple[Samples, Samples]:
    """Part samples in two, the second holding `fraction` of each class, or of all where there are none."""
    if samples.task == "classification":
        return split_off(samples, fraction, seed)
    order = np.random.default_rng(seed).permutation(len(samples))
    count = round(fraction * len(samples))
    return samples.subset(sorted(order[count:].tolist())), samples.subset(sorted(order[:count].tolist()))


def split_off(samples: Samples, fraction: float, seed: int) -> tuple[Samples, Samples]:
    """Part samples in two, the second holding `fraction` of each class (at least one where the class has two)."""
    if not 0 < fraction < 1:
        raise ValueError(f"the fraction split off must be between 0 and 1, got {fraction}")
    rng = np.random.default_rng(seed)
    labels = np.asarray(samples.labels)
    taken: list[int] = []
    for label in np.unique(labels):
        members = rng.permutation(np.flatnonzero(labels == label))
        count = round(fraction * len(members))
        taken.extend(int(i) for i in members[: max(count, 1) if len(members) > 1 else 0])
    chosen = set(taken)
    kept = [i for i in range(len(samples)) if i not in chosen]
    return samples.subset(kept), samples.subset(sorted(chosen))
