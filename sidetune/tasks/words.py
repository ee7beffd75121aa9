"""What scores say of their classes on a line."""

from __future__ import annotations

from collections.abc import Iterable

MOST = 3
"""Classes that are named in words."""
POOR = 0.8
"""Of the mean: a class whose figure is below is named."""


def poorest(figures: Iterable[float | None], classes: Iterable[str], mean: float) -> str:
    """The classes that are much below a mean, the lowest first, in per cent; '' if there are none. A class without a
    figure is left out."""
    lowest = sorted((figure, name) for figure, name in zip(figures, classes, strict=True) if figure is not None)
    return ", ".join(f"{name} ({100 * figure:.1f} %)" for figure, name in lowest[:MOST] if figure < POOR * mean)
