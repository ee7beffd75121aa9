"""Which part of a picture is seen, and how large: what is done before pixels become numbers.

Without PyTorch: the processes in which the service decodes pictures do it too, and hand back no more than is seen.
"""

from __future__ import annotations

from dataclasses import dataclass

from PIL import Image

LONGEST = 20
"""Times the shorter side that is kept of the longer one, before both are enlarged and the middle is cut out."""


@dataclass(frozen=True, kw_only=True)
class Geometry:
    """Resizes, by a bicubic filter with antialiasing, and cuts out the middle, to the pixel as torchvision does."""

    size: tuple[int, int]
    """Height and width of what comes out."""
    resize: tuple[int, int] | int
    """Height and width to which a picture is brought before, or its shorter side, where it keeps its form."""

    def __call__(self, picture: Image.Image) -> Image.Image:
        if isinstance(self.resize, int):
            picture = shortened(picture)
            shorter = min(picture.size)
            width, height = (int(self.resize * side / shorter) for side in picture.size)
        else:
            height, width = self.resize
        picture = picture.resize((width, height), Image.Resampling.BICUBIC)
        left, top = (round((have - seen) / 2) for have, seen in ((width, self.size[1]), (height, self.size[0])))
        return picture.crop((left, top, left + self.size[1], top + self.size[0]))


def shortened(picture: Image.Image) -> Image.Image:
    """The middle of a strip, so that a line of pixels takes no more memory than a picture."""
    width, height = picture.size
    longest = LONGEST * min(width, height)
    if max(width, height) <= longest:
        return picture
    left, top = max(width - longest, 0) // 2, max(height - longest, 0) // 2
    return picture.crop((left, top, left + min(width, longest), top + min(height, longest)))
