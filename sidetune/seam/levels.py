"""Levels: the last outputs of a backbone's stages, as tasks read them that say something of every place of an image."""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import Tensor

from sidetune.backbones.backbone import Backbone
from sidetune.backbones.layout import Layout
from sidetune.seam.taps import Tap, block_output

NUM_LEVELS = 4
FINEST = 4
"""Pixels a place of the finest level, as pyramids of features have it."""


@dataclass(frozen=True, kw_only=True)
class Level:
    """A tap that is read as maps, with its number of channels and its reduction."""

    tap: Tap
    width: int
    """Channels."""
    reduction: int
    """Pixels, down and across, of a place."""
    layout: Layout

    def maps(self, z: Tensor) -> Tensor:
        """The tap's features -> (batch, channel, row, column); class tokens, registers and prompts are left out."""
        patches = self.layout.to_side(z)
        if self.layout.grid is not None:
            patches = patches[:, -math.prod(self.layout.grid) :]
        return self.layout.to_maps(patches)


def levels(backbone: Backbone) -> tuple[Level, ...]:
    """The levels of a backbone, the finest first: the last output at every reduction from 4 pixels on, or, of one that
    keeps its reduction throughout, the outputs after each quarter of its blocks.

    Levels of frozen blocks are the prefix's own; those behind the frozen depth are adapted.
    """
    height = backbone.card.image_size[0]
    rows = {i: rows_of(backbone, i) for i in backbone.blocks}
    ends = [i for i in backbone.blocks if i == backbone.num_blocks or rows[i] != rows[i + 1]]
    chosen = [i for i in ends if round(height / rows[i]) >= FINEST]
    if len(chosen) == 1:
        chosen = sorted({-(-backbone.num_blocks * quarter // NUM_LEVELS) for quarter in range(1, NUM_LEVELS + 1)})
    return tuple(
        Level(
            tap=block_output(i),
            width=backbone.output_width(i),
            reduction=round(height / rows[i]),
            layout=backbone.layout,
        )
        for i in chosen
    )


def rows_of(backbone: Backbone, block: int) -> int:
    """Rows of places that a block puts out."""
    if backbone.layout.grid is not None:
        return backbone.layout.grid[0]
    return backbone.output_shapes[block][1 if backbone.layout.channels_first else 0]
