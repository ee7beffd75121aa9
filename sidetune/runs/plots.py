"""Pictures of a comparison."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import PathCollection
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, LogLocator, MaxNLocator, NullLocator, StrMethodFormatter
from matplotlib.transforms import ScaledTranslation

from sidetune.data.samples import Samples
from sidetune.measure.plots import COLOURS, tidy
from sidetune.model import AdaptedModel
from sidetune.runs.compare import Comparison
from sidetune.tasks.task import PlacedTask

MARKERS = "osD"
"""The next one where colours start again."""
CROWDED = 10
"""With more methods than this, memory and error have logarithmic axes, which keep the good ones apart."""


def plot_accuracy_memory(comparisons: Sequence[Comparison], path: Path) -> None:
    """Accuracy against peak training memory, a panel a data set; the area of a dot grows with trained parameters."""
    methods = list(dict.fromkeys(row.method for c in comparisons for row in c.rows))
    height = 8.4 if max(len(c.rows) for c in comparisons) > CROWDED else 4.8
    figure = Figure(figsize=(5.2 * len(comparisons), height), layout="constrained")
    for axes, c in zip(figure.subplots(1, len(comparisons), squeeze=False)[0], comparisons, strict=True):
        crowded = len(c.rows) > CROWDED and c.figure.percent and not c.figure.lower_is_better
        times = c.figure.factor
        for row in c.rows:
            i = methods.index(row.method)
            mib, accuracy = row.peak_bytes / 2**20, times * row.accuracy
            area = (0.3 if crowded else 1) * (30 + 12 * np.log2(1 + row.parameters.trainable / 1000) ** 1.5)
            axes.errorbar(mib, accuracy, yerr=np.nan_to_num(times * row.spread), color=COLOURS[i % 10], capsize=3)
            axes.scatter(
                mib,
                accuracy,
                s=area,
                marker=MARKERS[i // 10 % 3],
                color=COLOURS[i % 10],
                alpha=0.85,
                zorder=3,
                label=legend(row.method + " (whole process)" * row.whole_process, row.parameters.trainable),
            )
        axes.set_xlabel("peak memory of a training step (MiB)")
        axes.set_ylabel(f"{c.scored_on} {c.figure.axis}")
        axes.set_title(f"{c.data}, {c.image_size[0]} px")
        if crowded:
            logarithmic(axes)
        else:
            axes.set_xlim(left=0, right=1.08 * max(r.peak_bytes for r in c.rows) / 2**20)
        axes.margins(y=0.15)
        tidy(axes)
        under = axes.transAxes + ScaledTranslation(0, -0.5, figure.dpi_scale_trans)  # inches, below the axis' name
        below = axes.legend(
            frameon=False, fontsize=8, ncols=2, loc="upper center", bbox_to_anchor=(0.5, 0), bbox_transform=under
        )
        below.set_title("trained parameters, no head", prop={"size": 8})
        for handle in below.legend_handles:
            if isinstance(handle, PathCollection):
                handle.set_sizes([40])
    figure.savefig(path, dpi=150)


def logarithmic(axes: Axes) -> None:
    """Axes of MiB and per cent on which about as much lies between 90 and 95 as between 95 and 97.5 %."""
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 1.5, 2, 3, 5, 7)))
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
    axes.xaxis.set_minor_locator(NullLocator())
    low, high = axes.get_ylim()
    axes.set_yscale("function", functions=(lambda a: -np.log(100.5 - np.minimum(a, 100)), lambda x: 100.5 - np.exp(-x)))
    axes.set_ylim(max(low, 0), min(high, 100))
    ticks = [p for p in (20, 40, 60, 70, 80, 90, 95, 98, 99, 99.5) if low <= p <= high]
    axes.yaxis.set_major_locator(FixedLocator(ticks) if len(ticks) > 3 else MaxNLocator(8))
    axes.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))


def legend(method: str, trainable: int) -> str:
    return f"{method}  {trainable / 1e6:.3f} M" if trainable < 1e6 else f"{method}  {trainable / 1e6:.1f} M"


def plot_study(c: Comparison, study: str, path: Path) -> None:
    """Accuracy and peak memory of the variants of a study, side by side, in the order they stand in."""
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    accuracy_axes, memory_axes = figure.subplots(1, 2)
    labels = [row.method for row in c.rows]
    times = c.figure.factor
    spreads = np.nan_to_num([times * row.spread for row in c.rows])
    line = {"color": COLOURS[0], "marker": "o", "capsize": 3}
    if not all(label.isdigit() for label in labels):  # variants without an order are not joined
        line["linestyle"] = "none"
    accuracy_axes.errorbar(labels, [times * row.accuracy for row in c.rows], yerr=spreads, **line)
    accuracy_axes.set_ylabel(f"{c.scored_on} {c.figure.axis}")
    memory_axes.bar(labels, [row.peak_bytes / 2**20 for row in c.rows], color=COLOURS[1], width=0.6)
    memory_axes.set_ylabel("peak memory of a training step (MiB)")
    for axes in (accuracy_axes, memory_axes):
        tidy(axes)
        axes.tick_params(axis="x", labelsize=8, rotation=20 if max(map(len, labels)) > 8 else 0)
    figure.suptitle(f"{study} on {c.data}, {c.backbone}, {c.image_size[0]} px", fontsize=10)
    figure.savefig(path, dpi=150)


def plot_curves(comparisons: Sequence[Comparison], path: Path) -> None:
    """Training loss and, where there are validation images, their accuracy by epoch; of the first seed."""
    figure = Figure(figsize=(5.2 * len(comparisons), 6.4), layout="constrained")
    panels = figure.subplots(2, len(comparisons), squeeze=False)
    for (loss_axes, accuracy_axes), c in zip(panels.T, comparisons, strict=True):
        accuracy_axes.set_visible("val" in c.num_images)
        for i, row in enumerate(c.rows):
            epochs = [e.epoch for e in row.histories[0]]
            style = {"color": COLOURS[i % 10], "marker": "o", "markersize": 3, "label": row.method}
            loss_axes.plot(epochs, [e.loss for e in row.histories[0]], **style)
            known = ((e.epoch, e.scored(c.metric)) for e in row.histories[0])
            scores = [(epoch, c.figure.factor * value) for epoch, value in known if value is not None]
            accuracy_axes.plot(*zip(*scores, strict=True), **style) if scores else None
        loss_axes.set_ylabel("training loss")
        loss_axes.set_xlabel("epoch")
        loss_axes.set_yscale("log")
        loss_axes.set_title(c.data)
        loss_axes.legend(frameon=False, fontsize=8)
        accuracy_axes.set_ylabel(f"validation {c.figure.axis}")
        accuracy_axes.set_xlabel("epoch")
        tidy(loss_axes)
        tidy(accuracy_axes)
    figure.savefig(path, dpi=150)


def plot_predictions(samples: Samples, models: Mapping[str, AdaptedModel], path: Path, *, count: int = 18) -> None:
    """Pictures with their label and what each model says, evenly taken from `samples`; wrong answers in red. Of places,
    each picture's truth and what the models say, drawn over it."""
    if isinstance(next(iter(models.values())).task, PlacedTask):
        return plot_scenes(samples, models, path, count=count // 3)
    chosen = np.linspace(0, len(samples) - 1, min(count, len(samples))).astype(int).tolist()
    pictures = [samples.image(i) for i in chosen]
    answers = {name: model.predict(pictures) for name, model in models.items()}
    columns = 6
    rows = -(-len(chosen) // columns)
    figure = Figure(figsize=(2.2 * columns, (1.7 + 0.17 * len(models)) * rows), layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False).ravel()
    for axes in grid:
        axes.set_axis_off()
    for position, (axes, index) in enumerate(zip(grid, chosen, strict=False)):
        target, task = samples.labels[index], next(iter(models.values())).task
        axes.imshow(pictures[position])
        axes.set_title(task.truth(target), fontsize=9, fontweight="bold")
        for line, (name, predictions) in enumerate(answers.items()):
            prediction = predictions[position]
            right = task.is_right(prediction, target)
            axes.text(
                0.5,
                -0.10 - 0.13 * line,
                f"{name}: {prediction.in_words()}",
                transform=axes.transAxes,
                ha="center",
                va="center",
                fontsize=7,
                color="crimson" if right is False else "black",
            )
    figure.savefig(path, dpi=130)


def plot_scenes(samples: Samples, models: Mapping[str, AdaptedModel], path: Path, *, count: int) -> None:
    """A row a picture: as it is, with its truth, and with what each model says."""
    chosen = np.linspace(0, len(samples) - 1, min(count, len(samples))).astype(int).tolist()
    pictures = [samples.image(i) for i in chosen]
    answers = {name: model.predict(pictures) for name, model in models.items()}
    columns = 2 + len(models)
    figure = Figure(figsize=(3.4 * columns, 2.4 * len(chosen)), layout="constrained")
    grid = figure.subplots(len(chosen), columns, squeeze=False)
    for row, (picture, index) in enumerate(zip(pictures, chosen, strict=True)):
        task = next(iter(models.values())).task
        truth = task.drawn(picture, samples.target(index)) if isinstance(task, PlacedTask) else picture
        drawn = {
            "picture": picture,
            "truth": truth,
            **{name: said[row].drawn(picture) for name, said in answers.items()},
        }
        for axes, (name, shown) in zip(grid[row], drawn.items(), strict=True):
            axes.set_axis_off()
            axes.imshow(shown)
            if row == 0:
                axes.set_title(name, fontsize=9)
    figure.savefig(path, dpi=130)
