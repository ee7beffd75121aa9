"""How features lie in memory: tokens, channels-last maps or channels-first maps. The only place that knows."""

from dataclasses import dataclass

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

    def split(self, h: Tensor) -> tuple[Tensor | None, Tensor]:
        """Side form -> class and register tokens (None if there are none), and the rest."""
        if not self.num_prefix_tokens:
            return None, h
        return h[:, : self.num_prefix_tokens], h[:, self.num_prefix_tokens :]

    def to_maps(self, patches: Tensor) -> Tensor:
        """Patches in side form -> a channels-first view (batch, channel, row, column)."""
        return (patches if self.grid is None else patches.unflatten(1, self.grid)).movedim(-1, 1)

    def from_maps(self, maps: Tensor) -> Tensor:
        """What `to_maps` made of them -> patches in side form."""
        patches = maps.movedim(1, -1)
        return patches if self.grid is None else patches.flatten(1, 2)

    def mean(self, z: Tensor) -> Tensor:
        """The mean over patches, (batch, channel)."""
        if self.grid is not None:
            return z[:, self.num_prefix_tokens :].mean(dim=1)
        return z.mean(dim=(2, 3) if self.channels_first else (1, 2))
