"""Three baselines beside public implementations of them: memory of a training step, and its time, in one run.

ViT-B/16, 224 px, bf16 autocast, 100 classes, fused AdamW: LoRA beside PEFT's on timm's network; AdaptFormer and Adapter
beside AdapterHub's parallel and sequential bottlenecks on Hugging Face's. Each pair trains as many parameters. Memory
is that of batches of 32, counted as benchmarks/memory.py does; steps are taken in turn, as in benchmarks/steps.py.

    pip install 'adapters==1.3.0'      # in an environment of its own: it brings an older transformers
    python benchmarks/public.py [--batch 16] [--rounds 5]      # writes benchmarks/results/public-{cpu,cuda}.json
"""

import argparse
import json
from collections.abc import Callable
from importlib.metadata import version

import adapters
import timm
import torch
from memory import BATCH, peer_peak
from peers import NUM_CLASSES, PEERS, make_step
from steps import BACKBONE, RESULTS, our_step, race
from torch import Tensor, nn
from transformers import ViTConfig, ViTForImageClassification

import sidetune
from sidetune.measure.machine import birth_certificate
from sidetune.measure.parameters import count


class Logits(nn.Module):
    """A Hugging Face model that takes images and gives logits, as ours do."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.model(x).logits
        return logits


def adapter_hub(**config: object) -> Callable[[str], nn.Module]:
    """Its bottleneck behind or beside the MLP alone, 8 wide, and a trained head."""

    def make(_: str) -> nn.Module:
        model = ViTForImageClassification(ViTConfig(num_labels=NUM_CLASSES))
        adapters.init(model)
        common = {"mh_adapter": False, "output_adapter": True, "reduction_factor": 768 / 8, "ln_before": False}
        norms = {"ln_after": False, "original_ln_before": False, "original_ln_after": False}
        model.add_adapter("task", config=adapters.BnConfig(**{**common, **norms, **config}))
        model.train_adapter("task")
        model.classifier.requires_grad_(True)
        return Logits(model)

    return make


PUBLIC = {
    "lora": ("PEFT", PEERS["peft lora"]),
    "adaptformer": ("AdapterHub", adapter_hub(is_parallel=True, scaling=0.1, non_linearity="relu", dropout=0.1)),
    "adapter": ("AdapterHub", adapter_hub(is_parallel=False, non_linearity="swish")),
}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    images = torch.randn(options.batch, 3, 224, 224, device=device)
    labels = torch.arange(options.batch, device=device)
    backbone = sidetune.open_backbone(timm.create_model(BACKBONE, num_classes=0))
    rows = []
    for method, (library, make) in PUBLIC.items():
        ours = sidetune.adapt(backbone, method, num_classes=NUM_CLASSES)
        peak = sidetune.plan(ours, sidetune.Recipe(precision="bf16", batch_size=BATCH)).memory.peak
        theirs = make(BACKBONE)
        trained = sum(p.numel() for p in theirs.parameters() if p.requires_grad)
        assert count(ours).trainable + count(ours).head == trained, f"{method}: the same sizes"
        peaks = {"sidetune": peak, library: peer_peak(make, BACKBONE, 224, None)}
        print(
            f"{method:14}" + ", ".join(f"{who} {bytes_ / 2**20:,.0f} MiB" for who, bytes_ in peaks.items()), flush=True
        )
        ours.hold(torch.bfloat16, device)
        steps = {"sidetune": our_step(ours, images, labels), library: make_step(theirs.to(device), images, labels)}
        rows.append({"method": method, "peak_bytes": peaks, "steps": race(steps, options.rounds, library, device)})
    versions = {name: version(name) for name in ("peft", "adapters", "transformers")}
    result = {"kind": "public", "backbone": BACKBONE, "batch_size": options.batch, **birth_certificate(), "rows": rows}
    path = RESULTS / f"public-{device.type}.json"
    path.write_text(json.dumps({**result, "public_versions": versions}, indent=1) + "\n")
    print(f"wrote {path}")


if __name__ == "__main__":
    main()
