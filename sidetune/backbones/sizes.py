"""Which sizes of images an opened network takes: the one it was opened for, or any of a step."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

Size = tuple[int, int]
"""Height and width."""


@dataclass(frozen=True, kw_only=True)
class Steps:
    """Any height and width that are multiples of these, and not below `least`: the network's maps follow the images."""

    of: Size = (1, 1)
    least: Size = (1, 1)

    def fits(self, size: Size) -> bool:
        return all(n % step == 0 and n >= least for n, step, least in zip(size, self.of, self.least, strict=True))

    def __str__(self) -> str:
        steps = "" if self.of == (1, 1) else f"multiples of {self.of[0]} x {self.of[1]} pixels, "
        return f"{steps}from {self.least[0]} x {self.least[1]} on"


def check_images(images: Tensor, opened: Size, steps: Steps | None = None) -> None:
    """Raise ValueError for images that are no batch of (3, height, width), or of a size that the network, open for
    one, does not take."""
    given = tuple(images.shape)
    if len(given) == 4 and given[1] == 3 and (given[2:] == opened or (steps is not None and steps.fits(given[2:]))):
        return
    if steps is None:
        raise ValueError(
            f"expected images of shape (batch, 3, {opened[0]}, {opened[1]}), got {given}; "
            f"resize them, or open the backbone with image_size="
        )
    raise ValueError(f"expected images of shape (batch, 3, height, width), height and width {steps}; got {given}")
