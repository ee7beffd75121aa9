"""A picture and its mask -> tensors, cut and turned together."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms import v2

from sidetune.data.geometry import Geometry
from sidetune.data.masks import IGNORED

SCALES = (0.5, 2.0)
"""How much larger than its part that is seen a picture may be shown in training, by its shorter side."""
MOST_OF_ONE = 0.75
"""Of a cut, the share of one class above which another cut is tried."""
TRIES = 10
Box = tuple[float, float, float, float]
"""Left, top, right and bottom in a picture's pixels."""


@dataclass(frozen=True, kw_only=True)
class Paired:
    """How a preset shows pictures with masks: `cut` anew each time, or the whole of them squeezed to the size.

    Cuts are those of mmsegmentation's recipes (UperNet, SegFormer): scaled by 0.5 to 2, cut at random unless one class
    fills more than three quarters, flipped every other time, light and colours distorted; what lies outside the picture
    is ignored. All that is random comes from PyTorch's generator.
    """

    size: tuple[int, int]
    """Height and width of what comes out."""
    cut: bool = False
    flip: bool = False
    keep_mask: bool = False
    """Leave the mask as large as it is, to score answers on."""
    to_tensor: Callable[[Image.Image], Tensor]

    def __call__(self, picture: Image.Image, mask: np.ndarray) -> tuple[Tensor, Tensor]:
        """Mask of shape (row, column) and the picture's size, in class numbers. -> image (3, height, width), mask."""
        if self.cut:
            box = self.box(picture, mask)
            picture, mask = v2.RandomPhotometricDistort()(seen(picture, box, self.size)), taken(mask, box, self.size)
        else:
            picture = Geometry(size=self.size, resize=self.size)(picture)
            if not self.keep_mask:
                mask = taken(mask, (0, 0, mask.shape[1], mask.shape[0]), self.size)
        image, labels = self.to_tensor(picture), torch.from_numpy(np.ascontiguousarray(mask).astype(np.int16))
        if self.flip and torch.rand(()) < 0.5:
            image, labels = image.flip(2), labels.flip(1)
        return image, labels

    def box(self, picture: Image.Image, mask: np.ndarray) -> Box:
        """What is seen of a picture, at one scale; where it is shown smaller than the size, a box that reaches out."""
        scale = float(torch.empty(()).uniform_(*SCALES))
        shown = scale * max(side / of for side, of in zip(self.size, (picture.height, picture.width), strict=True))
        height, width = (side / shown for side in self.size)
        for _ in range(TRIES):
            left, top = within(picture.width, width), within(picture.height, height)
            box = (left, top, left + width, top + height)
            if not is_one_class(taken(mask, box, self.size)):
                break
        return box


def within(side: int, length: float) -> float:
    """Where a stretch begins that lies in a side, or that the side lies in, at random."""
    return float(torch.rand(())) * (side - length)


def seen(picture: Image.Image, box: Box, size: tuple[int, int]) -> Image.Image:
    """A box of a picture at a size, bilinear with antialiasing, grey outside."""
    inner = (max(box[0], 0), max(box[1], 0), min(box[2], picture.width), min(box[3], picture.height))
    down, across = size[0] / (box[3] - box[1]), size[1] / (box[2] - box[0])
    left, top = round((inner[0] - box[0]) * across), round((inner[1] - box[1]) * down)
    right, bottom = round((inner[2] - box[0]) * across), round((inner[3] - box[1]) * down)
    part = picture.resize((max(right - left, 1), max(bottom - top, 1)), Image.Resampling.BILINEAR, box=inner)
    if part.size == (size[1], size[0]):
        return part
    whole = Image.new("RGB", (size[1], size[0]), (124, 116, 104))
    whole.paste(part, (left, top))
    return whole


def taken(mask: np.ndarray, box: Box, size: tuple[int, int]) -> np.ndarray:
    """The same of a mask: the class in the middle of every pixel, ignored outside."""
    rows = np.floor(box[1] + (np.arange(size[0]) + 0.5) * (box[3] - box[1]) / size[0]).astype(np.int64)
    columns = np.floor(box[0] + (np.arange(size[1]) + 0.5) * (box[2] - box[0]) / size[1]).astype(np.int64)
    inside = np.outer((rows >= 0) & (rows < mask.shape[0]), (columns >= 0) & (columns < mask.shape[1]))
    found = mask[np.ix_(rows.clip(0, mask.shape[0] - 1), columns.clip(0, mask.shape[1] - 1))]
    return np.where(inside, found, IGNORED)


def is_one_class(mask: np.ndarray) -> bool:
    known = mask[mask != IGNORED]
    return known.size == 0 or np.bincount(known).max() > MOST_OF_ONE * known.size
