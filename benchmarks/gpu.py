"""The whole set on a GPU in one command: CUDA's peak memory beside the plan's, then step times and throughput.

python benchmarks/gpu.py        # writes benchmarks/results/memory-GPU.json and steps-GPU-BATCH.json, in minutes
"""

import json
import sys
from pathlib import Path

import timm
import torch
from peers import NUM_CLASSES, PEERS, make_step
from steps import BACKBONE, race_all

import sidetune
from sidetune.measure.machine import birth_certificate
from sidetune.measure.memory import training_peak

METHODS = ("linear", "dtl", "dtl+", "dtl+*", "partial", "lora", "bitfit", "vpt-deep", "full")
SAVING = {"whole": {}, "checkpoint, pieces of 8": {"checkpoint": True, "micro_batch": 8}}
BATCH = 32
LARGE = 256
"""At 32 images the time of a step is that of starting its operations, on a large GPU."""
RESULTS = Path(__file__).parent / "results"


def our_rows(images: torch.Tensor, labels: torch.Tensor) -> list[dict[str, object]]:
    rows: list[dict[str, object]] = []
    for method in METHODS:
        for how, choices in SAVING.items():
            recipe = sidetune.Recipe(precision="bf16", batch_size=BATCH, **choices)
            backbone = sidetune.open_backbone(timm.create_model(BACKBONE, num_classes=0))
            model = sidetune.adapt(backbone, method, num_classes=NUM_CLASSES)
            del backbone
            planned = sidetune.plan(model, recipe).memory.peak
            model.hold(torch.bfloat16, images.device)
            peak = training_peak(model, images, labels, recipe)
            rows.append({"who": "sidetune", "method": method, "how": how, "peak_bytes": peak, "planned_bytes": planned})
            print(f"{method:26}{how:28}{peak / 2**20:9,.0f} MiB, planned {planned / 2**20:9,.0f}", flush=True)
            del model
    return rows


def peer_rows(images: torch.Tensor, labels: torch.Tensor) -> list[dict[str, object]]:
    rows: list[dict[str, object]] = []
    for method, make in PEERS.items():
        model = make(BACKBONE).to(images.device)
        step = make_step(model, images, labels)
        step()
        torch.cuda.reset_peak_memory_stats()
        step()
        peak = torch.cuda.max_memory_allocated()
        rows.append({"who": "peer", "method": method, "how": "whole", "peak_bytes": peak})
        print(f"{method:54}{peak / 2**20:9,.0f} MiB", flush=True)
        del model, step
    return rows


def main() -> int:
    if not torch.cuda.is_available():
        print("no GPU is at hand: python benchmarks/memory.py and benchmarks/steps.py measure on the CPU")
        return 1
    name = torch.cuda.get_device_name().replace(" ", "-").lower()
    images, labels = torch.randn(BATCH, 3, 224, 224, device="cuda"), torch.arange(BATCH, device="cuda")
    rows = [*our_rows(images, labels), *peer_rows(images, labels)]
    memory = {"kind": "memory-cuda", "backbone": BACKBONE, "batch_size": BATCH, **birth_certificate(), "rows": rows}
    (RESULTS / f"memory-{name}.json").write_text(json.dumps(memory, indent=1) + "\n")
    for batch, sizes in ((LARGE, ()), (BATCH, (1, 16, LARGE))):
        steps = race_all(batch, rounds=10, sizes=sizes)
        (RESULTS / f"steps-{name}-{batch}.json").write_text(json.dumps(steps, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
