"""What a service says of a backbone, and what a device compares with what it trained on."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Self

from sidetune.wire.ask import GATHERS, IMAGE, Ask
from sidetune.wire.codec import PRECISIONS
from sidetune.wire.compression import COMPRESSIONS
from sidetune.wire.message import WireError, parameters

PLATFORM = "pytorch_timm"
"""The protocol's form of it: PROJECT_FORMAT."""
VERSION = "1"
"""Of every model: other weights are another service's, or another name's; `fingerprint` tells them apart."""
OFFERED = ("gathers", "precisions", "compressions")
"""Fields that say what may be asked; the others decide what features are."""


@dataclass(frozen=True, kw_only=True)
class ModelCard:
    """A backbone behind a service: everything that decides what its features are, and what may be asked of it."""

    name: str
    """Under /v2/models/."""
    architecture: str
    """timm's name."""
    digest: str
    """SHA-256 of the weights."""
    image_size: tuple[int, int]
    """Height and width in pixels."""
    mean: tuple[float, ...]
    std: tuple[float, ...]
    """Of pixels in 0..1, by channel."""
    transform: str
    """The preset by which the service brings encoded images to `image_size`: vtab, photo or few-shot."""
    num_blocks: int
    """N; the taps are z_0 .. z_N."""
    width: int
    """Channels of a token."""
    grid: tuple[int, int]
    """Rows and columns of patch tokens."""
    num_prefix_tokens: int
    """Class and register tokens in front of them."""
    dtype: str = "fp32"
    """What the backbone computes in: fp32, bf16 or fp16."""
    gathers: tuple[str, ...] = tuple(GATHERS)
    precisions: tuple[str, ...] = PRECISIONS
    compressions: tuple[str, ...] = COMPRESSIONS

    @property
    def num_tokens(self) -> int:
        return self.num_prefix_tokens + self.grid[0] * self.grid[1]

    @property
    def fingerprint(self) -> str:
        """SHA-256 of what decides the features. Requests may name it, responses do."""
        decides = {k: v for k, v in asdict(self).items() if k not in OFFERED}
        return hashlib.sha256(json.dumps(decides, sort_keys=True).encode()).hexdigest()

    def shape(self, ask: Ask) -> tuple[int, ...]:
        """Of one image's features; raises ValueError for an ask that this backbone does not answer."""
        for what, asked, offered in (
            ("gather", ask.gather, self.gathers),
            ("precision", ask.precision, self.precisions),
            ("compression", ask.compression, self.compressions),
        ):
            if asked not in offered:
                raise ValueError(f"{self.name} does not offer {what} {asked}; it offers {', '.join(offered)}")
        if ask.k is not None and ask.k > self.num_blocks:
            raise ValueError(f"{self.name} has {self.num_blocks} blocks, so k is at most that; got {ask.k}")
        token = (self.width,)
        if ask.gather == "token":
            return token
        matrix = (self.num_tokens, *token)
        return (self.num_blocks + 1, *matrix) if ask.gather == "stack" else matrix

    def asks(self) -> list[Ask]:
        """Everything that may be asked, in fp32."""
        sums = [Ask(k=k) for k in range(self.num_blocks + 1)] if "sum" in self.gathers else []
        return sums + [Ask(gather=g) for g in self.gathers if g != "sum"]

    def default(self, precision: str = "fp32", compression: str = "none") -> Ask:
        """What a request gets that names no output: the sum of all taps, or the last one where there are no sums."""
        sums = "sum" in self.gathers
        k = self.num_blocks if sums else None
        return Ask(gather="sum" if sums else "last", k=k, precision=precision, compression=compression)

    def to_metadata(self) -> dict[str, Any]:
        """The protocol's model metadata, the card under `parameters`."""
        outputs = [{"name": a.name, "datatype": "FP32", "shape": [-1, *self.shape(a)]} for a in self.asks()]
        return {
            "name": self.name,
            "versions": [VERSION],
            "platform": PLATFORM,
            "inputs": [{"name": IMAGE, "datatype": "BYTES", "shape": [-1, 1]}],
            "outputs": outputs,
            "parameters": {**asdict(self), "fingerprint": self.fingerprint},
        }

    @classmethod
    def from_metadata(cls, metadata: Mapping[str, Any]) -> Self:
        """Read what `to_metadata` wrote, unknown fields aside; raises WireError if it is not a card."""
        said = parameters(metadata)
        if missing := [f.name for f in fields(cls) if f.name not in said]:
            raise WireError(f"this model's metadata say nothing of {', '.join(missing)}; is it served by sidetune?")
        card = cls(**{f.name: frozen(said[f.name]) for f in fields(cls)})
        for name in ("image_size", "grid"):
            if not pair_of_counts(getattr(card, name)):
                raise WireError(f"{name} must be two whole numbers, got {said[name]!r}")
        if any(type(getattr(card, n)) is not int for n in ("num_blocks", "width", "num_prefix_tokens")):
            raise WireError("num_blocks, width and num_prefix_tokens must be whole numbers")
        if said.get("fingerprint") != card.fingerprint:
            raise WireError("the fingerprint does not fit the card: this service and this client count it differently")
        return card


def frozen(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def pair_of_counts(value: object) -> bool:
    return isinstance(value, tuple) and len(value) == 2 and all(type(n) is int and n > 0 for n in value)
