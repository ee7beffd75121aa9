"""Cutting a ViT's blocks down to a fraction of their width: whole channels, those that matter most, stay.

What matters is the sum of an importance over a channel's weights: their magnitude, or their Fisher information (Li et
al., 2017; Sung et al., 2022). The residual stream keeps one set of channels in all blocks; every head keeps its own
query-key pairs and values, every MLP its own hidden units.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from sidetune.backbones.family import Role
from sidetune.seam.squares import Measured

Importance = Mapping[int, Mapping[Role, Tensor]]
"""By block, by layer: a number for each entry of its weight."""
Paths = Mapping[Role, str]
"""Where in a block its layers are."""

WEIGHTS: tuple[Role, ...] = ("qkv", "projection", "fc1", "fc2")
NEEDED: tuple[Role, ...] = ("attention_norm", "attention_scale", "mlp_norm", "mlp_scale", *WEIGHTS)
"""The layers that blocks must have to be pruned."""


def weights_of(block: nn.Module, paths: Paths) -> dict[Role, Tensor]:
    return {role: block.get_parameter(f"{paths[role]}.weight") for role in WEIGHTS}


def magnitude(blocks: Mapping[int, nn.Module], paths: Paths) -> Importance:
    """Absolute values of the weights."""
    return {i: {role: w.detach().abs() for role, w in weights_of(b, paths).items()} for i, b in blocks.items()}


def fisher(blocks: Iterable[int], paths: Paths, measured: Measured) -> Importance:
    """The empirical Fisher information: squared gradients of the loss, summed over images that are taken one by one."""
    names = {(i, role): f"blocks.{i}.{paths[role]}.weight" for i in blocks for role in WEIGHTS}
    squares = measured.squares(names.values())
    return {i: {role: squares[names[i, role]] for role in WEIGHTS} for i in blocks}


@dataclass(frozen=True, kw_only=True)
class Channels:
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
        of["qkv"].sum(0) + of["fc1"].sum(0) + of["projection"].sum(1) + of["fc2"].sum(1) for of in importance.values()
    ]
    return most_important(torch.stack(scores).sum(0), width)


def kept_in(heads: int, of: Mapping[Role, Tensor], stream: Tensor, reduction: int) -> Channels:
    rows = of["qkv"].sum(1).view(3, heads, -1)
    size = rows.shape[2]
    pairs = most_important(rows[0] + rows[1], size // reduction)  # a query's channel meets the same of the key
    values = most_important(rows[2] + of["projection"].sum(0).view(heads, size), size // reduction)
    of_head = torch.arange(heads, device=rows.device)[:, None] * size
    pairs, values = (of_head + pairs).flatten(), (of_head + values).flatten()
    hidden = of["fc1"].sum(1) + of["fc2"].sum(0)
    return Channels(
        stream=stream,
        qkv=torch.cat([pairs, heads * size + pairs, 2 * heads * size + values]),
        values=values,
        hidden=most_important(hidden, len(hidden) // reduction),
    )


@torch.no_grad()
def prune(
    blocks: Mapping[int, nn.Module],
    into: Mapping[int, nn.Module],
    paths: Paths,
    importance: Importance,
    reduction: int,
    heads: Mapping[int, int],
) -> None:
    """Fill narrow blocks with what matters most of wide ones, whose attention has so many heads by block. LayerScale
    becomes part of the weights behind it."""
    narrow = next(iter(into.values()))
    stream = kept_stream(importance, len(weights_of(narrow, paths)["fc2"]))
    for i, block in blocks.items():
        kept = kept_in(heads[i], importance[i], stream, reduction)
        layers: tuple[tuple[Role, Tensor, Tensor | None, Role | None], ...] = (
            ("attention_norm", kept.stream, None, None),
            ("qkv", kept.qkv, kept.stream, None),
            ("projection", kept.stream, kept.values, "attention_scale"),
            ("mlp_norm", kept.stream, None, None),
            ("fc1", kept.hidden, kept.stream, None),
            ("fc2", kept.stream, kept.hidden, "mlp_scale"),
        )
        for role, rows, columns, scale in layers:
            for name, target in into[i].get_submodule(paths[role]).named_parameters():
                source = block.get_parameter(f"{paths[role]}.{name}")[rows]
                if source.ndim > 1:
                    source = source[:, columns]
                if scale:
                    factors = block.get_submodule(paths[scale])(torch.ones_like(weights_of(block, paths)[role][:, 0]))
                    source = source * (factors[rows] if source.ndim == 1 else factors[rows][:, None])
                target.copy_(source)
