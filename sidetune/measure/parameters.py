"""How much a method trains."""

from __future__ import annotations

from dataclasses import dataclass

from sidetune.model import AdaptedModel


@dataclass(frozen=True, kw_only=True)
class Parameters:
    trainable: int
    """Without the head, as the papers count."""
    head: int
    total: int
    """Of the whole model, frozen ones and the head included."""
    units: int
    """Minimal structural units inserted into the backbone (DTL, AAAI 2024, table 1)."""


def count(model: AdaptedModel) -> Parameters:
    head = sum(p.numel() for p in model.head.parameters())
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    total = sum(p.numel() for p in model.parameters())
    return Parameters(trainable=trained - head, head=head, total=total, units=model.num_units)
