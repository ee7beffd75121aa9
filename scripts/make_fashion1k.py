"""Make sidetune/data/fashion1k.npz in VTAB-1k's form from Fashion-MNIST.

As VTAB does, it takes the first 800 training images to train on, the next 200 to validate, and here the first 2,000 of
the test images; nothing is drawn at random.

The source is Debian's package dataset-fashion-mnist (MIT licence; sidetune/data/fashion1k.LICENSE):

    apt-get install dataset-fashion-mnist
    python scripts/make_fashion1k.py /usr/share/datasets/fashion-mnist
"""

import gzip
import sys
from pathlib import Path

import numpy as np

CLASSES = ("T-shirt", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot")
PARTS = (("train", "train", 0, 800), ("val", "train", 800, 1000), ("test", "t10k", 0, 2000))
OUT = Path(__file__).parent.parent / "sidetune/data/fashion1k.npz"


def read_idx(path: Path) -> np.ndarray:
    data = gzip.decompress(path.read_bytes())
    shape = np.frombuffer(data, ">i4", count=data[3], offset=4)
    return np.frombuffer(data, np.uint8, offset=4 + 4 * data[3]).reshape(shape)


def main() -> None:
    source = Path(sys.argv[1])
    arrays = {"classes": np.array(CLASSES)}
    for part, prefix, start, stop in PARTS:
        arrays[f"{part}_images"] = read_idx(source / f"{prefix}-images-idx3-ubyte.gz")[start:stop]
        arrays[f"{part}_labels"] = read_idx(source / f"{prefix}-labels-idx1-ubyte.gz")[start:stop]
    np.savez_compressed(OUT, **arrays)
    print(f"wrote {OUT}, {OUT.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
