"""Pictures -> tensors, as the papers do it."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from PIL import Image
from timm.data.auto_augment import rand_augment_transform
from torch import Tensor
from torchvision.transforms import v2

from sidetune.data.geometry import Geometry
from sidetune.data.paired import Paired
from sidetune.data.reading import Levels
from sidetune.data.samples import PLACED, Kind
from sidetune.errors import unknown

PRESETS = {
    "vtab": "resize to the square, no augmentation",
    "vtab-flip": "resize to the square; in training a random flip",
    "vtab-crop": "training: resize to the square; otherwise: resize to 248 for 224 pixels and centre crop",
    "photo": "training: random crop and flip; otherwise: resize and centre crop",
    "few-shot": "random crop, flip and RandAugment; otherwise: resize to a square and centre crop",
    "scene": "with masks or boxes; training: random scale, cut, flip and colours; otherwise: resize to the square",
}
WHOLE = ("vtab", "vtab-flip")
"""Presets that show pictures whole, for every kind of target."""
BICUBIC = v2.InterpolationMode.BICUBIC


def preset_for(kind: Kind, asked: str | None = None) -> str:
    """The preset for targets of a kind, or the one that is asked for. Raises ValueError for one that does not serve
    them: what cuts pictures and leaves masks or boxes alone, or the other way about."""
    known = [name for name in PRESETS if name in WHOLE or (name == "scene") == (kind in PLACED)]
    if asked is None:
        return "scene" if kind in PLACED else "photo"
    if asked in PRESETS and asked not in known:
        raise ValueError(f"the transform {asked!r} does not serve {kind}; those that do: {', '.join(known)}")
    return asked


@dataclass(frozen=True, kw_only=True)
class Transform:
    """A preset for a size and a normalisation; a saved model keeps it, to treat new images as those it learned from."""

    preset: str
    image_size: tuple[int, int]
    """Height and width."""
    mean: tuple[float, ...]
    std: tuple[float, ...]
    levels: Levels | None = None
    """The grey values that become black and white in pictures of more than 8 bits; by each picture's range if None."""

    def __post_init__(self) -> None:
        if self.preset not in PRESETS:
            raise unknown("transform", self.preset, PRESETS)

    @property
    def is_random(self) -> bool:
        """Whether training images differ from epoch to epoch, so that their features cannot be kept."""
        return self.preset not in ("vtab", "vtab-crop")

    def pairs(self, kind: Kind = "segmentation", *, training: bool) -> Paired:
        """Pictures with masks or boxes -> images with these. In evaluation masks stay as large as they are."""
        return Paired(
            kind=kind,
            size=self.image_size,
            cut=training and self.preset == "scene",
            flip=training and self.preset != "vtab",
            keep_mask=kind == "segmentation" and not training,
            to_tensor=self.to_tensor(),
        )

    def training(self) -> Callable[[Image.Image], Tensor]:
        if self.preset.startswith("vtab"):
            flip = [v2.RandomHorizontalFlip()] if self.preset == "vtab-flip" else []
            whole = Geometry(size=self.image_size, resize=self.image_size)
            return v2.Compose([whole, *flip, *self._to_tensor()])
        steps: list[Callable[[Image.Image], Image.Image]] = [
            v2.RandomResizedCrop(self.image_size, interpolation=BICUBIC),
            v2.RandomHorizontalFlip(),
        ]
        if self.preset == "few-shot":
            fill = tuple(round(255 * m) for m in self.mean)
            # At magnitude 10, the end, timm asks Pillow for pictures of 0 bits and is refused; just below, for 1 bit.
            hparams = {"img_mean": fill, "magnitude_max": math.nextafter(10, 0)}
            steps.append(rand_augment_transform("rand-m9-mstd0.5-inc1", hparams))
        return v2.Compose([*steps, *self._to_tensor()])

    def evaluation(self) -> Callable[[Image.Image], Tensor]:
        return v2.Compose([self.geometry(), *self._to_tensor()])

    def geometry(self) -> Geometry:
        """What of a picture is seen in evaluation."""
        if self.preset in (*WHOLE, "scene"):
            return Geometry(size=self.image_size, resize=self.image_size)
        height, width = self.image_size
        if self.preset == "few-shot":
            return Geometry(size=self.image_size, resize=(round(height * 256 / 224), round(width * 256 / 224)))
        longer = max(height, width)
        larger = int(longer / 0.9) if self.preset == "vtab-crop" else round(longer * 256 / 224)  # as timm rounds
        return Geometry(size=self.image_size, resize=larger)

    def to_tensor(self) -> Callable[[Image.Image], Tensor]:
        """What is seen of a picture -> the normalised image (3, height, width)."""
        return v2.Compose(self._to_tensor())

    def _to_tensor(self) -> list[Callable[[Image.Image], Tensor]]:
        to_float = v2.ToDtype(torch.float32, scale=True)
        return [v2.ToImage(), to_float, v2.Normalize(list(self.mean), list(self.std))]
