"""Peak memory of a training step on ViT-B/16 as the papers measure it, ours beside what others run.

224 px, batch 32, bf16 autocast, 100 classes, fused AdamW on what is trained; the largest sum of bytes of storages alive
at once during the second step: parameters, buffers, optimizer state, gradients, activations, temporaries and the batch.
Every row whole, and with the batch in pieces of 8 (the same gradient). Counted on tensors without values, so it takes a
minute and is the same on every machine; benchmarks/gpu.py has CUDA's counts.

    python benchmarks/memory.py [backbone]      # writes benchmarks/results/memory-BACKBONE.json
"""

import json
import sys
from dataclasses import asdict
from pathlib import Path

import timm
import torch
from peers import NUM_CLASSES, PEERS, make_step
from torch._subclasses.fake_tensor import FakeTensorMode

import sidetune
from sidetune.backbones.structure import rebuild
from sidetune.measure.machine import birth_certificate
from sidetune.measure.memory import TensorBytes
from sidetune.measure.parameters import count
from sidetune.measure.plan import empty

METHODS = ("linear", "dtl", "dtl+", "dtl+*", "partial", "lora", "bitfit", "vpt-deep", "full")
BATCH, PIECE = 32, 8
RESULTS = Path(__file__).parent / "results"


def peer_peak(make: object, name: str, pixels: int, micro_batch: int | None) -> int:
    """As `sidetune.plan` counts, for a model that is none of ours."""
    with torch.device("meta"):
        bare = make(name)
    with FakeTensorMode():
        model = rebuild(bare, empty)
        images, labels = torch.empty(BATCH, 3, pixels, pixels), torch.zeros(BATCH, dtype=torch.long)
        step = make_step(model, images, labels, micro_batch)
        with TensorBytes([*model.parameters(), *model.buffers(), images, labels]) as tracker:
            step()
            tracker.reset_peak()
            step()
        return tracker.peak


def main() -> None:
    name = sys.argv[1] if len(sys.argv) > 1 else "vit_base_patch16_224"
    rows = []

    def add(who: str, method: str, how: str, peak: int, **more: object) -> None:
        rows.append({"who": who, "method": method, "how": how, "peak_bytes": peak, **more})
        print(f"{who:10}{method:26}{how:28}{peak / 2**20:9,.1f} MiB", flush=True)

    with torch.device("meta"):
        backbone = sidetune.open_backbone(timm.create_model(name, num_classes=0))
    for method in METHODS:
        with torch.device("meta"):
            model = sidetune.adapt(backbone, method, num_classes=NUM_CLASSES)
        for how, choices in {
            "whole": {},
            f"pieces of {PIECE}": {"micro_batch": PIECE},
            "checkpoint": {"checkpoint": True},
            f"checkpoint, pieces of {PIECE}": {"checkpoint": True, "micro_batch": PIECE},
        }.items():
            plan = sidetune.plan(model, sidetune.Recipe(precision="bf16", batch_size=BATCH, **choices))
            parts = {"memory": asdict(plan.memory), "parameters": asdict(count(model))}
            add("sidetune", method, how, plan.memory.peak, **parts)
    for method, make in PEERS.items():
        for how, micro_batch in (("whole", None), (f"pieces of {PIECE}", PIECE)):
            add("peer", method, how, peer_peak(make, name, backbone.card.image_size[0], micro_batch))
    result = {"kind": "memory", "backbone": name, "batch_size": BATCH, **birth_certificate(), "rows": rows}
    path = RESULTS / f"memory-{name}.json"
    path.write_text(json.dumps(result, indent=1) + "\n")
    print(f"wrote {path}")


if __name__ == "__main__":
    main()
