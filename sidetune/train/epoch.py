"""What one epoch of a run came to: the record that runs keep here and on the device."""

from __future__ import annotations

from collections.abc import Mapping
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
    val: Mapping[str, float] | None = None
    """All figures on validation images, by the name of the metric."""
    losses: Mapping[str, float] | None = None
    """The terms of the loss by name, where there are several."""

    def scored(self, metric: str) -> float | None:
        """A figure on validation images; None without any."""
        known = {"accuracy": self.val_accuracy, **(self.val or {})}
        return known.get(metric)
