"""What a handful of runs come to, to the bit: recorded at one commit and compared at another, on the same machine.

    python scripts/record_runs.py before.json               # at the commit that is trusted
    python scripts/record_runs.py after.json --than before.json    # exits 1 and names what differs

Trained parameters (their digest), accuracies and predictions of every kind of method on tiny random networks and
pictures made here, on one thread; stores, resumed runs, a comparison, a search and the device; what `plan` says of
ViT-B/16. A change of structure must leave all of it as it was. Digests depend on the processor, so nothing of this is
in CI.
"""

import argparse
import dataclasses
import hashlib
import json
import os
import shutil
import sys
import tempfile
import warnings
from pathlib import Path

os.environ.update(HF_HUB_OFFLINE="1", OMP_NUM_THREADS="1")

import numpy as np
import timm
import torch
from PIL import Image

import sidetune
from sidetune.choose.evolution import Evolution
from sidetune.edge.client import Client
from sidetune.edge.enroll import enroll
from sidetune.edge.trainer import fit as fit_on_device
from sidetune.errors import Interrupted
from sidetune.runs.sizes import search_sizes
from sidetune.serve.local import Local

NETWORKS = {
    "vit": ("vit_tiny_patch16_224", {"depth": 4, "embed_dim": 48, "num_heads": 3, "img_size": 32, "patch_size": 8}),
    "dinov2": ("vit_small_patch14_reg4_dinov2", {"depth": 3, "embed_dim": 48, "num_heads": 3, "img_size": 42}),
    "swin": (
        "swin_tiny_patch4_window7_224",
        {"depths": (1, 1, 2, 1), "embed_dim": 16, "num_heads": (1, 1, 2, 2), "img_size": 64, "window_size": 2},
    ),
    "convnext": ("convnext_tiny", {"depths": (1, 1, 2, 1), "dims": (8, 16, 24, 32)}),
    "resnet": ("resnet18", {"channels": (8, 16, 24, 32)}),
}
RUNS = {
    "linear": ("vit", "linear", {}, {}),
    "linear, class token": ("dinov2", "linear", {"pool": "token"}, {}),
    "lora": ("vit", "lora", {}, {}),
    "lora, recomputed in pieces": ("vit", "lora", {}, {"checkpoint": True, "micro_batch": 4}),
    "dtl": ("dinov2", "dtl", {}, {}),
    "dtl+": ("vit", "dtl+", {}, {}),
    "dtl+, drop path and clipping": ("vit", "dtl+", {}, {"drop_path": 0.2, "clip_grad": 0.5}),
    "dtl+ on swin": ("swin", "dtl+", {"kernel": 3}, {}),
    "dtlv2": ("swin", "dtlv2", {}, {}),
    "dtlv2-ls": ("swin", "dtlv2-ls", {}, {}),
    "mist": ("vit", "mist", {"k": 3}, {}),
    "mist, all taps": ("dinov2", "mist", {}, {}),
    "full": ("vit", "full", {}, {"lr": 1e-3}),
    "partial": ("swin", "partial", {}, {}),
    "bitfit on convnext": ("convnext", "bitfit", {}, {}),
    "bitfit on resnet": ("resnet", "bitfit", {}, {}),
    "vpt-deep": ("vit", "vpt-deep", {}, {}),
    "ssf": ("swin", "ssf", {}, {}),
    "fact-tt": ("vit", "fact-tt", {}, {}),
    "arc": ("vit", "arc", {"rank": 8}, {}),
    "rlrr": ("vit", "rlrr", {}, {}),
    "adaptformer": ("vit", "adaptformer", {}, {}),
    "spt-lora": ("vit", "spt-lora", {}, {}),
    "lst": ("vit", "lst", {}, {}),
    "last": ("vit", "last", {}, {}),
    "lorand": ("swin", "lorand", {}, {}),
    "noah": ("vit", "noah", {}, {}),
    "best epoch": ("vit", "dtl+", {}, {"keep": "best"}),
    "bf16": ("vit", "dtl+", {}, {"precision": "bf16"}),
    "augmented": ("vit", "dtl+", {"transform": "photo"}, {}),
    "two views kept": ("vit", "dtl+", {"transform": "photo"}, {"views": 2}),
    "sgd": ("vit", "lora", {}, {"optimizer": "sgd", "lr": 0.1}),
}
RECIPE = sidetune.Recipe(epochs=3, batch_size=8, precision="fp32", seed=3, num_workers=0)


def plain(kind: str) -> torch.nn.Module:
    name, changes = NETWORKS[kind]
    torch.manual_seed(0)
    module = timm.create_model(name, num_classes=0, **changes)
    for parameter in module.parameters():
        if parameter.ndim == 1:
            parameter.data.add_(torch.randn_like(parameter), alpha=0.1)
    return module


def network(kind: str) -> sidetune.Backbone:
    return sidetune.open_backbone(plain(kind), image_size=32 if kind in ("convnext", "resnet") else None)


def squares(seed: int) -> sidetune.Samples:
    rng = np.random.default_rng(seed)
    labels = [i % 3 for i in range(48)]
    images = np.stack([rng.integers(60 * label, 60 * label + 130, (16, 16)) for label in labels]).astype(np.uint8)
    return sidetune.Samples(images=images, labels=labels, classes=("dark", "grey", "light"))


def digest(tensors: dict[str, torch.Tensor]) -> str:
    sha = hashlib.sha256()
    for name in sorted(tensors):
        sha.update(f"{name}{tuple(tensors[name].shape)}".encode())
        sha.update(tensors[name].detach().float().contiguous().numpy().tobytes())
    return sha.hexdigest()[:16]


def outcome(model: sidetune.AdaptedModel, done: object = None) -> dict[str, object]:
    images = torch.randn(3, 3, *model.card.image_size, generator=torch.Generator().manual_seed(1))
    model.eval()
    with torch.no_grad():
        logits = model(images)
    told = {
        "trained": digest(model.trained()),
        "names": hashlib.sha256(" ".join(sorted(model.trained())).encode()).hexdigest()[:16],
        "num_trained": sum(t.numel() for t in model.trained().values()),
        "frozen_depth": model.frozen_depth,
        "logits": digest({"": logits}),
        "accuracy": sidetune.evaluate(model, squares(9), precision="fp32").accuracy,
    }
    if done is not None:
        told["losses"] = [epoch.loss for epoch in done.history]
        told["val"] = [epoch.val_accuracy for epoch in done.history]
    return told


def trained(kind: str, method: str, choices: dict, changes: dict, **how) -> tuple[sidetune.AdaptedModel, object]:
    torch.set_num_threads(1)
    backbone, train = network(kind), squares(0)
    recipe = dataclasses.replace(RECIPE, **changes)
    transform = choices.pop("transform", "vtab")
    chosen = sidetune.prepare(method, backbone, train, transform=transform, seed=recipe.seed, batch_size=8)
    model = sidetune.adapt(backbone, chosen, classes=train.classes, transform=transform, seed=recipe.seed, **choices)
    return model, sidetune.fit(model, train, val=squares(5), recipe=recipe, **how)


def runs() -> dict[str, object]:
    found = {}
    for name, (kind, method, choices, changes) in RUNS.items():
        found[name] = outcome(*trained(kind, method, dict(choices), changes))
        print(name, found[name]["trained"], file=sys.stderr)
    return found


class Stopper:
    """Breaks a run off behind an epoch, as Ctrl-C does."""

    def features(self, *_: object) -> None: ...
    def step(self, *_: object) -> None: ...

    def epoch(self, epoch: object, num_epochs: int) -> None:
        if epoch.epoch == 2:
            raise KeyboardInterrupt


def kept_and_resumed(work: Path) -> dict[str, object]:
    found = {"stored": outcome(*trained("vit", "dtl+", {}, {}, store=work / "store"))}
    found["stored, int8"] = outcome(*trained("vit", "dtl+", {}, {"codec": "int8"}, store=work / "store8"))
    try:
        trained("vit", "lora", {}, {}, out=work / "run", report=Stopper())
    except Interrupted:
        found["resumed"] = outcome(*trained("vit", "lora", {}, {}, out=work / "run", resume=True))
    loaded = sidetune.load(work / "run", backbone=network("vit"))
    found["loaded"] = outcome(loaded)
    merged = loaded.merge(plain("vit"))
    found["merged"] = digest(dict(merged.state_dict()))
    return found


def compared() -> dict[str, object]:
    splits = sidetune.Splits(name="squares", train=squares(0), val=squares(5), test=squares(9))
    methods = {name: sidetune.METHODS[name] for name in ("linear", "lora", "dtl+")}
    comparison, models = sidetune.compare(
        splits, network("vit"), methods, recipe=RECIPE, seeds=(0, 1), transform="vtab"
    )
    rows = [
        {
            "method": row.method,
            "accuracies": row.accuracies,
            "peak_bytes": row.peak_bytes,
            "losses": [[epoch.loss for epoch in history] for history in row.histories],
        }
        for row in comparison.rows
    ]
    return {"rows": rows, "models": {name: digest(model.trained()) for name, model in models.items()}}


def searched() -> dict[str, object]:
    found = search_sizes(
        network("vit"),
        sidetune.METHODS["noah"],
        squares(0),
        squares(5),
        max_parameters=20_000,
        recipe=dataclasses.replace(RECIPE, epochs=2),
        evolution=Evolution.of(2, 6),
        transform="vtab",
    )
    return {"subnet": str(found.subnet), "scored": [[str(s.candidate), s.score] for s in found.scored]}


def on_device(work: Path) -> dict[str, object]:
    samples = squares(0)
    for i, label in enumerate(samples.labels):
        path = work / "photos" / ("test" if i >= 36 else "train") / samples.classes[label] / f"{i:03}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(samples.images[i]).save(path)
    client = Client(Local(network("vit"), transform="vtab", name="tiny"), "tiny")
    enroll(client, work / "photos", work / "features", ks=[2, 4], precision="int8")
    recipe = sidetune.Recipe(epochs=3, batch_size=8, lr_update="step", seed=1)
    done = fit_on_device(work / "features", work / "edge", recipe=recipe)
    weights = hashlib.sha256(
        b"".join(
            t.numpy().tobytes()
            for _, t in sorted(sidetune.load(work / "edge", backbone=network("vit")).trained().items())
        )
    )
    return {
        "accuracy": done.accuracy,
        "losses": [epoch.loss for epoch in done.history],
        "parameters": weights.hexdigest()[:16],
    }


def plans() -> dict[str, object]:
    found = {}
    for method in ("linear", "dtl", "dtl+", "dtl+*", "lora", "bitfit", "full", "mist", "dtlv2"):
        with torch.device("meta"):
            backbone = sidetune.open_backbone("vit_base_patch16_224", pretrained=False)
            model = sidetune.adapt(backbone, method, num_classes=100)
        for name, recipe in (
            ("plain", sidetune.Recipe(precision="bf16")),
            ("frugal", sidetune.Recipe(precision="bf16", checkpoint=True, micro_batch=8)),
        ):
            found[f"{method}, {name}"] = sidetune.plan(model, recipe).as_dict()
    return found


def differences(before: object, after: object, where: str = "") -> list[str]:
    if isinstance(before, dict) and isinstance(after, dict):
        return [
            line
            for key in sorted(before.keys() | after.keys())
            for line in differences(before.get(key), after.get(key), f"{where}/{key}")
        ]
    return [] if before == after else [f"{where}: {before} -> {after}"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--than", type=Path, help="an earlier record to compare with")
    given = parser.parse_args()
    warnings.simplefilter("ignore")
    work = Path(tempfile.mkdtemp())
    try:
        found = {
            "runs": runs(),
            "kept": kept_and_resumed(work),
            "compared": compared(),
            "searched": searched(),
            "device": on_device(work),
            "plans": plans(),
        }
    finally:
        shutil.rmtree(work)
    found = json.loads(json.dumps(found))
    given.out.write_text(json.dumps(found, indent=1) + "\n")
    if given.than is not None and (lines := differences(json.loads(given.than.read_text()), found)):
        sys.exit("\n".join(lines))


if __name__ == "__main__":
    main()
