"""How a tap is written: as computed, in 16 bits, or in 8 bits with a scale for every token."""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor

Codec = Literal["same", "fp16", "bf16", "int8"]
CODECS: tuple[str, ...] = get_args(Codec)
TYPES = {"fp16": torch.float16, "bf16": torch.bfloat16}


def encode(t: Tensor, codec: Codec, channel_axis: int) -> dict[str, Tensor]:
    """The tensors that stand for `t`, by suffix of their name; `t` is (image, ...)."""
    if codec == "same":
        return {"": t}
    if codec != "int8":
        return {"": t.to(TYPES[codec])}
    scale = (t.abs().amax(dim=channel_axis, keepdim=True).float() / 127).clamp(min=1e-12)
    return {"": (t / scale).round().to(torch.int8), ".scale": scale}


def decode(parts: dict[str, Tensor], dtype: torch.dtype) -> Tensor:
    """What `encode` took apart, in `dtype`."""
    if ".scale" in parts:
        return (parts[""] * parts[".scale"]).to(dtype)
    return parts[""].to(dtype)
