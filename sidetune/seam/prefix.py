"""The frozen half: images in, features out, nothing kept and nothing changed.

The freeze contract: parameters ask for no gradient, the modules stay in eval mode whatever `train()` is called on them
(dropout and stochastic depth sleep, BatchNorm keeps its statistics), and the forward pass records no graph.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

from sidetune.backbones.backbone import Backbone
from sidetune.backbones.held import hold, is_low, natively
from sidetune.backbones.sizes import check_images
from sidetune.backbones.structure import shared
from sidetune.seam.features import Features, widened
from sidetune.seam.taps import (
    Need,
    Tap,
    block_input,
    block_output,
    last_block,
    numbers,
    pooled,
    poolings,
    sum_of_taps,
)


class Prefix(nn.Module):
    """Stem, blocks and poolings: as much of a backbone as `need` asks for, or a part of that."""

    def __init__(self, backbone: Backbone, need: Need) -> None:
        super().__init__()
        sums = numbers(need, "sum")
        if sums and (changing := [i for i in backbone.blocks if not backbone.keeps_shape(i)]):
            raise ValueError(f"taps cannot be summed: blocks {changing} change the shape of what they are given")
        self.image_size, self.steps, self.copies = backbone.card.image_size, backbone.steps, backbone.copies
        self.stem = shared(backbone.stem)
        run = range(1, last_block(need, backbone.num_blocks) + 1)
        self.blocks = nn.ModuleDict({str(i): shared(backbone.blocks[i]) for i in run})
        self.transitions = nn.ModuleDict(
            {str(i): shared(t) for i, t in backbone.transitions.items() if i in run or sums}
        )
        self.pools = nn.ModuleDict({name: shared(backbone.pools[name]) for name in poolings(need)})
        self.dtype = torch.float32
        self.eval()

    def hold(self, device: torch.device, dtype: torch.dtype, weights: str = "same") -> None:
        """Hold the weights, and from now on compute, in a floating-point type."""
        hold(self, device, dtype, self.copies, weights)
        self.dtype = dtype

    def train(self, mode: bool = True) -> Prefix:
        """Stays in eval mode."""
        return super().train(False)

    @torch.no_grad()
    def forward(self, images: Float[Tensor, "batch 3 height width"], need: Need) -> Features:
        """Run no further than `need` asks; raises ValueError for images of a size that the backbone does not take."""
        check_images(images, self.image_size, self.steps)
        with natively(images.device, self.dtype):
            return self.step_through(images.to(self.dtype) if is_low(self.dtype) else images, need)

    def step_through(self, images: Tensor, need: Need) -> Features:
        taps: dict[Tap, Tensor] = {}

        def take(tap: Tap, t: Tensor) -> None:
            if tap in need:
                taps[tap] = in_compute_type(t)

        z = self.stem(images)
        sums = numbers(need, "sum")
        total = widened(z) if sums else None
        for number in range(last_block(need, len(self.blocks)) + 1):
            if number:
                if (transition := str(number)) in self.transitions:
                    z = self.transitions[transition](z)
                    total = None if total is None else widened(self.transitions[transition](total.to(z.dtype)))
                take(block_input(number), z)
                z = self.blocks[str(number)](z)
                total = None if total is None else total + z
            take(block_output(number), z)
            if number in sums:
                assert total is not None
                take(sum_of_taps(number), self.to_last_stage(total.to(z.dtype), number))
        for name in poolings(need):
            take(pooled(name), self.pools[name](z))
        return Features(taps)

    def to_last_stage(self, total: Tensor, block: int) -> Tensor:
        """A sum up to a block, in the shape of the last stage: the transitions still to come bring it there."""
        for number, transition in self.transitions.items():
            if int(number) > block:
                total = transition(total)
        return total


def in_compute_type(t: Tensor) -> Tensor:
    """Taps cross the seam in the type that autocast computes in, where it is on."""
    kind = t.device.type
    return t.to(torch.get_autocast_dtype(kind)) if torch.is_autocast_enabled(kind) else t
