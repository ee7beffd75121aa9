"""A pretrained network opened up: stem -> blocks grouped in stages -> norm -> pooled feature."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import nn

from sidetune.backbones.family import Family as Family
from sidetune.backbones.family import Parts as Parts
from sidetune.backbones.held import Copies
from sidetune.backbones.sizes import Size
from sidetune.backbones.traced import on_meta


@dataclass(frozen=True, kw_only=True)
class Card:
    """Which network this is: what is kept with everything that is trained on it."""

    name: str
    """What `open_backbone` was given, so that a saved adapter finds its backbone again; '' for a caller's module."""
    architecture: str
    """timm's name of the architecture."""
    family: str
    """The name of its family."""
    digest: str
    """SHA-256 of the weights before any resampling to another image size."""
    image_size: tuple[int, int]
    """Height and width in pixels."""
    mean: tuple[float, ...]
    std: tuple[float, ...]
    """The normalisation of the network's own configuration, for pixels in 0..1."""
    revised: bool = False
    """Whether version 0.1 made something else of these weights at this size (Swin's windows, its padded edges)."""

    @property
    def identity(self) -> str:
        """What features, trained parts and services name the network by: `digest`, unless that was 0.1's name for
        something else."""
        return identity_of(self.digest, self.revised)

    def described(self) -> dict[str, Any]:
        """The fields, as saved models, runs and stores keep them: those that version 0.1 did not have only where they
        say something."""
        about = asdict(self)
        return {**{name: value for name, value in about.items() if value or name not in SINCE}, "digest": self.identity}


SINCE = ("revised",)
"""Fields that version 0.1 did not have."""


def identity_of(digest: str, revised: bool) -> str:
    return hashlib.sha256(f"{digest} revised".encode()).hexdigest() if revised else digest


@dataclass(frozen=True, kw_only=True, eq=False)
class Backbone(Parts):
    """A frozen, opened network and what is known of it. Nothing in it is ever changed; models share it."""

    card: Card
    input_shapes: Mapping[int, tuple[int, ...]]
    """By block: the shape of its input without the batch axis."""
    output_shapes: Mapping[int, tuple[int, ...]]
    """By block, 0 being the stem: the shape of its output without the batch axis."""
    num_features: int
    """Width of the pooled feature."""
    native_size: tuple[int, int]
    """Height and width that the network came with."""
    called: Mapping[str, frozenset[str]]
    """By part, poolings as `pools.mean`: the layers that it calls as modules, of which others may take the place."""
    copies: Copies = field(default_factory=Copies)
    """Of its weights, in other types and on other devices, as its models hold them."""

    @property
    def num_blocks(self) -> int:
        return len(self.blocks)

    def width(self, block: int) -> int:
        """Channels of the block's input."""
        return self.input_shapes[block][0 if self.layout.channels_first else -1]

    def output_width(self, block: int) -> int:
        """Channels of the block's output; of the stem's for block 0."""
        return self.output_shapes[block][0 if self.layout.channels_first else -1]

    def pool_named(self, name: str) -> str:
        """The pooling that `native`, or its own name, means here. Raises ValueError, listing them, for another."""
        pool = self.native_pool if name == "native" else name
        if pool not in self.pools:
            raise ValueError(f"pool {name!r} does not exist here; known: native, {', '.join(self.pools)}")
        return pool

    def places_after(self, first: int, places: Size) -> Size:
        """Rows and columns of maps in the stage that begins with block `first`, from those in the stage before."""
        width = self.output_width(first - 1)
        shape = (width, *places) if self.layout.channels_first else (*places, width)
        between = [self.transitions[first]] if first in self.transitions else []
        passed = nn.Sequential(*between, *([] if self.keeps_shape(first) else [self.blocks[first]]))
        dtype = next((p.dtype for p in passed.parameters()), torch.float32)
        with torch.no_grad():
            z = on_meta(passed)(torch.empty(1, *shape, dtype=dtype, device="meta"))
        rows, columns = z.shape[2:] if self.layout.channels_first else z.shape[1:3]
        return rows, columns

    def keeps_shape(self, block: int) -> bool:
        """Whether the block's output has the shape of its input (the first block of a ResNet stage does not)."""
        return self.input_shapes[block] == self.output_shapes[block]
