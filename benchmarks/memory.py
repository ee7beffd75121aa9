"""Peak memory of a training step on ViT-B/16 as the papers measure it, ours beside what others run.

224 px, batch 32, bf16 autocast, 100 classes, fused AdamW on what is trained; the largest sum of bytes of storages alive
at once during the second step: parameters, buffers, optimizer state, gradients, activations, temporaries and the batch.
Every row whole, and with the batch in pieces of 8 (the same gradient). Counted on tensors without values, so it takes a
minute and is the same on every machine; benchmarks/gpu.py has CUDA's counts.

    python benchmarks/memory.py                 # writes benchmarks/results/memory-vit_base_patch16_224.json
    python benchmarks/memory.py --backbone vit_giant_patch14_dinov2 --image-size 224 --methods linear,dtl+,lora
"""

import argparse
import json
from dataclasses import asdict
from pathlib import Path

import timm
import torch
from peers import NUM_CLASSES, PEERS, make_step
from torch._subclasses.fake_tensor import FakeTensorMode

import sidetune
from sidetune.backbones.structure import empty, rebuild
from sidetune.measure.machine import birth_certificate
from sidetune.measure.memory import TensorBytes
from sidetune.measure.parameters import count

LEFT_OUT = ("dtlv1", "spt-lora")
"""Another name of DTL+; a method whose size follows from training images."""
SAVING = {
    "whole": {},
    "pieces of 8": {"micro_batch": 8},
    "checkpoint": {"checkpoint": True},
    "checkpoint, pieces of 8": {"checkpoint": True, "micro_batch": 8},
    "checkpoint, pieces of 8, int8": {"checkpoint": True, "micro_batch": 8, "weights": "int8"},
}
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
    parser = argparse.ArgumentParser()
    parser.add_argument("--backbone", default="vit_base_patch16_224")
    parser.add_argument("--image-size", type=int, help="ours alone then; the others have the network's own size")
    parser.add_argument("--methods", default=",".join(m for m in sidetune.METHODS if m not in LEFT_OUT))
    options = parser.parse_args()
    name, rows = options.backbone, []

    def add(who: str, method: str, how: str, peak: int, **more: object) -> None:
        rows.append({"who": who, "method": method, "how": how, "peak_bytes": peak, **more})
        print(f"{who:10}{method:26}{how:28}{peak / 2**20:9,.1f} MiB", flush=True)

    with torch.device("meta"):
        backbone = sidetune.open_backbone(timm.create_model(name, num_classes=0), image_size=options.image_size)
    for method in options.methods.split(","):
        with torch.device("meta"):
            model = sidetune.adapt(backbone, method, num_classes=NUM_CLASSES)
        for how, choices in SAVING.items():
            plan = sidetune.plan(model, sidetune.Recipe(precision="bf16", batch_size=BATCH, **choices))
            parts = {"memory": asdict(plan.memory), "parameters": asdict(count(model))}
            add("sidetune", method, how, plan.memory.peak, **parts)
    for method, make in ({} if options.image_size else PEERS).items():
        for how, micro_batch in (("whole", None), (f"pieces of {PIECE}", PIECE)):
            add("peer", method, how, peer_peak(make, name, backbone.card.image_size[0], micro_batch))
    result = {
        "kind": "memory",
        "backbone": name,
        "image_size": backbone.card.image_size,
        "batch_size": BATCH,
        **birth_certificate(),
        "rows": rows,
    }
    path = RESULTS / f"memory-{name}.json"
    path.write_text(json.dumps(result, indent=1) + "\n")
    print(f"wrote {path}")


if __name__ == "__main__":
    main()
