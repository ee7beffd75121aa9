"""Seconds of a training step and images a second at inference: ours beside PEFT and plain timm, in one process.

ViT-B/16, 224 px, bf16, 100 classes. All contenders take a step in turn, round after round; the ratio of a pair is the
median over rounds of the ratio within a round, so that a busy machine slows both.

    python benchmarks/steps.py [--batch 16] [--rounds 7]       # writes benchmarks/results/steps-{cpu,cuda}.json
"""

import argparse
import copy
import json
import statistics
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import timm
import torch
from peers import NUM_CLASSES, PEERS, make_step
from torch import Tensor, nn

import sidetune
from sidetune.measure.machine import birth_certificate
from sidetune.seam.features import Features
from sidetune.train.optimizer import make_optimizer
from sidetune.train.step import backward, save_memory

BACKBONE = "vit_base_patch16_224"
RESULTS = Path(__file__).parent / "results"


def our_step(model: sidetune.AdaptedModel, x: Tensor | Features, labels: Tensor, **saving: int) -> Callable[[], None]:
    optimizer = make_optimizer(model, sidetune.Recipe(), 1e-3)
    model.train()

    def step() -> None:
        backward(model, x, labels, **saving)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step


def training(images: Tensor, labels: Tensor) -> dict[str, Callable[[], None]]:
    """What takes a step, by name."""
    device = images.device
    backbone = sidetune.open_backbone(timm.create_model(BACKBONE, num_classes=0))

    def ours(method: str) -> sidetune.AdaptedModel:
        return sidetune.adapt(backbone, method, num_classes=NUM_CLASSES).hold(torch.bfloat16, device)

    frugal = ours("dtl+")
    save_memory(frugal, sidetune.Recipe(checkpoint=True))
    kept = {name: ours(name) for name in ("dtl", "dtl+")}
    steps = {
        "peft lora": make_step(PEERS["peft lora"](BACKBONE).to(device), images, labels),
        "peft lora, checkpointed": make_step(PEERS["peft lora, checkpointed"](BACKBONE).to(device), images, labels),
        "lora": our_step(ours("lora"), images, labels),
        "dtl": our_step(ours("dtl"), images, labels),
        "dtl+": our_step(ours("dtl+"), images, labels),
        "dtl+, frugal": our_step(frugal, images, labels, micro_batch=8),
        "dtl+, compiled": our_step(ours("dtl+").compile_halves(), images, labels),
    }
    for name, model in kept.items():
        steps[f"{name}, kept features"] = our_step(model, model.features(images), labels)
    return steps


def inference(device: torch.device) -> dict[str, Callable[[Tensor], None]]:
    """What answers images, by name."""
    backbone = sidetune.open_backbone(timm.create_model(BACKBONE, num_classes=0))
    plain: nn.Module = timm.create_model(BACKBONE, num_classes=NUM_CLASSES).to(device, torch.bfloat16).eval()
    models: dict[str, nn.Module] = {"plain": plain}
    for name in ("dtl", "dtl+", "lora"):
        models[name] = sidetune.adapt(backbone, name, num_classes=NUM_CLASSES).hold(torch.bfloat16, device)
    compiled = sidetune.adapt(backbone, "dtl+", num_classes=NUM_CLASSES).hold(torch.bfloat16, device)
    models["dtl+, compiled"] = compiled.compile_halves()
    models["plain, compiled"] = torch.compile(copy.deepcopy(plain), dynamic=True)
    merged = sidetune.adapt(backbone, "lora", num_classes=NUM_CLASSES)
    whole = merged.merge(copy.deepcopy(timm.create_model(BACKBONE, num_classes=NUM_CLASSES)))
    models["lora, merged"] = whole.to(device, torch.bfloat16).eval()

    def runner(model: nn.Module) -> Callable[[Tensor], None]:
        def run(images: Tensor) -> None:
            with torch.inference_mode():
                model(images)

        return run

    return {name: runner(model) for name, model in models.items()}


def race(steps: dict[str, Callable[[], None]], rounds: int, against: str, device: torch.device) -> dict[str, object]:
    """Median seconds by name, and ratios to `against` within rounds."""

    def timed(step: Callable[[], None]) -> float:
        start = time.perf_counter()
        step()
        if device.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter() - start

    for step in steps.values():
        timed(step)
        timed(step)
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(rounds):
        for name, step in steps.items():
            seconds[name].append(timed(step))
    ratios = {n: statistics.median(a / b for a, b in zip(s, seconds[against], strict=True)) for n, s in seconds.items()}
    for name, values in seconds.items():
        print(f"{name:28}{statistics.median(values):8.3f} s   {ratios[name]:.3f} of {against}", flush=True)
    return {"against": against, "seconds": seconds, "ratios": ratios}


def race_all(batch: int, rounds: int, sizes: Sequence[int] = (1, 4, 16)) -> dict[str, object]:
    """Everything this file measures, with where it was measured: training on a batch, inference on those of `sizes`."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    images = torch.randn(batch, 3, 224, 224, device=device)
    labels = torch.arange(batch, device=device) % NUM_CLASSES
    result: dict[str, object] = {"kind": "steps", "backbone": BACKBONE, "batch_size": batch}
    result["training"] = race(training(images, labels), rounds, "peft lora", device)
    models = inference(device) if sizes else {}
    for size in sizes:
        x = torch.randn(size, 3, 224, 224, device=device, dtype=torch.bfloat16)
        runs = {name: partial(run, x) for name, run in models.items()}
        result[f"inference, batch {size}"] = race(runs, 3 * rounds, "plain", device)
    return {**result, **birth_certificate()}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    path = RESULTS / f"steps-{'cuda' if torch.cuda.is_available() else 'cpu'}.json"
    path.write_text(json.dumps(race_all(options.batch, options.rounds), indent=1) + "\n")
    print(f"wrote {path}")


if __name__ == "__main__":
    main()
