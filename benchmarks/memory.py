"""Peak memory of a training step, method by method, on ViT-B/16 as the papers measure it.

224 px, batch 32, bf16 autocast, 100 classes, fused AdamW on what is trained; the largest sum of bytes of storages
alive at once during the second step, parameters, optimizer state and batch included. On a CPU the number is exact and
the same on every machine; on a GPU it is CUDA's.

    python benchmarks/memory.py            # writes benchmarks/results/memory-vit_b16-{cpu,cuda}.json
"""

import json
from dataclasses import asdict
from pathlib import Path

import timm
import torch

import sidetune
from sidetune.measure.machine import birth_certificate
from sidetune.measure.memory import training_peak
from sidetune.measure.parameters import count
from sidetune.train.loop import place

METHODS = ("linear", "dtl", "dtl+", "dtl+*", "partial", "lora", "bitfit", "vpt-deep", "full")
RESULTS = Path(__file__).parent / "results"


def main() -> None:
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    network = timm.create_model("vit_base_patch16_224", num_classes=0)  # memory does not depend on the weights
    images, labels = torch.randn(32, 3, 224, 224), torch.arange(32)
    rows = []
    for name in METHODS:
        model = sidetune.adapt(network, name, num_classes=100)
        place(model, device)
        peak = training_peak(model, images, labels, sidetune.Recipe(precision="bf16"))
        rows.append({"method": name, "peak_bytes": peak, "parameters": asdict(count(model))})
        print(f"{name}: {peak / 2**20:,.1f} MiB")
        del model
    result = {"kind": "memory", "backbone": "vit_base_patch16_224", "batch_size": 32, "device": device.type}
    path = RESULTS / f"memory-vit_b16-{device.type}.json"
    path.write_text(json.dumps({**result, **birth_certificate(), "rows": rows}, indent=1) + "\n")
    print(f"wrote {path}")


if __name__ == "__main__":
    main()
