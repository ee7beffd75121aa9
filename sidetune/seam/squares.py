"""Squared gradients of a loss by weights of the plain backbone, summed over examples.

What SPT calls sensitivity; and, of single images, the empirical Fisher information that LST prunes by.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Protocol

import torch
from torch import Tensor

Squares = Mapping[str, Tensor]
"""By the weight's name, in float32: a number for each of its entries."""


class Measured(Protocol):
    """The plain backbone with a head and training images in front of it: what a method may have measured there."""

    def squares(self, weights: Iterable[str]) -> Squares:
        """Of weights of blocks by the backbone's names (`blocks.3.attn.qkv.weight`), over all the images one by one."""
        ...


def squared_gradients(
    weights: Mapping[str, Tensor], examples: Iterable[Any], loss: Callable[[Any], Tensor]
) -> dict[str, Tensor]:
    """By name; empty without any example. `weights` ask for gradients, and `loss` of an example depends on them."""
    sums: dict[str, Tensor] = {}
    for example in examples:
        with torch.enable_grad():
            gradients = torch.autograd.grad(loss(example), list(weights.values()))
        for name, gradient in zip(weights, gradients, strict=True):
            squared = gradient.float().square()
            sums[name] = squared if name not in sums else sums[name].add_(squared)
    return sums
