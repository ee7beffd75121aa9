"""How a tap becomes one vector an image: what methods suggest to tasks that read one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol

from torch import Tensor
from torch.nn import functional as F

from sidetune.backbones.backbone import Backbone
from sidetune.backbones.layout import Layout
from sidetune.seam.taps import Tap, block_output, pooled


class Readout(Protocol):
    """How a tap becomes one vector an image."""

    @property
    def tap(self) -> Tap: ...

    @property
    def width(self) -> int: ...

    def __call__(self, z: Tensor) -> Tensor:
        """The tap's features -> (batch, width)."""
        ...


@dataclass(frozen=True)
class Pooled:
    """The backbone's own pooling, which is a tap."""

    name: str
    width: int

    @property
    def tap(self) -> Tap:
        return pooled(self.name)

    def __call__(self, z: Tensor) -> Tensor:
        return z


@dataclass(frozen=True)
class Normed:
    """LayerNorm without weights over a block's output, then the class token or the mean over patches."""

    block: int
    width: int
    layout: Layout
    kind: Literal["token", "mean"]

    @property
    def tap(self) -> Tap:
        return block_output(self.block)

    def __call__(self, z: Tensor) -> Tensor:
        x = F.layer_norm(self.layout.to_side(z), (self.width,), eps=1e-6)
        return x[:, 0] if self.kind == "token" else self.layout.mean(self.layout.from_side(x))


def native(backbone: Backbone, pool: str) -> Pooled:
    """The pooling of a name, or the one that a backbone was pretrained with. Raises ValueError for another."""
    return Pooled(backbone.pool_named(pool), backbone.num_features)
