"""Features: the one value that crosses between stations, taps with their tensors. They keep no graph at the seam."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from sidetune.seam.taps import Tap


@dataclass(frozen=True)
class Features:
    """The taps of a batch of images, each of shape (batch, ...) in the backbone's own layout."""

    taps: Mapping[Tap, Tensor]
    sizes: Tensor | None = None
    """Of images that were padded to a common size: the height and width that are theirs, (batch, 2) in pixels."""

    def __getitem__(self, tap: Tap) -> Tensor:
        return self.taps[tap]

    def __contains__(self, tap: Tap) -> bool:
        return tap in self.taps

    def __len__(self) -> int:
        """Images in the batch."""
        return len(self.tensors()[0])

    def tensors(self) -> list[Tensor]:
        return [t for _, t in self.named()]

    def named(self) -> list[tuple[str, Tensor]]:
        """The tensors by the spelling of their tap, in order."""
        return [(str(tap), self.taps[tap]) for tap in sorted(self.taps)]

    @property
    def nbytes(self) -> int:
        return sum(t.nbytes for t in self.tensors())

    def map(self, function: Callable[[Tensor], Tensor]) -> Features:
        """Apply a function that leaves all but the batch axis, the device and the type alone."""
        sizes = None if self.sizes is None else function(self.sizes)
        return Features({tap: function(t) for tap, t in self.taps.items()}, sizes)

    def to(self, device: torch.device | str, non_blocking: bool = False) -> Features:
        """The same features on another device (the signature of `Tensor.to`, so that data loaders can move them)."""
        return self.map(lambda t: t.to(device, non_blocking=non_blocking))


def join(parts: Sequence[Features], how: Callable[[list[Tensor]], Tensor]) -> Features:
    """Combine features that hold the same taps, tap by tap: `torch.stack` for images, `torch.cat` for batches."""
    sizes = [part.sizes for part in parts if part.sizes is not None]
    joined = {tap: how([part[tap] for part in parts]) for tap in parts[0].taps}
    return Features(joined, how(sizes) if sizes else None)


def from_named(tensors: Iterable[tuple[str, Tensor]]) -> Features:
    """What `Features.named` gave, as features."""
    return Features({Tap.named(name): tensor for name, tensor in tensors})


def widened(t: Tensor) -> Tensor:
    """In float32 or wider, as sums of taps are kept."""
    return t.to(torch.promote_types(t.dtype, torch.float32))
