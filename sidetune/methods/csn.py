"""The compact side network of DTL: what it reads, what it writes, and how little it keeps for its gradients.

With z_i the input of block i, w_i = a_i c_i of rank d' and h_1 = 0 (Fu et al., AAAI 2024, and its journal version):

    h_{i+1} = h_i + z_i w_i                       (5)   what is read
    z'_{i+1} = z_{i+1} + g(theta(h_{i+1}))        (9)   what is written, for i >= M
    z'_{i+1} = z_{i+1} + G(h_{i+1})               (8)   in DTLv2, with
        G(h) = theta(g(h)) w' + h                 (7)   or, shared by blocks that have one h (L-Share),
        G'(h) = G(h) * gamma_i + beta_i           (9)
    theta(h) = h sigmoid(beta h)                        Swish; nearly a ReLU at beta = 100

h is made where it is written and again for the gradient, so that nothing d wide is kept but the z_i (see `hidden`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from sidetune.backbones.layout import Layout
from sidetune.methods.hidden import Hidden, LowRankMap, Skip, form, recomputed
from sidetune.methods.method import SideNetwork


class ShareScale(nn.Module):
    """gamma and beta of L-Share, which start as the identity."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(width))
        self.beta = nn.Parameter(torch.zeros(width))

    def forward(self, h: Tensor) -> Tensor:
        return h * self.gamma.to(h.dtype) + self.beta.to(h.dtype)


def fusion_kernel(width: int, kind: str, size: int) -> nn.Parameter:
    """What g convolves patches with; trained, but for `average`."""
    if kind == "average":
        return nn.Parameter(torch.full((width, 1, size, size), 1 / size**2), requires_grad=False)
    kernel = torch.empty(width, width if kind == "full" else 1, size, size)
    return nn.Parameter(nn.init.kaiming_uniform_(kernel, a=math.sqrt(5)))


class CompactSideNetwork(SideNetwork):
    """Block i reads by `w[i]` and writes by `g[g_of[i]]`, `w_prime[g_of[i]]` and `scale[i]`, as far as there are any.

    `stages` says in which stage a block is. h goes on from the stage before by `joins[stage]`, or starts at 0.
    """

    def __init__(
        self,
        *,
        w: Mapping[int, LowRankMap | Skip],
        g: Mapping[str, nn.Parameter],
        g_of: Mapping[int, str],
        writes: tuple[int, ...],
        stages: Mapping[int, int],
        beta: float | None,
        layout: Layout,
        w_prime: Mapping[str, LowRankMap] | None = None,
        scale: Mapping[int, ShareScale] | None = None,
        joins: Mapping[int, nn.Module] | None = None,
    ) -> None:
        super().__init__()
        self.reads, self.writes = tuple(w), writes
        self.w = nn.ModuleDict({str(i): m for i, m in w.items()})
        self.g, self.g_of = nn.ParameterDict(g), g_of
        self.w_prime = nn.ModuleDict(w_prime or {})
        self.scale = nn.ModuleDict({str(i): m for i, m in (scale or {}).items()})
        self.joins = nn.ModuleDict({str(stage): m for stage, m in (joins or {}).items()})
        self.stages, self.beta, self.layout = stages, beta, layout

    def w_of(self, block: int) -> LowRankMap | Skip:
        return cast("LowRankMap | Skip", self.w[str(block)])

    def at(self, block: int, state: Hidden | None) -> Hidden:
        """h in the shape of the block's stage; 0 where the stage is not joined to the one before."""
        stage = self.stages[block]
        while state is not None and state.stage < stage and str(state.stage + 1) in self.joins:
            state = self.joins[str(state.stage + 1)](state)
        return state if state is not None and state.stage == stage else Hidden(stage)

    def read(self, block: int, x: Tensor, state: Hidden | None) -> Hidden:
        return self.at(block, state).read(self.layout.to_side(x), self.w_of(block))

    def write(self, block: int, z: Tensor, state: Hidden) -> Tensor:
        state, kernel = self.at(block, state), self.kernel_of(block)
        if self.w_prime or self.scale or state.h is not None:
            return z + self.layout.from_side(recomputed(self.fused, block, state))
        s, c = state.factors()
        kernel = None if kernel is None else kernel.to(s.dtype)
        if torch.is_grad_enabled():
            added: Tensor = Written.apply(z, s, c, kernel, self.beta, self.layout)  # type: ignore[no-untyped-call]
            return added
        return written(z, s, c, kernel, self.beta, self.layout)

    def kernel_of(self, block: int) -> Tensor | None:
        key = self.g_of[block]
        return self.g[key] if key in self.g else None

    def fused(self, block: int, state: Hidden) -> Tensor:
        """What is added to the output of a block, in side form: G(h), or g(theta(h)) where there is no w'."""
        h, kernel, key = form(state), self.kernel_of(block), self.g_of[block]
        if key in self.w_prime:
            h = self.w_prime[key](theta(self.g_on_patches(h, kernel), self.beta)) + h
        else:
            h = self.g_on_patches(theta(h, self.beta), kernel)
        return self.scale[str(block)](h) if str(block) in self.scale else h

    def g_on_patches(self, h: Tensor, kernel: Tensor | None) -> Tensor:
        """g(h); class and register tokens skip g."""
        if kernel is None:
            return h
        prefix, patches = self.layout.split(h)
        mixed = self.layout.from_maps(convolve(self.layout.to_maps(patches), kernel.to(h.dtype)))
        return mixed if prefix is None else torch.cat([prefix, mixed], dim=1)


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
