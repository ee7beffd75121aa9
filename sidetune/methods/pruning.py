"""Cutting a ViT's blocks down to a fraction of their width: whole channels, those that matter most, stay.

What matters is the sum of an importance over a channel's weights: their magnitude, or their Fisher information (Li et
al., 2017; Sung et al., 2022). The residual stream keeps one set of channels in all blocks; every head keeps its own
query-key pairs and values, every MLP its own hidden units.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from timm.layers import Mlp
from timm.layers.attention import Attention
from timm.models.vision_transformer import Block
from torch import Tensor, nn

from sidetune.backbones.structure import rebuild

Importance = Mapping[int, Mapping[str, Tensor]]
"""By block, by name of a weight (`attn.qkv.weight`): a number for each of its entries."""

WEIGHTS = ("attn.qkv.weight", "attn.proj.weight", "mlp.fc1.weight", "mlp.fc2.weight")


def check_plain(block: Any, number: int, reduction: int) -> None:
    """Raise ValueError for a block that is no plain pre-norm transformer block, or cannot be divided."""
    plain = (
        isinstance(block, Block)
        and isinstance(block.attn, Attention)
        and isinstance(block.attn.q_norm, nn.Identity)
        and isinstance(block.mlp, Mlp)
    )
    if not plain:
        raise ValueError(f"block {number} is a {type(block).__name__} of an unusual build, which cannot be pruned")
    for what, size in {"head width": block.attn.head_dim, "hidden width": block.mlp.fc1.out_features}.items():
        if size % reduction:
            raise ValueError(f"reduction {reduction} does not divide the {what} of block {number}, {size}")


def small_block(block: Block, reduction: int) -> Block:
    """A block of the same build, `reduction` times narrower, with as many heads."""
    width, hidden = block.attn.proj.out_features // reduction, block.mlp.fc1.out_features // reduction
    has_bias = block.attn.qkv.bias is not None
    small = Block(width, block.attn.num_heads, mlp_ratio=hidden / width, qkv_bias=has_bias)
    for own, big in ((small.norm1, block.norm1), (small.norm2, block.norm2)):
        own.eps = big.eps
    return small


def magnitude(blocks: Mapping[int, nn.Module]) -> Importance:
    """Absolute values of the weights."""
    return {i: {name: block.get_parameter(name).detach().abs() for name in WEIGHTS} for i, block in blocks.items()}


def fisher(
    blocks: Mapping[int, nn.Module], examples: Iterable[tuple[Tensor, Tensor]], loss: Callable[[Tensor, Tensor], Tensor]
) -> Importance:
    """The empirical Fisher information: squared gradients of the loss, summed over images that are taken one by one.

    An example is (z_0 of one image, its label); `loss` is a function of the last tokens and the label.
    """
    awake = {
        i: rebuild(b, lambda name, t: nn.Parameter(t.detach(), name in WEIGHTS) if isinstance(t, nn.Parameter) else t)
        for i, b in blocks.items()
    }
    weights = {(i, name): b.get_parameter(name) for i, b in awake.items() for name in WEIGHTS}
    total = {key: torch.zeros_like(weight, dtype=torch.float32) for key, weight in weights.items()}
    for z, label in examples:
        with torch.enable_grad():
            for block in awake.values():
                z = block(z)
            gradients = torch.autograd.grad(loss(z, label), list(weights.values()))
        for key, gradient in zip(weights, gradients, strict=True):
            total[key] += gradient.float().square()
    return {i: {name: total[i, name] for name in WEIGHTS} for i in blocks}


@dataclass(frozen=True, kw_only=True)
class Kept:
    """What stays of one block; indices of channels."""

    stream: Tensor
    """Of the residual stream."""
    qkv: Tensor
    """Rows of the fused qkv."""
    values: Tensor
    """Columns of the output projection."""
    hidden: Tensor


def most_important(scores: Tensor, count: int) -> Tensor:
    """Indices of the `count` largest along the last axis, in order."""
    return scores.topk(count, dim=-1).indices.sort(dim=-1).values


def kept_stream(importance: Importance, width: int) -> Tensor:
    """The channels of the residual stream that matter most over all blocks: those read and those written."""
    scores = [
        of["attn.qkv.weight"].sum(0)
        + of["mlp.fc1.weight"].sum(0)
        + of["attn.proj.weight"].sum(1)
        + of["mlp.fc2.weight"].sum(1)
        for of in importance.values()
    ]
    return most_important(torch.stack(scores).sum(0), width)


def kept_in(block: Block, of: Mapping[str, Tensor], stream: Tensor, reduction: int) -> Kept:
    heads, size = block.attn.num_heads, block.attn.head_dim
    rows = of["attn.qkv.weight"].sum(1).view(3, heads, size)
    pairs = most_important(rows[0] + rows[1], size // reduction)  # a query's channel meets the same of the key
    values = most_important(rows[2] + of["attn.proj.weight"].sum(0).view(heads, size), size // reduction)
    of_head = torch.arange(heads, device=rows.device)[:, None] * size
    pairs, values = (of_head + pairs).flatten(), (of_head + values).flatten()
    hidden = of["mlp.fc1.weight"].sum(1) + of["mlp.fc2.weight"].sum(0)
    return Kept(
        stream=stream,
        qkv=torch.cat([pairs, heads * size + pairs, 2 * heads * size + values]),
        values=values,
        hidden=most_important(hidden, len(hidden) // reduction),
    )


@torch.no_grad()
def prune(blocks: Mapping[int, Block], into: Mapping[int, Block], importance: Importance, reduction: int) -> None:
    """Fill narrow blocks with what matters most of wide ones. LayerScale becomes part of the weights behind it."""
    stream = kept_stream(importance, next(iter(into.values())).attn.proj.out_features)
    for i, block in blocks.items():
        kept, small = kept_in(block, importance[i], stream, reduction), into[i]
        for layer, rows, columns, scale in (
            ("norm1", kept.stream, None, None),
            ("attn.qkv", kept.qkv, kept.stream, None),
            ("attn.proj", kept.stream, kept.values, block.ls1),
            ("norm2", kept.stream, None, None),
            ("mlp.fc1", kept.hidden, kept.stream, None),
            ("mlp.fc2", kept.stream, kept.hidden, block.ls2),
        ):
            gamma = getattr(scale, "gamma", None)
            for name, target in small.get_submodule(layer).named_parameters():
                source = block.get_parameter(f"{layer}.{name}")[rows]
                if source.ndim > 1:
                    source = source[:, columns]
                if gamma is not None:
                    source = source * (gamma[rows] if source.ndim == 1 else gamma[rows][:, None])
                target.copy_(source)
