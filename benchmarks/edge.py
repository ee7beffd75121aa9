"""The small device at the shapes of ViT-B/16: memory of its whole process, a training step against PyTorch's, bytes.

python benchmarks/edge.py [--steps N]       # writes benchmarks/results/edge.json

Features are random; neither memory nor time depends on what they are. Each figure of memory is the highest the
operating system saw (VmHWM) of a process of its own, Python included. The two trainers are processes of their own too
and take turns step by step, each with the same number of threads: ours reads 8-bit features from its file and decodes
them, PyTorch has them in memory in 32 bits.
"""

import argparse
import http.server
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

import numpy as np

from sidetune.edge.features import FeatureFile, Header, create
from sidetune.edge.images import Item
from sidetune.measure.machine import birth_certificate
from sidetune.wire.codec import PRECISIONS, encode, num_bytes
from sidetune.wire.infer import Answer, build_response, parse_request
from sidetune.wire.message import HEADER_LENGTH
from sidetune.wire.metadata import ModelCard

RESULTS = Path(__file__).parent / "results"
BATCH, CLASSES, IMAGES = 32, 10, 128
CARD = ModelCard(
    name="vit_base_patch16_224",
    architecture="vit_base_patch16_224",
    digest="0" * 64,
    image_size=(224, 224),
    mean=(0.5, 0.5, 0.5),
    std=(0.5, 0.5, 0.5),
    transform="vtab",
    num_blocks=12,
    width=768,
    grid=(14, 14),
    num_prefix_tokens=1,
)
SHAPE = (CARD.num_tokens, CARD.width)

MEASURED = """
import atexit, sys
from sidetune.cli.entry import main
from sidetune.edge.cli import peak_bytes
atexit.register(lambda: print(peak_bytes() // 1024, file=sys.stderr))
main()
"""

OURS = """
import sys, time
from pathlib import Path
import numpy as np
from sidetune.edge.features import FeatureFile
from sidetune.edge.parameters import Shape, start
from sidetune.edge.step import Learner, pool_weights
from sidetune.recipe import Recipe
file = FeatureFile(Path(sys.argv[1]))
card, batch, classes = file.header.card, int(sys.argv[2]), int(sys.argv[3])
p = start(Shape(width=card.width, num_classes=classes), 0)
learner = Learner(file, card.num_blocks, p, pool_weights(card, "mean"), Recipe(), threads=int(sys.argv[4]))
def step(number):
    images = (np.arange(batch) + number * batch) % len(file.header.images)
    learner.update(images, 1e-3)
"""

THEIRS = """
import sys, time
import timm, torch
import sidetune
from sidetune.seam.features import Features
from sidetune.seam.taps import sum_of_taps
from sidetune.train.optimizer import make_optimizer
from sidetune.train.step import backward
torch.set_num_threads(int(sys.argv[4]))
batch, classes = int(sys.argv[2]), int(sys.argv[3])
backbone = sidetune.open_backbone(timm.create_model("vit_base_patch16_224", num_classes=0))
model = sidetune.adapt(backbone, "mist", num_classes=classes).train()
optimizer = make_optimizer(model, sidetune.Recipe(), 1e-3)
x, labels = torch.randn(128, 197, 768), torch.arange(128) % classes
def step(number):
    images = (torch.arange(batch) + number * batch) % len(x)
    backward(model, Features({sum_of_taps(12): x[images]}), labels[images])
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
"""

TURNS = """
for number, line in enumerate(sys.stdin):
    began = time.perf_counter()
    step(number)
    print(time.perf_counter() - began, flush=True)
"""


def features(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(SHAPE, dtype=np.float32)


def write_file(path: Path, precision: str = "int8") -> None:
    images = tuple(Item(path=f"{i}.jpg", label=i % CLASSES, part="train", size=1) for i in range(IMAGES))
    classes = tuple(map(str, range(CLASSES)))
    create(path, Header(card=CARD, ks=(12,), precision=precision, classes=classes, images=images))
    with FeatureFile(path, writable=True) as file:
        for i in range(IMAGES):
            file.put(i, {12: encode(features(i), precision).tobytes()})


class Handler(http.server.BaseHTTPRequestHandler):
    """A service that has an answer ready."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        told = {"models": [CARD.name]} if self.path == "/v2" else CARD.to_metadata()
        self.reply(json.dumps(told).encode())

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        (ask,) = parse_request(body, int(self.headers[HEADER_LENGTH])).asks
        answer = Answer(ask=ask, shape=SHAPE, data=[encode(features(0), ask.precision).data])
        self.reply(*build_response(CARD.name, [answer], [True], CARD.fingerprint))

    def reply(self, body: bytes, length: int | None = None) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        if length is not None:
            self.send_header(HEADER_LENGTH, str(length))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


def peak_mib(threads: int, *words: object) -> float:
    """Of `sidetune edge WORDS`."""
    command = [sys.executable, "-c", MEASURED, "edge", *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment(threads))
    assert done.returncode == 0, done.stderr
    return round(int(done.stderr.split()[-1]) / 1024, 1)


def environment(threads: int) -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": str(threads)}


def memory(folder: Path, file: Path, threads: int) -> dict[str, float]:
    (folder / "images" / "a").mkdir(parents=True, exist_ok=True)
    (folder / "images" / "b").mkdir(exist_ok=True)
    for i in range(20):
        (folder / "images" / "ab"[i % 2] / f"{i}.jpg").write_bytes(bytes(100_000))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{server.server_port}"
    model = folder / f"model-{threads}"
    enrolled = folder / f"enrolled-{threads}"
    peaks = {
        "fit": peak_mib(threads, "fit", file, "--out", model, "--epochs", 2, "--batch-size", BATCH),
        "predict": peak_mib(threads, "predict", model, folder / "images", "--server", url),
        "enroll": peak_mib(threads, "enroll", folder / "images", "--server", url, "--out", enrolled),
    }
    server.shutdown()
    server.server_close()
    return peaks


def race(file: Path, threads: int, steps: int) -> dict[str, object]:
    """Seconds a step, median; steps alternate between the two processes."""
    runners = {
        name: subprocess.Popen(
            [sys.executable, "-c", code + TURNS, str(file), str(BATCH), str(CLASSES), str(threads)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment(threads) | ({"OPENBLAS_NUM_THREADS": "1"} if name == "ours" else {}),
        )
        for name, code in {"ours": OURS, "pytorch": THEIRS}.items()
    }
    seconds: dict[str, list[float]] = {name: [] for name in runners}
    for _ in range(steps + 2):
        for name, runner in runners.items():
            assert runner.stdin and runner.stdout
            print("go", file=runner.stdin, flush=True)
            seconds[name].append(float(runner.stdout.readline()))
    for runner in runners.values():
        runner.communicate()
    medians = {name: statistics.median(taken[2:]) for name, taken in seconds.items()}  # the first two warm up
    pairs = [a / b for a, b in zip(seconds["ours"][2:], seconds["pytorch"][2:], strict=True)]
    return {"seconds": medians, "ratio": statistics.median(pairs)}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--steps", type=int, default=30)
    steps = parser.parse_args().steps
    cores = os.cpu_count() or 1
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "features"
        write_file(file)
        result = {
            **birth_certificate(),
            "shape": {"tokens": SHAPE[0], "width": SHAPE[1], "rank": 32, "layers": 4, "batch": BATCH},
            "peak_mib": {threads: memory(Path(folder), file, threads) for threads in sorted({1, cores})},
            "step": {threads: race(file, threads, steps) for threads in sorted({1, cores})},
            "bytes_per_image": {p: num_bytes(SHAPE, p) for p in PRECISIONS},
        }
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "edge.json").write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
