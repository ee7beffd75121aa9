"""Frozen linear layers with weights of 8 bits and a scale for each output, half the bytes of bf16.

W = s C with codes C in -127..127, so that x W^T = (x C^T) s. The backward pass makes the weight from its codes again;
kept for the gradient is neither it nor x.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F
from torch.utils.weak import TensorWeakRef, WeakIdKeyDictionary

Codes = WeakIdKeyDictionary
"""By weight: its codes and scales that are in use."""


class EightBitLinear(nn.Module):
    """A linear layer whose weight is frozen and rounded; its bias is the layer's own, trained or not."""

    def __init__(self, codes: Tensor, scale: Tensor, bias: nn.Parameter | None) -> None:
        super().__init__()
        self.codes: Tensor
        self.scale: Tensor
        self.register_buffer("codes", codes)
        self.register_buffer("scale", scale)
        self.bias = bias

    def forward(self, x: Tensor) -> Tensor:
        x = x.to(torch.get_autocast_dtype(x.device.type)) if torch.is_autocast_enabled(x.device.type) else x
        if torch.is_grad_enabled() and x.requires_grad:
            y: Tensor = Product.apply(x, self.codes, self.scale)  # type: ignore[no-untyped-call]
        else:
            y = product(x, self.codes, self.scale)
        return y if self.bias is None else y + self.bias.to(y.dtype)

    @property
    def weight(self) -> Tensor:
        """What the codes stand for, for those who change weights rather than outputs."""
        return self.codes * self.scale[:, None]

    @torch.no_grad()
    def merge(self) -> nn.Linear:
        """A plain layer that computes the same."""
        num_outputs, num_inputs = self.codes.shape
        plain = nn.Linear(num_inputs, num_outputs, self.bias is not None, self.codes.device, torch.float32)
        plain.weight.copy_(self.weight)
        if self.bias is not None:
            plain.bias.copy_(self.bias)
        return plain.requires_grad_(False)


def product(x: Tensor, codes: Tensor, scale: Tensor) -> Tensor:
    return F.linear(x, codes.to(x.dtype)) * scale.to(x.dtype)


class Product(torch.autograd.Function):
    """`product`, which keeps nothing but the codes it was given."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, codes: Tensor, scale: Tensor) -> Tensor:
        ctx.save_for_backward(codes, scale)
        return product(x, codes, scale)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        codes, scale = ctx.saved_tensors
        return (grad * scale.to(grad.dtype)) @ codes.to(grad.dtype), None, None


def hold_in_eight_bits(module: nn.Module, known: Codes) -> None:
    """Replace every linear layer inside a module whose weight is frozen; weights that are `known` are shared."""
    for name, layer in list(module.named_modules()):
        if type(layer) is nn.Linear and not layer.weight.requires_grad:
            module.set_submodule(name, EightBitLinear(*codes_of(layer.weight, known), layer.bias))


def codes_of(weight: Tensor, known: Codes) -> tuple[Tensor, Tensor]:
    """Codes (out, in) and scales (out,) of a weight; the same tensors for the same weight."""
    found = known.get(weight)
    codes, scale = (found[0](), found[1]()) if found else (None, None)
    if codes is None or scale is None:
        exact = weight.detach().float()
        scale = exact.abs().amax(dim=1).clamp(min=torch.finfo(torch.float32).tiny) / 127
        codes = (exact / scale[:, None]).round().to(torch.int8)
        known[weight] = TensorWeakRef(codes), TensorWeakRef(scale)
    return codes, scale
