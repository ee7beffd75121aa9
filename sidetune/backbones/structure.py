"""Copies of a module's structure that share, move or own its tensors as the caller decides."""

import copy
from collections.abc import Callable
from typing import TypeVar

import torch
from torch import Tensor, nn

M = TypeVar("M", bound=nn.Module)


def rebuild(module: M, tensor: Callable[[str, Tensor], Tensor]) -> M:
    """Copy the module; each parameter and buffer `t` called `name` becomes `tensor(name, t)` in the copy.

    Returning `t` itself shares it, so a copy costs no memory unless it is asked to.
    """
    memo: dict[int, Tensor] = {}
    for named in (module.named_parameters(remove_duplicate=False), module.named_buffers(remove_duplicate=False)):
        for name, t in named:
            if id(t) not in memo:
                memo[id(t)] = tensor(name, t)
    return copy.deepcopy(module, dict[int, object](memo))


def shared(module: M) -> M:
    """A copy of the structure with the very same tensors."""
    return rebuild(module, lambda _, t: t)


def frozen(t: Tensor) -> Tensor:
    """The same storage as a parameter that asks for no gradient (buffers stay what they are)."""
    return nn.Parameter(t.detach(), requires_grad=False) if isinstance(t, nn.Parameter) else t


def owned(t: Tensor) -> Tensor:
    """A copy of the tensor; parameters become trainable."""
    own = t.detach().clone()
    return nn.Parameter(own, requires_grad=True) if isinstance(t, nn.Parameter) else own


def empty(_: str, t: Tensor) -> Tensor:
    """A new tensor like this one, without values under a FakeTensorMode; floating-point ones in float32."""
    bare = torch.empty(t.shape, dtype=torch.float32 if t.is_floating_point() else t.dtype)
    return nn.Parameter(bare, requires_grad=t.requires_grad) if isinstance(t, nn.Parameter) else bare
