"""One vector an image and a linear layer on it."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Literal

from torch import Tensor, nn

from sidetune.errors import unknown
from sidetune.seam.features import Features
from sidetune.seam.readout import Readout

HeadStart = Literal["normal", "zero", "kaiming"]

HEAD_STARTS: dict[HeadStart, Callable[[Tensor], Tensor]] = {
    "normal": partial(nn.init.trunc_normal_, std=0.02),
    "zero": nn.init.zeros_,
    "kaiming": partial(nn.init.kaiming_normal_, a=0, mode="fan_out"),
}


class LinearHead(nn.Linear):
    """A linear layer with zero bias on what a readout makes of its tap."""

    def __init__(self, readout: Readout, num_outputs: int, start: HeadStart = "normal") -> None:
        """`start`, of the weights: `normal` (of 0.02, truncated; the DTL authors'), `zero`, `kaiming` (normal of
        sqrt(2 / outputs))."""
        super().__init__(readout.width, num_outputs)
        self.readout = readout
        if start not in HEAD_STARTS:
            raise unknown("head start", start, HEAD_STARTS)
        HEAD_STARTS[start](self.weight)
        nn.init.zeros_(self.bias)

    def forward(self, given: Features | Tensor) -> Tensor:
        """Features with the tap, or vectors (batch, channel) -> (batch, output)."""
        x = self.readout(given[self.readout.tap]) if isinstance(given, Features) else given
        return super().forward(x)
