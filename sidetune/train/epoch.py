"""What one epoch of a run came to: the record that runs keep here and on the device."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Epoch:
    epoch: int
    """Counted from 1."""
    lr: float
    loss: float
    """Mean over the training images."""
    seconds: float
    """Of training, without validation."""
    val_accuracy: float | None = None
    """Share of validation images labelled right, in 0..1."""
