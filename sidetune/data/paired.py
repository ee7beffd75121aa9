"""A picture and what is said of its places, a mask or boxes -> tensors, cut and turned together."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms import v2

from sidetune.data import cutboxes, cutmasks
from sidetune.data.cuts import Box, random_box, seen
from sidetune.data.geometry import Geometry
from sidetune.data.samples import Kind
from sidetune.data.turning import Size


class Places(Protocol):
    """What a kind of target becomes where its picture is cut; a module."""

    def read(self, target: Any, /) -> np.ndarray:
        """As the other functions take it."""
        ...

    def taken(self, found: np.ndarray, box: Box, size: Size, /) -> np.ndarray:
        """What lies in a box of the picture that is shown at a size (height, width)."""
        ...

    def whole(self, found: np.ndarray, picture: Size, size: Size, /) -> np.ndarray:
        """All of a picture of this width and height, shown at a size."""
        ...

    def is_poor(self, found: np.ndarray, box: Box, size: Size, /) -> bool:
        """Whether a box shows too little to learn from, so that another is tried."""
        ...

    def flipped(self, found: np.ndarray, /) -> np.ndarray:
        """Left for right, after it was taken."""
        ...

    def finished(self, found: np.ndarray, /) -> np.ndarray:
        """As the tensor holds it."""
        ...


PLACES: dict[Kind, Places] = {"segmentation": cutmasks, "detection": cutboxes}


@dataclass(frozen=True, kw_only=True)
class Paired:
    """How a preset shows pictures with masks or boxes: `cut` anew each time, or the whole of them squeezed to the size.

    Cuts are those of mmsegmentation's recipes (UperNet, SegFormer), for boxes too: scaled by 0.5 to 2, cut at random
    (again, up to ten times, where one class fills more than three quarters, or no object is left), flipped every other
    time, light and colours distorted; outside of the picture is grey, and ignored in masks. All that is random comes
    from PyTorch's generator.
    """

    kind: Kind = "segmentation"
    size: Size
    """Height and width of what comes out."""
    cut: bool = False
    flip: bool = False
    keep_mask: bool = False
    """Leave the mask as large as it is, to score answers on."""
    to_tensor: Callable[[Image.Image], Tensor]

    def __call__(self, picture: Image.Image, target: Any) -> tuple[Tensor, Tensor]:
        """A picture with its mask (row, column) of class numbers and of its size, or its `Objects`. -> image
        (3, height, width) and mask int16, or rows (object, 6) float32: x1, y1, x2, y2 in 0..1 of the image's width and
        height, class, and 1 where it is kept aside."""
        how = PLACES[self.kind]
        found = how.read(target)
        if self.cut:
            box = self.box(picture, found)
            found = how.taken(found, box, self.size)
            picture = v2.RandomPhotometricDistort()(seen(picture, box, self.size))
        else:
            found = found if self.keep_mask else how.whole(found, picture.size, self.size)
            picture = Geometry(size=self.size, resize=self.size)(picture)
        image = self.to_tensor(picture)
        if self.flip and torch.rand(()) < 0.5:
            image, found = image.flip(2), how.flipped(found)
        return image, torch.from_numpy(how.finished(found))

    def box(self, picture: Image.Image, found: np.ndarray) -> Box:
        """What is seen of a picture."""
        return random_box(picture.size, self.size, lambda box: PLACES[self.kind].is_poor(found, box, self.size))
