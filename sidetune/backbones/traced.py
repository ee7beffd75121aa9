"""What runs through a network: shapes between its parts, and which of their layers are called, without computing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from sidetune.backbones.family import Parts
from sidetune.backbones.sizes import Size
from sidetune.backbones.structure import rebuild

Shape = tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class Traced:
    """Shapes are without the batch axis."""

    input_shapes: Mapping[int, Shape]
    """By block."""
    output_shapes: Mapping[int, Shape]
    """By block, 0 being the stem."""
    num_features: int
    """Width of the pooled feature."""
    called: Mapping[str, frozenset[str]]
    """By part, poolings as `pools.mean`: the layers that its forward pass calls as modules."""


def on_meta(module: nn.Module) -> nn.Module:
    """A copy without values, in eval mode."""

    def bare(_: str, t: Tensor) -> Tensor:
        return nn.Parameter(t.to("meta"), requires_grad=False) if isinstance(t, nn.Parameter) else t.to("meta")

    return rebuild(module, bare).eval()


@torch.no_grad()
def traced(parts: Parts, image_size: Size) -> Traced:
    """Run a network on the meta device. Raises what it raises for images of a size that it does not take."""
    inputs: dict[int, Shape] = {}
    outputs: dict[int, Shape] = {}
    called: dict[str, frozenset[str]] = {}

    def run(part: str, module: nn.Module, z: Tensor) -> Tensor:
        seen: set[str] = set()
        bare = on_meta(module)
        for name, layer in bare.named_modules():
            layer.register_forward_pre_hook(lambda *_, name=name: seen.add(name))
        out: Tensor = bare(z)
        called[part] = frozenset(seen)
        return out

    z = run("stem", parts.stem, torch.empty(1, 3, *image_size, device="meta"))
    outputs[0] = tuple(z.shape[1:])
    for i, block in parts.blocks.items():
        if i in parts.transitions:
            z = run(f"transitions.{i}", parts.transitions[i], z)
        inputs[i] = tuple(z.shape[1:])
        z = run(f"blocks.{i}", block, z)
        outputs[i] = tuple(z.shape[1:])
    pooled = {name: run(f"pools.{name}", pool, z) for name, pool in parts.pools.items()}
    return Traced(
        input_shapes=inputs,
        output_shapes=outputs,
        num_features=pooled[parts.native_pool].shape[1],
        called=called,
    )
