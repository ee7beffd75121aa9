"""A store on disk: extraction and size against the number of images, and steps that read from it.

python benchmarks/store.py        # writes benchmarks/results/store-{cpu,cuda}.json
"""

import json
import resource
import shutil
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import timm
import torch

import sidetune
from sidetune.data.dataset import ImageDataset
from sidetune.measure.machine import birth_certificate
from sidetune.train.batches import training_batches
from sidetune.train.kept import keep
from sidetune.train.optimizer import make_optimizer
from sidetune.train.step import backward

BACKBONE, PIXELS = "vit_small_patch16_224", 64
COUNTS = (100, 1_000, 10_000)
RESULTS = Path(__file__).parent / "results"


def noise(count: int) -> sidetune.Samples:
    pixels = np.random.default_rng(0).integers(0, 256, (count, 28, 28), dtype=np.uint8)
    return sidetune.Samples(images=pixels, labels=[i % 10 for i in range(count)], classes=tuple("abcdefghij"))


def rss_mib() -> float:
    """Memory of the process that belongs to no file, in MiB."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("RssAnon"):
            return int(line.split()[1]) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main() -> None:
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    network = timm.create_model(BACKBONE, num_classes=0)
    backbone = sidetune.open_backbone(network, image_size=PIXELS)
    model = sidetune.adapt(backbone, "dtl+", num_classes=10, transform="vtab").hold(torch.bfloat16, device)

    def compute(images: torch.Tensor) -> sidetune.Features:
        features = model.features(images.to(device))
        assert isinstance(features, sidetune.Features)
        return features

    def kept(count: int, store: Path | None, peaks: list[float]) -> object:
        data = ImageDataset(noise(count), model.transform.evaluation(), is_random=False)
        recipe = sidetune.Recipe(features="memory")
        return keep(model, data, recipe, compute, lambda *_: peaks.append(rss_mib()), store=store)

    rows = []
    root = Path(tempfile.mkdtemp())
    for count in COUNTS:
        peaks: list[float] = []
        start = time.perf_counter()
        store = kept(count, root, peaks)
        seconds = time.perf_counter() - start
        size = sum(f.stat().st_size for f in store.folder.iterdir())
        row = {"images": count, "seconds": seconds, "bytes": size, "peak_private_mib": max(peaks)}
        rows.append({**row, "ms_per_image": 1e3 * seconds / count, "bytes_per_image": size / count})
        print(rows[-1], flush=True)

    sources = {"memory": kept(1_000, None, []), "store": kept(1_000, root, [])}
    recipe = sidetune.Recipe()
    optimizer = make_optimizer(model, recipe, 1e-3)
    model.train()
    epochs: dict[str, list[float]] = {name: [] for name in sources}
    for number in range(8):
        for name, source in sources.items():
            batches, order = training_batches(source, recipe, 1)
            order.epoch = number
            start = time.perf_counter()
            for features, labels in batches:
                backward(model, features.to(device), labels.to(device))
                optimizer.step()
                optimizer.zero_grad()
            epochs[name].append(time.perf_counter() - start)
    ratio = statistics.median(s / m for s, m in zip(epochs["store"][2:], epochs["memory"][2:], strict=True))
    print(f"an epoch from the store takes {ratio:.3f} of one from memory")
    shutil.rmtree(root)
    result = {"kind": "store", "backbone": BACKBONE, "pixels": PIXELS, "extraction": rows, "epochs": epochs}
    path = RESULTS / f"store-{device.type}.json"
    path.write_text(json.dumps({**result, "store_to_memory": ratio, **birth_certificate()}, indent=1) + "\n")
    print(f"wrote {path}")


if __name__ == "__main__":
    main()
