"""Numbering the blocks of a network whose width changes from stage to stage."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from sidetune.backbones.family import Family, Parts
from sidetune.backbones.layout import Layout
from sidetune.backbones.pools import MeanPool
from sidetune.backbones.sizes import Steps


def staged_parts(
    family: Family,
    *,
    stem: nn.Module,
    stages: Sequence[tuple[nn.Module | None, Sequence[nn.Module]]],
    norm: nn.Module,
    norm_first: bool,
    global_pool: nn.Module,
    layout: Layout,
    steps: Steps | None = None,
    revised: bool = False,
) -> Parts:
    """Number the blocks of stages, each given as (its transition, its blocks)."""
    kind = getattr(global_pool, "pool_type", "avg")
    if kind not in ("avg", "fast", "fastavg"):
        raise ValueError(f"a {family} backbone that pools by {kind!r} cannot be opened; only average pooling is known")
    blocks: dict[int, nn.Module] = {}
    transitions: dict[int, nn.Module] = {}
    stage_of: dict[int, int] = {}
    for number, (transition, members) in enumerate(stages, start=1):
        if transition is not None and not isinstance(transition, nn.Identity):
            transitions[len(blocks) + 1] = transition
        for block in members:
            blocks[len(blocks) + 1] = block
            stage_of[len(blocks)] = number
    return Parts(
        family=family,
        stem=stem,
        blocks=blocks,
        transitions=transitions,
        stages=stage_of,
        pools={"mean": MeanPool(norm, layout, norm_first=norm_first)},
        native_pool="mean",
        layout=layout,
        steps=steps,
        revised=revised,
    )
