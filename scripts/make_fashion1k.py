"""Make sidetune/data/fashion1k.npz: 800 + 200 + 2,000 images of Fashion-MNIST, equally many of each class.

The source is Debian's package dataset-fashion-mnist (MIT licence; sidetune/data/fashion1k.LICENSE):

    apt-get install dataset-fashion-mnist
    python scripts/make_fashion1k.py /usr/share/datasets/fashion-mnist
"""

import gzip
import sys
from pathlib import Path

import numpy as np

CLASSES = ("T-shirt", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot")
OUT = Path(__file__).parent.parent / "sidetune/data/fashion1k.npz"


def read_idx(path: Path) -> np.ndarray:
    data = gzip.decompress(path.read_bytes())
    shape = np.frombuffer(data, ">i4", count=data[3], offset=4)
    return np.frombuffer(data, np.uint8, offset=4 + 4 * data[3]).reshape(shape)


def equally_many(labels: np.ndarray, per_class: int, rng: np.random.Generator) -> np.ndarray:
    """Shuffled indices of `per_class` images of every class."""
    chosen = [rng.choice(np.flatnonzero(labels == c), per_class, replace=False) for c in range(len(CLASSES))]
    return rng.permutation(np.concatenate(chosen))


def main() -> None:
    source = Path(sys.argv[1])
    rng = np.random.default_rng(0)
    parts = {}
    for part, prefix, per_class in (("train", "train", 100), ("test", "t10k", 200)):
        labels = read_idx(source / f"{prefix}-labels-idx1-ubyte.gz")
        indices = equally_many(labels, per_class, rng)
        parts[part] = read_idx(source / f"{prefix}-images-idx3-ubyte.gz")[indices], labels[indices]
    images, labels = parts["train"]
    order = np.argsort(labels, kind="stable").reshape(len(CLASSES), 100)
    val = np.sort(order[:, 80:].ravel())
    train = np.setdiff1d(np.arange(1000), val)
    arrays = {"classes": np.array(CLASSES), "test_images": parts["test"][0], "test_labels": parts["test"][1]}
    for part, indices in (("train", train), ("val", val)):
        arrays |= {f"{part}_images": images[indices], f"{part}_labels": labels[indices]}
    np.savez_compressed(OUT, **arrays)
    print(f"wrote {OUT}, {OUT.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
