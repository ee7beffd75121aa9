"""What is asked of a backbone: which features, in how many bits, packed or not."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Self

from sidetune.errors import shown, unknown
from sidetune.seam.taps import Tap, block_output, pooled, sum_of_taps
from sidetune.wire.codec import PRECISIONS
from sidetune.wire.compression import COMPRESSIONS

GATHERS = {
    "sum": "z_0 + ... + z_k",
    "last": "z_N, the last block's output",
    "token": "the class token of z_N behind the backbone's final norm",
    "stack": "z_0 ... z_N, one after the other",
}
IMAGE = "image"
NUMBER = re.compile("0|[1-9][0-9]{0,3}")


@dataclass(frozen=True, kw_only=True)
class Ask:
    """One output of a request; asks of one request may differ in everything."""

    gather: str = "sum"
    k: int | None = None
    """Of a sum: its last tap, 0..N."""
    precision: str = "fp32"
    compression: str = "none"

    def __post_init__(self) -> None:
        if self.gather not in GATHERS:
            raise unknown("gather", self.gather, GATHERS)
        if self.precision not in PRECISIONS:
            raise unknown("precision", self.precision, PRECISIONS)
        if self.compression not in COMPRESSIONS:
            raise unknown("compression", self.compression, COMPRESSIONS)
        if (self.gather == "sum") != (self.k is not None):
            raise ValueError(f"k is for gather='sum', which needs it; got gather={self.gather!r}, k={self.k}")
        if self.k is not None and self.k < 0:
            raise ValueError(f"k must be at least 0, got {self.k}")

    @property
    def name(self) -> str:
        """The output's name on the wire: sum.12, last, token, stack."""
        return self.gather if self.k is None else f"{self.gather}.{self.k}"

    def taps(self, num_blocks: int) -> tuple[Tap, ...]:
        """What a backbone of so many blocks has to give for it."""
        if self.k is not None:
            return (sum_of_taps(self.k),)
        if self.gather == "token":
            return (pooled("token"),)
        first = 0 if self.gather == "stack" else num_blocks
        return tuple(block_output(i) for i in range(first, num_blocks + 1))

    @classmethod
    def named(cls, name: str, precision: str = "fp32", compression: str = "none") -> Self:
        """The ask behind an output's name; raises ValueError for a name that is none."""
        gather, _, k = name.partition(".")
        if gather not in GATHERS or not (NUMBER.fullmatch(k) if gather == "sum" else name == gather):
            raise ValueError(f"unknown output {shown(name)}; known: sum.K with K = 0..N, last, token, stack")
        return cls(gather=gather, k=int(k) if k else None, precision=precision, compression=compression)
