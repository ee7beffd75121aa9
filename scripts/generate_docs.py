"""Write the generated parts of README and docs from result files; with --check only say whether they are up to date.

python scripts/generate_docs.py [--check]
"""

from __future__ import annotations

import csv
import json
import re
import statistics
import sys
from collections.abc import Callable
from pathlib import Path

from sidetune.methods import METHODS
from sidetune.methods.matrix import markdown
from sidetune.runs.compare import Comparison, Row
from sidetune.runs.plots import plot_accuracy_memory, plot_study
from sidetune.runs.report import footnote, heading

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks/results"
PUBLISHED = {
    "linear": ("dtl-aaai24", "Linear"),
    "full": ("dtl-aaai24", "Full"),
    "bitfit": ("dtl-aaai24", "BitFit"),
    "lora": ("dtl-aaai24", "LoRA"),
    "adaptformer": ("dtl-aaai24", "AdaptFormer"),
    "ssf": ("dtl-aaai24", "SSF"),
    "fact-tk": ("dtl-aaai24", "FacT"),
    "noah": ("dtl-aaai24", "NOAH"),
    "lst": ("dtl-aaai24", "LST"),
    "dtl": ("dtl-aaai24", "DTL"),
    "dtl+": ("dtl-aaai24", "DTL+"),
    "dtl+*": ("dtl-aaai24", "DTL+*"),
    "dtlv2": ("dtl-tpami25", "DTLv2"),
    "dtlv2-ls": ("dtl-tpami25", "DTLv2-LS"),
}
"""Where a method's size and memory stand in benchmarks/published; others are published without them, or by no row."""
STUDIES = sorted((RESULTS / "studies").glob("*.json"))
DRAWN = ("dtl-first-write", "dtl-rank", "mist-k")
IN_README = ("linear", "dtl", "dtl+", "dtl+*", "lora", "bitfit", "full")


def papers() -> dict[tuple[str, str], dict[str, str]]:
    """Published rows by source and the name that the source uses."""
    with (ROOT / "benchmarks/published/vtab1k_vit_b16.csv").open() as file:
        return {(row["source"], row["method"]): row for row in csv.DictReader(file)}


def costs() -> str:
    """Parameters and memory of a training step on ViT-B/16, ours beside the paper's and beside what others run."""
    result = json.loads((RESULTS / "memory-vit_base_patch16_224.json").read_text())
    published = papers()
    peaks = {(row["who"], row["method"], row["how"]): row["peak_bytes"] / 2**20 for row in result["rows"]}
    trained = {row["method"]: row["parameters"]["trainable"] for row in result["rows"] if row["who"] == "sidetune"}
    lines = [
        "| method | trained parameters | paper | memory | frugal | plain PyTorch | in pieces of 8 | paper |",
        "|---|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for name in IN_README:
        paper, peer = published[PUBLISHED[name]], {"lora": "peft lora"}.get(name, name)
        others = [peaks.get(("peer", peer, how)) for how in ("whole", "pieces of 8")]
        lines.append(
            f"| `{name}` | {trained[name]:,} | {paper['params_m']} M | {peaks['sidetune', name, 'whole']:,.0f} MiB "
            f"| {peaks['sidetune', name, 'checkpoint, pieces of 8']:,.0f} MiB "
            f"| {' | '.join('' if other is None else f'{other:,.0f} MiB' for other in others)} "
            f"| {paper['train_mem_gb_bs32']} GB |"
        )
    lines.append(
        "| full, timm's checkpointing | | | | | "
        + " | ".join(f"{peaks['peer', 'full, checkpointed', how]:,.0f} MiB" for how in ("whole", "pieces of 8"))
        + " | |"
    )
    commit, torch = result["commit"], result["versions"]["torch"]
    note = f"`python benchmarks/memory.py`, commit {commit}, torch {torch}"
    frugal = "Frugal: blocks computed again for the gradient, 8 images at a time, the gradient that of all 32"
    return "\n".join([*lines, "", f"{note}; LoRA of plain PyTorch is PEFT's. {frugal}. Paper: AAAI 2024, table 2.", ""])


def results_in(folder: str) -> list[Comparison]:
    return [Comparison.load(path) for path in sorted(RESULTS.glob(f"{folder}/results-*.json"))]


def rows_of(method: str, comparisons: list[Comparison]) -> list[Row | None]:
    """The method's row in each comparison; None where it was not run."""
    return [next((row for row in c.rows if row.method == method), None) for c in comparisons]


def accuracy(row: Row | None) -> str:
    return "" if row is None else f"{100 * row.accuracy:.1f} ± {100 * row.spread:.1f} %"


def all_methods() -> str:
    """Every method's accuracy on the demo's data beside its size and memory on ViT-B/16, and beside the published."""
    comparisons = results_in("56px-6-epochs")
    published = papers()
    yardstick: dict[str, dict[str, dict]] = {}
    for row in json.loads((RESULTS / "memory-vit_base_patch16_224.json").read_text())["rows"]:
        if row["who"] == "sidetune":
            yardstick.setdefault(row["method"], {})[row["how"]] = row
    lines = [
        f"| method | {' | '.join(c.data for c in comparisons)} | trained | paper | memory | frugal | paper |",
        f"|---|{'---:|' * len(comparisons)}---:|---:|---:|---:|---:|",
    ]
    for name in METHODS:
        rows = rows_of(name, comparisons)
        if any(rows):
            cells = [accuracy(row) for row in rows]
            if ways := yardstick.get(name):
                paper = published.get(PUBLISHED.get(name, ("", "")))
                whole, frugal = ways["whole"], ways["checkpoint, pieces of 8"]
                cells += [f"{whole['parameters']['trainable']:,}", f"{paper['params_m']} M" if paper else ""]
                cells += [f"{way['peak_bytes'] / 2**20:,.0f} MiB" for way in (whole, frugal)]
                cells.append(f"{paper['train_mem_gb_bs32']} GB" if paper else "")
            else:
                cells += [""] * 5
            lines.append(f"| `{name}` | {' | '.join(cells)} |")
    c = comparisons[0]
    about = (
        f"{len(c.rows[0].accuracies)} seeds, {len(c.rows[0].histories[0])} epochs, {c.backbone} at {c.image_size[0]} px"
    )
    return "\n".join([*lines, "", f"Accuracy: test images, mean and standard deviation, {about}.", ""])


def longer() -> str:
    """Some of these methods, trained for longer."""
    comparisons = results_in("*px-12-epochs")
    over = " | ".join(f"{c.data}, {c.image_size[0]} px" for c in comparisons)
    lines = [f"| method | {over} |", f"|---|{'---:|' * len(comparisons)}"]
    for name in METHODS:
        rows = rows_of(name, comparisons)
        if any(rows):
            lines.append(f"| `{name}` | {' | '.join(map(accuracy, rows))} |")
    return "\n".join([*lines, ""])


def studies() -> str:
    """The papers' ablations, a table each."""
    lines: list[str] = []
    for path in STUDIES:
        c = Comparison.load(path)
        epochs = len(c.rows[0].histories[0])
        lines += [f"| {path.stem}, {epochs} epochs | accuracy | rate | trained | memory |", "|---|---:|---:|---:|---:|"]
        for row in c.rows:
            numbers = f"{row.recipe.lr:g} | {row.parameters.trainable:,} | {row.peak_bytes / 2**20:,.0f} MiB"
            lines.append(f"| {row.method} | {accuracy(row)} | {numbers} |")
        lines.append("")
    return "\n".join(lines)


def serving() -> str:
    """The service under load, and its memory."""
    result = json.loads((RESULTS / "serve-cpu.json").read_text())
    bare, runs = result["bare_images_per_second"], result["service"]
    best = max(bare, key=bare.__getitem__)

    def row(what: str, tell: Callable[[dict], str]) -> str:
        return f"| {what} | {' | '.join(map(tell, runs))} |"

    lines = [
        row(f"{result['backbone']}, {result['clients']} clients", lambda run: run["precision"]),
        f"|---|{'---:|' * len(runs)}",
        row("images a second in each round", lambda run: ", ".join(f"{r:.1f}" for r in run["images_per_second"])),
        row("of the bare backbone beside it (median)", lambda run: f"{statistics.median(run['to_bare']):.2f}"),
        row("latency p50, p90, p99 (s)", lambda run: ", ".join(f"{s:.2f}" for s in run["latency_seconds"].values())),
    ]
    memory = ", ".join(f"{mib:,.0f} MiB after {int(count):,} requests" for count, mib in result["memory_mib"].items())
    alone = f"The bare backbone alone: {bare[best]:.1f} images a second in batches of {best}"
    damaged = f"{result['memory_after_damage_mib']:,.0f} MiB after as many damaged ones"
    note = f"{alone}. Memory, of a small network: {memory}, {damaged}. {result['cpu']}, commit {result['commit']}."
    return "\n".join([*lines, "", note, ""])


def demo_results() -> list[Comparison]:
    return [Comparison.load(RESULTS / f"demo/results-{name}.json") for name in ("fashion-1k", "sprites-location")]


def demo() -> str:
    """The demo's accuracies and seconds."""
    text = ""
    for c in demo_results():
        about = json.loads((RESULTS / f"demo/results-{c.data}.json").read_text())
        lines = [
            "| method | accuracy | trained parameters | peak memory | seconds per epoch | epochs |",
            "|---|---:|---:|---:|---:|---:|",
        ]
        for row in c.rows:
            star = " *" if row.features_kept and not row.whole_process else ""
            memory = f"{row.peak_bytes / 2**20:,.0f} MiB{' †' if row.whole_process else ''}"
            lines.append(
                f"| `{row.method}` | {100 * row.accuracy:.1f} % | {row.parameters.trainable:,} "
                f"| {memory} | {row.seconds_per_epoch:.2f}{star} | {len(row.histories[0])} |"
            )
        text += "\n".join(
            [f"**{heading(c)}**", "", *lines, "", f"{footnote(c)} {about['cpu']}, commit {about['commit']}.", "", ""]
        )
    return text.rstrip() + "\n"


def steps() -> str:
    """Step times and inference, against PEFT's LoRA and plain timm."""
    return races("steps-cpu.json", digits=2)


def races(file: str, digits: int) -> str:
    result = json.loads((RESULTS / file).read_text())
    lines = ["| training step | seconds | of PEFT's LoRA |", "|---|---:|---:|"]
    for name, ratio in result["training"]["ratios"].items():
        seconds = statistics.median(result["training"]["seconds"][name])
        lines.append(f"| {name} | {seconds:.{digits}f} | {ratio:.2f} |")
    batches = [name for name in result if name.startswith("inference")]
    lines += ["", f"| throughput, of plain timm | {' | '.join(batches)} |", f"|---|{'---:|' * len(batches)}"]
    for name in result[batches[0]]["ratios"]:
        ratios = (result[batch]["ratios"][name] for batch in batches)
        lines.append(f"| {name} | {' | '.join(f'{1 / ratio:.2f}' for ratio in ratios)} |")
    machine = result["gpu"] or result["cpu"]
    note = f"{machine}, torch {result['versions']['torch']}, commit {result['commit']}."
    return "\n".join([*lines, "", note, ""])


def gpu() -> str:
    """CUDA's peak memory beside the plan's, and step times."""
    result = json.loads((RESULTS / "memory-nvidia-h200.json").read_text())
    rows = {(row["who"], row["method"], row["how"]): row for row in result["rows"]}
    lines = ["| method | memory | planned | frugal | planned | plain PyTorch |", "|---|---:|---:|---:|---:|---:|"]
    for (who, method, how), row in rows.items():
        if (who, how) != ("sidetune", "whole"):
            continue
        peer = rows.get(("peer", {"lora": "peft lora"}.get(method, method), "whole"), {})
        both = (row, rows[who, method, "checkpoint, pieces of 8"])
        numbers = [*(n for r in both for n in (r["peak_bytes"], r["planned_bytes"])), peer.get("peak_bytes")]
        cells = " | ".join("" if n is None else f"{n / 2**20:,.0f} MiB" for n in numbers)
        lines.append(f"| `{method}` | {cells} |")
    note = f"{result['gpu']}, torch {result['versions']['torch']}, commit {result['commit']}."
    return "\n".join([*lines, "", note, "", races("steps-nvidia-h200-32.json", digits=3)])


def public() -> str:
    """Three baselines beside other people's code for them."""
    result = json.loads((RESULTS / "public-cpu.json").read_text())
    lines = ["| | library | memory, ours | theirs | step, of theirs |", "|---|---|---:|---:|---:|"]
    for row in result["rows"]:
        library = row["steps"]["against"]
        ours, theirs = (row["peak_bytes"][who] / 2**20 for who in ("sidetune", library))
        ratio = row["steps"]["ratios"]["sidetune"]
        lines.append(f"| `{row['method']}` | {library} | {ours:,.0f} MiB | {theirs:,.0f} MiB | {ratio:.2f} |")
    versions = ", ".join(f"{name} {version}" for name, version in result["public_versions"].items())
    note = f"Steps of batches of {result['batch_size']}; {result['cpu']}, {versions}, commit {result['commit']}."
    return "\n".join([*lines, "", note, ""])


def store() -> str:
    """Extraction against the number of images."""
    result = json.loads((RESULTS / "store-cpu.json").read_text())
    lines = ["| images | ms an image | KiB an image | private memory (MiB) |", "|---:|---:|---:|---:|"]
    for row in result["extraction"]:
        numbers = f"{row['ms_per_image']:.1f} | {row['bytes_per_image'] / 1024:,.0f} | {row['peak_private_mib']:,.0f}"
        lines.append(f"| {row['images']:,} | {numbers} |")
    about = f"{result['backbone']} at {result['pixels']} px; {result['cpu']}, commit {result['commit']}"
    note = f"An epoch from the store takes {result['store_to_memory']:.2f} of one from memory. {about}."
    return "\n".join([*lines, "", note, ""])


def eight_bit() -> str:
    """Accuracy on frozen weights of 8 bits beside the demo's."""
    lines = ["| | method | accuracy | with 8 bits | memory | with 8 bits |", "|---|---|---:|---:|---:|---:|"]
    exact = {(c.data, row.method): row for c in demo_results() for row in c.rows}
    for path in sorted((RESULTS / "int8").glob("*.json")):
        rounded = Comparison.load(path)
        for row in rounded.rows:
            both = (exact[rounded.data, row.method], row)
            accuracy = " | ".join(f"{100 * r.accuracy:.1f} %" for r in both)
            memory = " | ".join(f"{r.peak_bytes / 2**20:,.0f} MiB" for r in both)
            lines.append(f"| {rounded.data} | `{row.method}` | {accuracy} | {memory} |")
    return "\n".join([*lines, "", "As the demo, one seed; `--set recipe.weights=int8`.", ""])


def edge() -> str:
    """What the device takes, and what the wire does to accuracy."""
    result = json.loads((RESULTS / "edge.json").read_text())
    lines = ["| ViT-B/16, batch 32 | 1 thread | 2 threads |", "|---|---:|---:|"]
    for verb in ("fit", "predict", "enroll"):
        numbers = (f"{result['peak_mib'][threads][verb]:.0f} MiB" for threads in ("1", "2"))
        lines.append(f"| peak resident set of `{verb}`, Python included | {' | '.join(numbers)} |")
    ratios = (f"{result['step'][threads]['ratio']:.2f}" for threads in ("1", "2"))
    lines.append(f"| training step, of PyTorch's | {' | '.join(ratios)} |")
    sizes = ", ".join(f"{name} {size / 2**20:.3f} MiB" for name, size in result["bytes_per_image"].items())
    note = f"An image's sum on the wire: {sizes}. {result['cpu']}, commit {result['commit']}."
    return "\n".join([*lines, "", note, ""])


def precisions() -> str:
    """Accuracy by what the wire makes of features."""
    result = json.loads((RESULTS / "precisions.json").read_text())
    rows = {(row["data"], row["features"]): row["accuracies"] for row in result["rows"]}
    data = list(dict.fromkeys(row["data"] for row in result["rows"]))
    lines = [f"| features | bytes an image | {' | '.join(data)} |", f"|---|---:|{'---:|' * len(data)}"]
    for name in ("fp32", "int8", "int4", "linear"):
        scores = [rows[d, name] for d in data]
        cells = (f"{100 * statistics.fmean(a):.2f} ± {100 * statistics.stdev(a) / len(a) ** 0.5:.2f} %" for a in scores)
        what = "linear probe beside it" if name == "linear" else name
        size = f"{result['bytes'][name]:,}" if name in result["bytes"] else ""
        lines.append(f"| {what} | {size} | {' | '.join(cells)} |")
    about = f"mean of {len(scores[0])} seeds and its standard error, {result['epochs']} epochs, k = {result['k']}"
    note = f"{result['backbone']} at {result['image_size']} px; {about}; commit {result['commit']}."
    return "\n".join([*lines, "", note, ""])


def replaced(text: str, name: str, content: str) -> str:
    """Text with what stands between the markers of `name` replaced."""
    pattern = rf"(<!-- generated: {name} -->\n).*?(<!-- end -->)"
    found, count = re.subn(pattern, lambda m: f"{m[1]}{content}{m[2]}", text, flags=re.S)
    assert count == 1, f"one pair of markers for {name}"
    return found


def main() -> int:
    files = {
        ROOT / "README.md": {"costs": costs(), "demo": demo()},
        ROOT / "docs/methods.md": {
            "matrix": markdown(),
            "all": all_methods(),
            "longer": longer(),
            "studies": studies(),
        },
        ROOT / "docs/edge.md": {"edge": edge(), "precisions": precisions()},
        ROOT / "docs/performance.md": {
            "steps": steps(),
            "gpu": gpu(),
            "store": store(),
            "int8": eight_bit(),
            "serving": serving(),
            "public": public(),
        },
    }
    stale = []
    for path, parts in files.items():
        before = after = path.read_text(encoding="utf-8")
        for name, content in parts.items():
            after = replaced(after, name, content)
        if after != before:
            stale.append(path.name)
            if "--check" not in sys.argv:
                path.write_text(after, encoding="utf-8")
    if "--check" not in sys.argv:
        plot_accuracy_memory(demo_results(), ROOT / "docs/accuracy-memory.png")
        plot_accuracy_memory(results_in("56px-6-epochs"), ROOT / "docs/all-methods.png")
        for path in STUDIES:
            if path.stem in DRAWN:
                plot_study(Comparison.load(path), path.stem, ROOT / f"docs/{path.stem}.png")
        return 0
    if stale:
        print(f"out of date: {', '.join(stale)}; run python scripts/generate_docs.py")
    return bool(stale)


if __name__ == "__main__":
    sys.exit(main())
