"""What a file alone does not say of how to read it."""

from __future__ import annotations

from dataclasses import dataclass

Levels = tuple[float, float]
"""The grey values that become black and white."""


@dataclass(frozen=True, kw_only=True)
class Reading:
    levels: Levels | None = None
    """For pictures of more than 8 bits; each picture's own range if None (`sidetune.data.pixels`)."""
    max_pixels: int | None = None
    """Larger pictures are refused; None: Pillow's bound against decompression bombs, 179 million. More is allowed for
    the whole process, as Pillow has it."""

    def __post_init__(self) -> None:
        if self.levels is not None and not self.levels[0] < self.levels[1]:
            raise ValueError(f"levels are the values of black and of white, black below white, got {self.levels}")
        if self.max_pixels is not None and self.max_pixels < 1:
            raise ValueError(f"max_pixels must be at least 1, got {self.max_pixels}")
