"""What a user may hand over as a picture: a file, a PIL image, pixels in an array or a tensor."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from sidetune.data.images import open_image
from sidetune.data.pixels import to_rgb
from sidetune.data.reading import Reading

One = str | Path | Image.Image
Pixels = NDArray[Any] | Tensor
Picture = One | Pixels
"""A file; a PIL image; an array (height, width) of grey values or (height, width, 3) of uint8, or of floating-point
numbers in 0..1; a tensor (3, height, width) or (1, height, width) of the same."""
TAKES = (
    "a file's path, a PIL image, an array (height, width) or (height, width, 3), or a tensor (3, height, width), of "
    "uint8 or of floating-point numbers in 0..1; batches of arrays or tensors, or a list of any of these"
)


def is_one(given: object) -> bool:
    """Whether this is one picture rather than several."""
    if isinstance(given, (np.ndarray, Tensor)):
        return given.ndim < 4
    return isinstance(given, (str, Path, Image.Image))


def all_of(given: Any) -> Sequence[Any]:
    """One picture, a batch, or a sequence of pictures -> a sequence. Raises ValueError for anything else."""
    if is_one(given):
        return [given]
    if isinstance(given, (Sequence, np.ndarray, Tensor)):
        return given  # type: ignore[return-value]
    raise ValueError(f"a picture is {TAKES}; got a {type(given).__name__}")


def as_rgb(picture: Picture, reading: Reading) -> Image.Image:
    """An upright RGB picture. Raises DataError for a bad file, ValueError for what is no picture."""
    if isinstance(picture, (str, Path)):
        return open_image(picture, reading)
    if isinstance(picture, Image.Image):
        return to_rgb(picture, reading.levels)
    if isinstance(picture, Tensor):
        if picture.ndim != 3 or picture.shape[0] not in (1, 3):
            raise ValueError(f"a tensor is a picture of shape (3, height, width), got {tuple(picture.shape)}")
        pixels = picture.detach().cpu().movedim(0, -1)
        return from_array(pixels.float().numpy() if pixels.is_floating_point() else pixels.numpy(), reading)
    if isinstance(picture, np.ndarray):
        return from_array(picture, reading)
    raise ValueError(f"a picture is {TAKES}; got a {type(picture).__name__}")


def from_array(pixels: NDArray[Any], reading: Reading) -> Image.Image:
    """Grey values of any depth go by the rule for files; colours are 8 bits, or numbers in 0..1."""
    if pixels.ndim == 3 and pixels.shape[2] == 1:
        pixels = pixels[..., 0]
    if pixels.ndim not in (2, 3) or (pixels.ndim == 3 and pixels.shape[2] != 3) or not pixels.size:
        raise ValueError(f"an array is a picture of shape (height, width) or (height, width, 3), got {pixels.shape}")
    if pixels.dtype.kind == "f" and reading.levels is None:
        if not (pixels.min() >= 0 and pixels.max() <= 1):
            raise ValueError(
                f"floating-point pixels are in 0..1, these are {pixels.min():g} to {pixels.max():g}; scale them, or "
                f"give what is normalised already to the model itself: model(images)"
            )
        pixels = (pixels * 255 + 0.5).astype(np.uint8)
    if pixels.dtype == np.uint8:
        return Image.fromarray(np.ascontiguousarray(pixels)).convert("RGB")
    if pixels.ndim == 2 and pixels.dtype.kind in "iuf":
        pixels = pixels.astype(np.uint16 if pixels.dtype == np.uint16 else np.float32)
        return to_rgb(Image.fromarray(pixels), reading.levels)
    raise ValueError(f"colours are uint8, or floating-point numbers in 0..1, got {pixels.dtype}")
