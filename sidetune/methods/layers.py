"""What methods have to know of the layers they wrap: linear ones (1 x 1 convolutions count), convolutions and norms."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from timm.layers.norm import LayerNorm2d
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from sidetune.backbones.family import Family, Role


def lacks(family: Family, *roles: Role) -> str:
    """Why nothing is done to layers of roles that a family, asked for these, does not have."""
    if family.convolutions:
        return "its blocks are convolutions"
    return f"its family names no layer for {', '.join(role for role in roles if not family.has(role))} (roles)"


LinearLayer = nn.Linear | nn.Conv2d


def linear_layer(block: nn.Module, name: str, number: int) -> LinearLayer:
    """A linear layer of a block. Raises ValueError if what stands there is none."""
    try:
        layer = block.get_submodule(name)
    except AttributeError:
        raise ValueError(f"block {number} is a {type(block).__name__} without {name}") from None
    if isinstance(layer, nn.Linear) or (isinstance(layer, nn.Conv2d) and layer.kernel_size == (1, 1)):
        return layer
    raise ValueError(f"{name} of block {number} is a {type(layer).__name__}; only linear layers can be adapted so")


def channels_first(layer: nn.Module) -> bool:
    """Whether a layer works on maps (batch, channel, row, column)."""
    return isinstance(layer, (nn.Conv2d, LayerNorm2d))


def to_last(x: Tensor, layer: nn.Module) -> Tensor:
    """What goes into or comes out of a layer, with its channel axis last."""
    return x.movedim(1, -1) if channels_first(layer) else x


def from_last(x: Tensor, layer: nn.Module) -> Tensor:
    """What `to_last` changed, in the layer's own layout."""
    return x.movedim(-1, 1) if channels_first(layer) else x


def matrix(layer: LinearLayer) -> Tensor:
    """The weight as (out, in)."""
    return layer.weight.flatten(1)


def with_bias(layer: nn.Module) -> Any:
    """A plain copy of a layer, which has a bias even if the layer has none."""
    copied: Any = copy.deepcopy(layer)
    if copied.bias is None:
        copied.bias = nn.Parameter(copied.weight.new_zeros(len(copied.weight)), requires_grad=False)
    return copied


def with_added(layer: LinearLayer, delta: Tensor) -> LinearLayer:
    """A plain copy of a layer with something added to its weight."""
    copied = copy.deepcopy(layer)
    copied.weight += delta.view_as(copied.weight)
    return copied


def remade_linear(
    x: Tensor, layer: LinearLayer, bias: Tensor | None, remake: Callable[..., Tensor], *parameters: Tensor
) -> Tensor:
    """What a linear layer computes with another bias, and `remake(weight, *parameters)` in place of its weight.

    Only x and the parameters are kept for the gradient: the weight is made again.
    """
    maps = channels_first(layer)
    y: Tensor = Remade.apply(x, matrix(layer), bias, maps, remake, *parameters)  # type: ignore[no-untyped-call]
    return y


def affine(x: Tensor, weight: Tensor, bias: Tensor | None, maps: bool) -> Tensor:
    """x W^T + b on the channel axis, which is the second of maps and the last of everything else."""
    return F.conv2d(x, weight[:, :, None, None], bias) if maps else F.linear(x, weight, bias)


def check_width(name: str, value: int, width: int) -> None:
    """Raise ValueError for a choice that may not be larger than the backbone is wide."""
    if value > width:
        raise ValueError(f"{name} is {value}, above the width of the backbone, {width}")


class Remade(torch.autograd.Function):
    """`affine` with the weight remake(W, p), W being frozen."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        maps: bool,
        remake: Callable[..., Tensor],
        *parameters: Tensor,
    ) -> Tensor:
        ctx.save_for_backward(x, weight, *parameters)
        ctx.maps, ctx.remake = maps, remake
        w = remake(weight, *parameters)
        if not torch.is_autocast_enabled(x.device.type):
            w, bias = w.to(x.dtype), None if bias is None else bias.to(x.dtype)
        return affine(x, w, bias, maps)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, *parameters = ctx.saved_tensors
        with torch.enable_grad():
            leaves = [p.detach().requires_grad_() for p in parameters]
            w = ctx.remake(weight, *leaves)
        inputs, grads = (t.movedim(1, -1).flatten(0, -2) if ctx.maps else t.flatten(0, -2) for t in (x, grad))
        grad_w = grads.T @ inputs.to(grad.dtype)
        grad_x = affine(grad, w.detach().to(grad.dtype).T, None, ctx.maps) if ctx.needs_input_grad[0] else None
        grad_bias = grads.sum(0) if ctx.needs_input_grad[2] else None
        made = torch.autograd.grad(w, leaves, grad_w.to(w.dtype))
        return None if grad_x is None else grad_x.to(x.dtype), None, grad_bias, None, None, *made
