"""A folder that shows a comparison: table, pictures, adapters, and the numbers behind them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from sidetune.atomic import write_text
from sidetune.data.samples import Samples
from sidetune.model import AdaptedModel
from sidetune.runs.compare import Comparison, Row
from sidetune.runs.plots import plot_accuracy_memory, plot_curves, plot_predictions
from sidetune.tasks.metric import METRICS, Metric

ACCURACY = METRICS["accuracy"]


def headings(metric: Metric = ACCURACY) -> tuple[str, ...]:
    return "method", metric.title, "trained parameters", "frozen blocks", "peak memory", "seconds per epoch"


def cells(row: Row, metric: Metric = ACCURACY) -> tuple[str, ...]:
    """A row as text, in the order of `headings`."""
    digits = ".1f" if metric.percent else ".3g"
    spread = f" ± {metric.factor * row.spread:{digits}}" if len(row.accuracies) > 1 else ""
    epochs = len(row.histories[0])
    seconds = f"{row.seconds_per_epoch:.2f} (x {epochs})"
    return (
        row.method,
        f"{metric.told(row.accuracy)}{spread}",
        f"{row.parameters.trainable:,}",
        str(row.frozen_depth),
        f"{row.peak_bytes / 2**20:,.0f} MiB{' †' if row.whole_process else ''}",
        f"{seconds}{' *' if row.features_kept and not row.whole_process else ''}",
    )


def footnote(c: Comparison) -> str:
    scored = f"{c.num_images[c.scored_on]:,} {c.scored_on} images"
    name = c.figure.title
    name = name.capitalize() if name.islower() else name
    text = f"{name} on {scored}; parameters without the head; memory of a whole training step."
    if any(row.features_kept for row in c.rows):
        text += f" * from kept features, which took {c.shared_features_seconds:.1f} s once for all methods."
    if any(row.whole_process for row in c.rows):
        text += " † of the device's whole process, Python included; the backbone runs in a service."
    return text


def heading(c: Comparison) -> str:
    return (
        f"{c.data}: {c.num_images['train']:,} training images, {c.backbone}, {c.image_size[0]} x {c.image_size[1]} px"
    )


def markdown(c: Comparison) -> str:
    names = headings(c.figure)
    lines = [f"## {heading(c)}", "", f"| {' | '.join(names)} |", f"|{'---|' * len(names)}"]
    lines += [f"| {' | '.join(cells(row, c.figure))} |" for row in c.rows]
    return "\n".join([*lines, "", footnote(c), ""])


def write_report(folder: Path, results: Sequence[tuple[Comparison, Mapping[str, AdaptedModel], Samples]]) -> None:
    """Write `report.md`, the pictures and `results-DATA.json` for comparisons, each with its models and test images."""
    folder.mkdir(parents=True, exist_ok=True)
    comparisons = [c for c, _, _ in results]
    plot_accuracy_memory(comparisons, folder / "accuracy-memory.png")
    plot_curves(comparisons, folder / "curves.png")
    text = "# Comparison\n\n![accuracy against memory](accuracy-memory.png)\n\n"
    for comparison, models, samples in results:
        comparison.save(folder / f"results-{comparison.data}.json")
        plot_predictions(samples, models, folder / f"predictions-{comparison.data}.png")
        text += f"{markdown(comparison)}\n![sample predictions](predictions-{comparison.data}.png)\n\n"
    write_text(folder / "report.md", text + "![training curves](curves.png)\n")
