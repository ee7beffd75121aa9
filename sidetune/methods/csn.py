"""The compact side network of DTL: what it reads, what it writes, and how little it keeps for its gradients.

With z_i the input of block i, w_i = a_i c_i of rank d' and h_1 = 0 (Fu et al., AAAI 2024):

    h_{i+1} = h_i + z_i w_i                       (5)   what is read
    z'_{i+1} = z_{i+1} + g(theta(h_{i+1}))        (9)   what is written, for i >= M
    theta(h) = h sigmoid(beta h)                        Swish; nearly a ReLU at beta = 100

Unrolled, h_{i+1} = s C with the *codes* s = [z_1 a_1, ..., z_i a_i] and C = [c_1; ...; c_i]: as many sums of d' numbers
a token as blocks were read, in place of d-wide ones. h is made from them where it is written and again for the
gradient, so that nothing d wide is kept but the z_i.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from sidetune.backbones.layout import Layout
from sidetune.methods.method import SideNetwork


class LowRankMap(nn.Module):
    """w = a c: d -> d' -> d without bias; a starts uniform and c at zero, so that h starts at zero."""

    def __init__(self, width: int, rank: int) -> None:
        super().__init__()
        self.a = nn.Parameter(torch.empty(rank, width))
        self.c = nn.Parameter(torch.zeros(width, rank))
        nn.init.kaiming_uniform_(self.a, a=math.sqrt(5))


def fusion_kernel(width: int, kind: str, size: int) -> nn.Parameter:
    """What g convolves patches with; trained, but for `average`."""
    if kind == "average":
        return nn.Parameter(torch.full((width, 1, size, size), 1 / size**2), requires_grad=False)
    kernel = torch.empty(width, width if kind == "full" else 1, size, size)
    return nn.Parameter(nn.init.kaiming_uniform_(kernel, a=math.sqrt(5)))


class State(NamedTuple):
    """h in factors."""

    codes: tuple[Tensor, ...]
    """z_j a_j of the blocks j read so far, in side form: (batch, ..., rank)."""
    blocks: tuple[int, ...]


class CompactSideNetwork(SideNetwork):
    def __init__(
        self,
        *,
        w: dict[int, LowRankMap],
        g: dict[str, nn.Parameter],
        g_of: dict[int, str],
        writes: tuple[int, ...],
        resets: frozenset[int],
        beta: float | None,
        layout: Layout,
    ) -> None:
        super().__init__()
        self.reads, self.writes = tuple(w), writes
        self.w = nn.ModuleDict({str(i): m for i, m in w.items()})
        self.g, self.g_of = nn.ParameterDict(g), g_of
        self.resets, self.beta, self.layout = resets, beta, layout

    def w_of(self, block: int) -> LowRankMap:
        return cast(LowRankMap, self.w[str(block)])

    def read(self, block: int, x: Tensor, state: State | None) -> State:
        code = F.linear(self.layout.to_side(x), self.w_of(block).a)
        before = State((), ()) if state is None or block in self.resets else state
        return State((*before.codes, code), (*before.blocks, block))

    def write(self, block: int, z: Tensor, state: State) -> Tensor:
        s = torch.cat(state.codes, dim=-1)
        c = torch.cat([self.w_of(i).c for i in state.blocks], dim=1).to(s.dtype)
        kernel = self.g[self.g_of[block]].to(s.dtype) if block in self.g_of else None
        if torch.is_grad_enabled():
            added: Tensor = Written.apply(z, s, c, kernel, self.beta, self.layout)  # type: ignore[no-untyped-call]
            return added
        return written(z, s, c, kernel, self.beta, self.layout)


def theta(h: Tensor, beta: float | None) -> Tensor:
    return h if beta is None else F.silu(beta * h) / beta


def theta_backward(grad: Tensor, h: Tensor, beta: float | None) -> Tensor:
    """grad theta'(h)"""
    return grad if beta is None else cast(Tensor, torch.ops.aten.silu_backward(grad, beta * h))


def written(z: Tensor, s: Tensor, c: Tensor, kernel: Tensor | None, beta: float | None, layout: Layout) -> Tensor:
    """z + g(theta(s c)); class and register tokens skip g."""
    if kernel is None:
        return z + layout.from_side(theta(F.linear(s, c), beta))
    prefix, patches = layout.split(s)
    h = layout.from_maps(convolve(layout.to_maps(theta(F.linear(patches, c), beta)), kernel))
    return z + layout.from_side(h if prefix is None else torch.cat([theta(F.linear(prefix, c), beta), h], dim=1))


def convolve(maps: Tensor, kernel: Tensor) -> Tensor:
    size, groups = kernel.shape[-1], maps.shape[1] // kernel.shape[1]
    if size % 2:
        return F.conv2d(maps, kernel, padding=size // 2, groups=groups)
    before, after = size // 2 - 1, size // 2
    return F.conv2d(F.pad(maps, (before, after, before, after)), kernel, groups=groups)


class Written(torch.autograd.Function):
    """`written`, which keeps s, c and the kernel for its gradients and makes h again from them."""

    @staticmethod
    def forward(
        ctx: Any, z: Tensor, s: Tensor, c: Tensor, kernel: Tensor | None, beta: float | None, layout: Layout
    ) -> Tensor:
        ctx.save_for_backward(s, c, kernel)
        ctx.beta, ctx.layout = beta, layout
        return written(z, s, c, kernel, beta, layout)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        s, c, kernel = ctx.saved_tensors
        beta, layout = ctx.beta, ctx.layout
        wide = layout.to_side(grad).to(s.dtype)
        grad_kernel = None
        if kernel is None:
            grad_h = theta_backward(wide, F.linear(s, c), beta)
        else:
            (s_prefix, s_patches), (prefix, patches) = layout.split(s), layout.split(wide)
            h = F.linear(s_patches, c)
            spread, grad_kernel = convolve_backward(
                layout.to_maps(patches), layout.to_maps(theta(h, beta)), kernel, ctx.needs_input_grad[3]
            )
            grad_h = theta_backward(layout.from_maps(spread), h, beta)
            if prefix is not None:
                grad_h = torch.cat([theta_backward(prefix, F.linear(s_prefix, c), beta), grad_h], dim=1)
        grad_s = F.linear(grad_h, c.T)
        grad_c = grad_h.flatten(0, -2).T @ s.flatten(0, -2)
        return grad, grad_s, grad_c, grad_kernel, None, None


def convolve_backward(grad: Tensor, maps: Tensor, kernel: Tensor, for_kernel: bool) -> tuple[Tensor, Tensor | None]:
    """Gradients of `convolve` for maps and kernel."""
    size, groups = kernel.shape[-1], maps.shape[1] // kernel.shape[1]
    before, after = (size - 1) // 2, size // 2
    padding, x = (size // 2, maps) if size % 2 else (0, F.pad(maps, (before, after, before, after)))
    grad_x, grad_kernel, _ = torch.ops.aten.convolution_backward(
        grad, x, kernel, None, (1, 1), (padding, padding), (1, 1), False, (0, 0), groups, (True, for_kernel, False)
    )
    if size % 2 == 0:
        grad_x = grad_x[:, :, before:-after, before:-after] if before else grad_x[:, :, :-after, :-after]
    return grad_x, grad_kernel if for_kernel else None
