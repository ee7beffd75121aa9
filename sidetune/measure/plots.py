"""Memory drawn, and what all our pictures have in common."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from sidetune.measure.memory import Memory

COLOURS = colormaps["tab10"].colors  # type: ignore[attr-defined]


def plot_memory(memories: Mapping[str, Memory], path: Path) -> None:
    """The peak of a training step as a bar for each method, by what it is made of."""
    figure = Figure(figsize=(8, 1.2 + 0.42 * len(memories)), layout="constrained")
    axes = figure.subplots()
    names, left = list(memories), np.zeros(len(memories))
    for i, part in enumerate(f.name for f in fields(Memory)):
        sizes = np.array([getattr(m, part) for m in memories.values()]) / 2**20
        axes.barh(names, sizes, left=left, color=COLOURS[i], label=part)
        left += sizes
    for position, peak in enumerate(left):
        axes.text(peak, position, f" {peak:,.0f}", va="center", fontsize=8)
    axes.invert_yaxis()
    axes.set_xlim(right=1.1 * left.max())
    axes.set_xlabel("memory of a training step at its peak (MiB)")
    tidy(axes)
    figure.legend(frameon=False, fontsize=8, ncols=4, loc="outside lower center")
    figure.savefig(path, dpi=150)


def tidy(axes: Axes) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.25)
