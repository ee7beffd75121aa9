"""How features lie in memory: tokens, channels-last maps or channels-first maps. The only place that knows."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class Layout:
    """The layout of the tensors that blocks pass on.

    Tokens are (batch, prefix + rows * columns, channel); maps are (batch, row, column, channel) or, with
    `channels_first`, (batch, channel, row, column). Side networks work on the *side form*: the same tensor with the
    channel axis last.
    """

    channels_first: bool = False
    num_prefix_tokens: int = 0
    """Class and register tokens in front of the patch tokens."""
    grid: tuple[int, int] | None = None
    """Rows and columns of patch tokens; None where features are maps."""

    def to_side(self, z: Tensor) -> Tensor:
        """Block features -> side form."""
        return z.movedim(1, -1) if self.channels_first else z

    def from_side(self, h: Tensor) -> Tensor:
        """Side form -> block features."""
        return h.movedim(-1, 1) if self.channels_first else h

    def on_patches(self, h: Tensor, function: Callable[[Tensor], Tensor]) -> Tensor:
        """Apply a function of (batch, channel, row, column) maps to the patches of `h`, given in side form.

        Class and register tokens skip it.
        """
        if self.grid is None:
            return function(h.movedim(-1, 1)).movedim(1, -1)
        prefix, patches = h[:, : self.num_prefix_tokens], h[:, self.num_prefix_tokens :]
        patches = function(patches.transpose(1, 2).unflatten(2, self.grid)).flatten(2).transpose(1, 2)
        return torch.cat([prefix, patches], dim=1)

    def mean(self, z: Tensor) -> Tensor:
        """The mean over patches, (batch, channel)."""
        if self.grid is not None:
            return z[:, self.num_prefix_tokens :].mean(dim=1)
        return z.mean(dim=(2, 3) if self.channels_first else (1, 2))
