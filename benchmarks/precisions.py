"""Accuracy of MIST by what the wire makes of its features: fp32, int8 and int4, each with several seeds.

DINOv2 ViT-S/14 (saliency-tuned) at 112 px on sprite location and Fashion-1k, 12 epochs; features are computed once in
bf16, written and read back as the wire would (sidetune.wire.codec), and MIST is trained on what comes out.

    python benchmarks/precisions.py [--seeds 5] [--epochs 12]      # writes benchmarks/results/precisions.json
"""

import argparse
import json
import statistics
from dataclasses import replace
from pathlib import Path

import torch

import sidetune
from sidetune.cli.demo import BACKBONE, TASKS, K
from sidetune.data.sources import read_data
from sidetune.measure.machine import birth_certificate
from sidetune.methods.linear import Linear
from sidetune.methods.mist import MIST
from sidetune.runs.carry_out import Ready, carry_out
from sidetune.runs.run import Run
from sidetune.seam.features import from_named
from sidetune.store import FeatureMemory
from sidetune.tasks import task_of
from sidetune.train.kept import share_features
from sidetune.wire.codec import decode, encode, num_bytes

RESULTS = Path(__file__).parent / "results"


def sent(features: FeatureMemory, precision: str) -> FeatureMemory:
    """Features as they come out of the wire; with `none` as the backbone had them, the pooled ones too."""
    tensors = {}
    for name, t in features.features.named():
        if precision == "none":
            tensors[name] = t.float()
        elif name.startswith("sum"):
            shape = tuple(t.shape[1:])
            arrays = [decode(encode(x.float().numpy(), precision), shape, precision) for x in t]
            tensors[name] = torch.stack([torch.from_numpy(x) for x in arrays])
    return FeatureMemory(from_named(tensors.items()), features.labels, features.classes)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--data", default=",".join(TASKS))
    options = parser.parse_args()
    backbone = sidetune.open_backbone(BACKBONE, image_size=112)
    recipe = sidetune.Recipe(epochs=options.epochs, lr_update="step", precision="fp32")
    rows = []
    for data in options.data.split(","):
        splits = replace(read_data(data), val=None)

        def run_of(method: sidetune.Method) -> Run:
            return Run.of(splits, backbone, method, recipe, task=task_of(splits.train), transform="vtab")  # noqa: B023

        mist = MIST(k=K)
        once = sidetune.Recipe(precision="bf16")
        models = [run_of(method).adapted(backbone) for method in (mist, Linear())]
        computed = share_features(splits.parts(), backbone, models, once, lambda *_: None)
        for name in ("linear", "fp32", "int8", "int4"):
            method = Linear() if name == "linear" else mist
            precision = "none" if name == "linear" else name
            taps = {part: sent(f, precision) for part, f in computed.items()}
            accuracies = []
            for seed in range(options.seeds):
                run = run_of(method).with_seed(seed)
                having = Ready(splits=splits, model=run.adapted(backbone), features=taps)
                accuracies.append(carry_out(run, having=having, scored=["test"]).scores["test"].accuracy)
            mean, error = statistics.fmean(accuracies), statistics.stdev(accuracies) / len(accuracies) ** 0.5
            print(f"{data:18}{name:8}{100 * mean:6.2f} +- {100 * error:.2f}", flush=True)
            rows.append({"data": data, "features": name, "accuracies": accuracies})
    shape = (65, 384)
    sizes = {precision: num_bytes(shape, precision) for precision in ("fp32", "int8", "int4")}
    result = {"kind": "precisions", "backbone": BACKBONE, "image_size": 112, "epochs": options.epochs, "k": K}
    path = RESULTS / "precisions.json"
    path.write_text(json.dumps({**result, **birth_certificate(), "bytes": sizes, "rows": rows}, indent=1) + "\n")
    print(f"wrote {path}")


if __name__ == "__main__":
    main()
