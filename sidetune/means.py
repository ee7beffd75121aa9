"""What fits a run to a machine: none of it makes another run, so that one may be gone on with by other means."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, kw_only=True)
class Means:
    micro_batch: int | None = None
    """Images in work at once; the gradient stays that of the whole batch. The batch in one piece if None."""
    checkpoint: bool = False
    """Keep only the inputs of the suffix's blocks and compute the blocks again for the gradient."""
    checkpoint_blocks: int | None = None
    """How many of the suffix's blocks `checkpoint` is for, the first ones; all if None."""
    offload: bool = False
    """Keep what the side network read of the frozen half in host memory until its gradient; slower, for GPUs."""
    compile: bool = False
    """Compile both halves by `torch.compile`: a minute at the start for faster steps; pays on long runs."""
    features: Literal["auto", "memory", "off"] = "auto"
    """Keep the frozen half's output in memory after the first pass. auto: where images are the same in every epoch and
    it fits `features_limit`."""
    features_limit: int = 4 * 2**30
    """Bytes."""
    num_workers: int | None = None
    """Processes that read images; 2 for files and none for pixels in memory if None."""

    def __post_init__(self) -> None:
        if self.features_limit < 0:
            raise ValueError(f"features_limit must be at least 0, got {self.features_limit}")
        for name in ("micro_batch", "checkpoint_blocks"):
            if getattr(self, name) is not None and getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.compile and self.offload:
            raise ValueError(
                "compile does not go with offload, which works outside of the compiler's sight; choose one"
            )
        if self.features not in (known := ("auto", "memory", "off")):
            raise ValueError(f"features must be one of {', '.join(known)}, got {self.features!r}")
