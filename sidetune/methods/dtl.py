"""DTL (Fu et al., AAAI 2024), named DTLv1 in the journal version: which blocks its side network reads and writes.

Without a fusion g this is the paper's equation 7 (DTL); with a depthwise convolution shared by all blocks it is DTL+.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from sidetune.backbones.backbone import Backbone
from sidetune.methods.csn import CompactSideNetwork, fusion_kernel
from sidetune.methods.hidden import LowRankMap, Skip
from sidetune.methods.method import Adaptation, Method, check_positive

Fusion = Literal["none", "depthwise", "average", "full"]


@dataclass(frozen=True, kw_only=True)
class DTL(Method):
    """Every choice that the DTL papers vary. Blocks count from 1 over all stages."""

    rank: int | None = None
    """d'; by default 2 on plain ViTs and 4 on staged backbones."""
    first_write: int | None = None
    """M, the first block whose output is changed; N/2 + 1 by default."""
    reads: tuple[int, ...] | None = None
    """Blocks whose input is read; by default all whose h reaches a write."""
    maps: Literal["low-rank", "skip"] = "low-rank"
    """What is read passes a low-rank map, or is added as it is (journal, modular ablation)."""
    beta: float = 100.0
    theta: bool = True
    fusion: Fusion = "none"
    kernel: int = 3
    share_fusion: bool = True
    """One g for all writes (of a stage, where widths differ), or one for each."""
    reset: bool = True
    """h starts at 0 in every stage. Without it h runs on, which needs stages of one shape."""
    lr: float = 5e-3
    pool: str = "mean"

    def __post_init__(self) -> None:
        check_positive(self, "rank", "first_write", "kernel")
        if self.fusion not in ("none", "depthwise", "average", "full"):
            raise ValueError(f"fusion must be none, depthwise, average or full, got {self.fusion!r}")
        if self.maps not in ("low-rank", "skip"):
            raise ValueError(f"maps must be low-rank or skip, got {self.maps!r}")
        if self.beta <= 0:
            raise ValueError(f"beta must be above 0, got {self.beta}")

    @property
    def starts_as_identity(self) -> bool:  # type: ignore[override]
        """Low-rank maps start at zero; skips have nothing to start."""
        return self.maps == "low-rank"

    def adapt(self, backbone: Backbone) -> Adaptation:
        reads, writes = self.blocks(backbone)
        rank = self.rank or (2 if backbone.layout.grid else 4)
        if rank > (narrowest := min(backbone.width(i) for i in reads)):
            raise ValueError(f"rank {rank} is above the backbone's width, {narrowest}")
        skip = self.maps == "skip"
        w: dict[int, LowRankMap | Skip] = {i: Skip() if skip else LowRankMap(backbone.width(i), rank) for i in reads}
        g_of = {i: f"stage{backbone.stages[i]}" if self.share_fusion else f"block{i}" for i in writes}
        last_first = reversed(g_of.items()) if self.fusion != "none" else ()  # the order in which seeds start them
        widths = {name: backbone.width(i) for i, name in last_first}
        side = CompactSideNetwork(
            w=w,
            g={name: fusion_kernel(width, self.fusion, self.kernel) for name, width in widths.items()},
            g_of=g_of,
            writes=writes,
            stages=backbone.stages if self.reset else dict.fromkeys(backbone.blocks, 1),
            beta=self.beta if self.theta else None,
            layout=backbone.layout,
        )
        return Adaptation(side=side, num_units=(0 if skip else len(w)) + len(widths))

    def worth_trying(self, backbone: Backbone) -> Mapping[str, Sequence[int]]:
        n = backbone.num_blocks
        return {"first_write": sorted({n // 4 + 1, n // 2 + 1, 3 * n // 4 + 1})}

    def blocks(self, backbone: Backbone) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """The blocks that are read and those that are written.

        A block that changes width or size itself (the first of a ResNet stage) is never read: its input does not fit h.
        """
        num_blocks = backbone.num_blocks
        first = self.first_write or num_blocks // 2 + 1
        if not 1 <= first <= num_blocks:
            raise ValueError(f"first_write (M) must be in 1..{num_blocks}, got {first}")
        readable = [i for i in backbone.blocks if backbone.keeps_shape(i)]
        if self.reads is not None and (bad := [i for i in self.reads if i not in readable]):
            raise ValueError(f"reads names blocks {bad}; this backbone can be read at {readable}")
        reads = sorted(set(readable if self.reads is None else self.reads))

        def carries(i: int, j: int) -> bool:
            """Whether h, read at block i, still holds at block j."""
            return i <= j and (backbone.stages[i] == backbone.stages[j] if self.reset else True)

        writes = [j for j in range(first, num_blocks + 1) if any(carries(i, j) for i in reads)]
        useful = [i for i in reads if any(carries(i, j) for j in writes)]
        if not writes or (self.reads is not None and useful != reads):
            idle = [i for i in reads if i not in useful]
            raise ValueError(f"reads {idle or reads} reach no write: the first is after block {first} in their stage")
        shapes = {backbone.output_shapes[j] for j in writes} | {backbone.input_shapes[i] for i in useful}
        if not self.reset and len(shapes) > 1:
            raise ValueError("reset=False needs blocks of one shape; the stages of this backbone differ")
        return tuple(useful), tuple(writes)
