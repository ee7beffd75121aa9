"""Pictures of an analysis."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from sidetune.measure.analysis import Analysis, Plane
from sidetune.measure.plots import COLOURS, tidy


def plot_redundancy(analyses: Mapping[str, Analysis], path: Path) -> None:
    """A panel a model: the cosine similarity of neighbouring low-rank maps' mean outputs."""
    widths = [max(len(a.pairs), 4) for a in analyses.values()]
    figure = Figure(figsize=(max(0.32 * sum(widths) + 1.4 * len(widths), 4.5), 3.8), layout="constrained")
    panels = figure.subplots(1, len(analyses), squeeze=False, sharey=True, width_ratios=widths)[0]
    for axes, (name, analysis) in zip(panels, analyses.items(), strict=True):
        stages = list(dict.fromkeys(p.stage for p in analysis.pairs))
        for stage in stages:
            pairs = [(x, p) for x, p in enumerate(analysis.pairs) if p.stage == stage]
            places, heights = [x for x, _ in pairs], [p.cosine for _, p in pairs]
            axes.bar(places, heights, color=COLOURS[stage - 1], label=f"stage {stage}")
        names = [f"{first}–{second}" for first, second in (p.blocks for p in analysis.pairs)]
        axes.set_xticks(range(len(names)), names, rotation=90)
        axes.axhline(0, color="black", linewidth=0.8)
        if analysis.mean_cosine is None:
            axes.text(0.5, 0.5, "no two maps in one stage", ha="center", transform=axes.transAxes, fontsize=8)
        else:
            axes.axhline(analysis.mean_cosine, color="grey", linestyle="--", linewidth=1)
        mean = "" if analysis.mean_cosine is None else f"\nmean {analysis.mean_cosine:.2f}"
        axes.set_title(f"{name}{mean}", fontsize=9)
        axes.set_xlabel("blocks read")
        if len(stages) > 1:
            axes.legend(frameon=False, fontsize=8)
        tidy(axes)
        axes.set_axisbelow(True)
    panels[0].set_ylabel("cosine similarity of mean outputs")
    figure.savefig(path, dpi=150)


def plot_projections(panels: Sequence[Plane], path: Path) -> None:
    """A panel a projection: a point an image, a colour a block; crosses where G is shared. Means are large."""
    columns = min(len(panels), 3)
    rows = -(-len(panels) // columns)
    figure = Figure(figsize=(4.8 * columns, 5.2 * rows), layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False).ravel()
    for axes in grid[len(panels) :]:
        axes.set_axis_off()
    for axes, projection in zip(grid, panels, strict=False):
        draw(axes, projection)
        axes.set_title(projection.title, fontsize=9)
        first, second = projection.explained
        axes.set_xlabel(f"first component ({first:.0%} of the variance)")
        axes.set_ylabel(f"second component ({second:.0%})")
        tidy(axes)
    figure.savefig(path, dpi=150)


def draw(axes: Axes, projection: Plane) -> None:
    blocks = list(dict.fromkeys(name.split()[0] for name in projection.points))
    for name, points in projection.points.items():
        colour, marker = COLOURS[blocks.index(name.split()[0]) % 10], "X" if "(" in name else "o"
        axes.scatter(points[:, 0], points[:, 1], s=12, color=colour, alpha=0.3, marker=marker, linewidths=0)
        x, y = points.mean(axis=0)
        axes.scatter(x, y, s=90, color=colour, marker=marker, edgecolors="black", linewidths=0.9, zorder=3, label=name)
    axes.legend(
        title="block",
        title_fontsize=8,
        frameon=False,
        fontsize=8,
        ncols=4,
        loc="upper center",
        bbox_to_anchor=(0.5, -0.14),
    )
