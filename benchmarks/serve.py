"""A service under load beside the bare backbone; its memory after many requests; and damaged requests.

    python benchmarks/serve.py [--backbone vit_base_patch16_224] [--seconds 60] [--requests 10000]

Clients are threads of processes of their own, each with one connection and one image a request; images are JPEGs of
the backbone's size, all different while they are under way, and nothing is cached. The bare backbone runs the same sum
of taps on tensors that are ready; it and the service take turns. Writes benchmarks/results/serve-{cpu,cuda}.json.
"""

import argparse
import collections
import http.client
import io
import json
import multiprocessing
import random
import re
import statistics
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
import timm
import torch
from fuzz import changed_request
from PIL import Image
from safetensors.torch import save_file

from sidetune.cli import pair
from sidetune.measure.machine import birth_certificate
from sidetune.serve.worker import Worker, open_workers
from sidetune.wire.ask import Ask
from sidetune.wire.infer import build_request
from sidetune.wire.message import HEADER_LENGTH

BATCHES = (1, 2, 4, 8, 16, 32, 64, 128)
PRECISIONS = ("int8", "int4")
SMALL, SMALL_PIXELS = "vit_tiny_patch16_224", 64
RESULTS = Path(__file__).parent / "results"


def jpeg(seed: int, pixels: int) -> bytes:
    """A smooth picture, about as large as a photograph of its size."""
    noise = np.random.default_rng(seed).integers(0, 256, (pixels // 8, pixels // 8, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(noise).resize((pixels, pixels), Image.Resampling.BICUBIC).save(file, "JPEG", quality=90)
    return file.getvalue()


def weights_of(architecture: str, folder: Path) -> Path:
    path = folder / f"{architecture}.safetensors"
    if not path.exists():
        torch.manual_seed(0)
        save_file(timm.create_model(architecture, num_classes=0).state_dict(), path)
    return path


@contextmanager
def service(architecture: str, pixels: int, folder: Path, *options: str):
    """A service in a process of its own: the process and its port."""
    words = ("--backbone", weights_of(architecture, folder), "--architecture", architecture)
    with pair.service(*words, "--image-size", pixels, "--transform", "vtab", *options) as (running, url):
        yield running, urlsplit(url).port


def post(connection: http.client.HTTPConnection, model: str, body: bytes, headers: dict[str, str]) -> tuple[int, bytes]:
    connection.request("POST", f"/v2/models/{model}/infer", body, headers)
    answer = connection.getresponse()
    return answer.status, answer.read()


def client(port: int, model: str, requests: list[tuple[bytes, int]], until: float) -> list[float]:
    """Seconds each request took, one after the other until a time."""
    connection = http.client.HTTPConnection("127.0.0.1", port)
    took = []
    for number in range(sys.maxsize):
        if time.time() >= until:
            return took
        body, length = requests[number % len(requests)]
        start = time.perf_counter()
        status, _ = post(connection, model, body, {HEADER_LENGTH: str(length)})
        took.append(time.perf_counter() - start)
        assert status == 200
    return took


def clients(number: int, count: int, port: int, model: str, pixels: int, until: float, ask: Ask, out) -> None:
    """A process of several clients, none of which sends what another does."""
    files = [
        [build_request([jpeg(10_000 * number + 100 * c + i, pixels)], [ask]) for i in range(8)] for c in range(count)
    ]
    with ThreadPoolExecutor(count) as pool:
        out.put(sum(pool.map(lambda f: client(port, model, f, until), files), []))


def loaded(port: int, model: str, pixels: int, seconds: float, ask: Ask, args: argparse.Namespace) -> list[float]:
    """Seconds that requests took under all clients at once."""
    out = multiprocessing.Queue()
    until = time.time() + seconds + 5  # the pictures are made in the first seconds
    each = args.clients // args.processes
    arguments = [(i, each, port, model, pixels, until, ask, out) for i in range(args.processes)]
    started = [multiprocessing.Process(target=clients, args=a) for a in arguments]
    [p.start() for p in started]
    took = sum((out.get() for _ in started), [])
    [p.join() for p in started]
    return took


def bare(worker: Worker, name: str, batch: int, seconds: float) -> float:
    """Images a second of the backbone alone, its features left where they are."""
    images = torch.randn(batch, 3, *worker.card.image_size, device=worker.device)
    need = worker.need([name])
    with torch.inference_mode():
        for _ in range(2):
            worker.prefix(images, need)
        count, start = 0, time.perf_counter()
        while time.perf_counter() - start < seconds:
            worker.prefix(images, need)
            if worker.device.type == "cuda":
                torch.cuda.synchronize()
            count += batch
    return count / (time.perf_counter() - start)


def throughput(folder: Path, args: argparse.Namespace) -> dict[str, object]:
    path = weights_of(args.backbone, folder)
    (worker,) = open_workers([str(path)], architecture=args.backbone, image_size=args.pixels, transform="vtab")
    asks = [Ask(k=worker.card.num_blocks, precision=precision) for precision in PRECISIONS]
    name = asks[0].name
    swept = {b: bare(worker, name, b, args.seconds / 8) for b in BATCHES}
    best = max(swept, key=swept.__getitem__)
    print(f"bare backbone: {swept[best]:.1f} images a second in batches of {best}", flush=True)
    runs = [{"precision": ask.precision, "images_per_second": [], "to_bare": [], "latencies": []} for ask in asks]
    with service(args.backbone, args.pixels, folder, "--max-batch", str(args.max_batch)) as (_, port):
        loaded(port, path.stem, args.pixels, 2, asks[0], args)
        for _ in range(args.rounds):
            for ask, run in zip(asks, runs, strict=True):
                alone = bare(worker, name, best, args.seconds / 2)
                took = loaded(port, path.stem, args.pixels, args.seconds, ask, args)
                rate = args.clients / statistics.fmean(took)  # every client always waits for one
                run["images_per_second"].append(rate)
                run["to_bare"].append(rate / alone)
                run["latencies"] += took
                told = f"{rate:.1f} images a second, {rate / alone:.3f} of the bare {alone:.1f}"
                print(f"{ask.precision}: {told}", flush=True)
    for run in runs:
        ordered = sorted(run.pop("latencies"))
        run["latency_seconds"] = {f"p{p}": ordered[int(len(ordered) * p / 100)] for p in (50, 90, 99)}
    return {"bare_images_per_second": swept, "service": runs}


def rss_mib(pid: int) -> float:
    return int(re.search(r"VmRSS:\s+(\d+)", Path(f"/proc/{pid}/status").read_text())[1]) / 1024


def endurance(folder: Path, args: argparse.Namespace) -> dict[str, object]:
    """Memory after a tenth and after all of the requests, and what damaged requests do."""
    options = ("--cache", str(folder / "cache"), "--set", "cache_bytes=20000000")
    name = SMALL
    with service(SMALL, SMALL_PIXELS, folder, *options) as (running, port):

        def many(first: int, count: int) -> None:
            def one(chunk: range) -> None:
                connection = http.client.HTTPConnection("127.0.0.1", port)
                for seed in chunk:
                    ask = Ask(k=seed % 13, precision=("int8", "int4", "fp16", "fp32")[seed % 4])
                    body, length = build_request([jpeg(seed, 48 + seed % 100)], [ask])
                    assert post(connection, name, body, {HEADER_LENGTH: str(length)})[0] == 200

            with ThreadPoolExecutor(args.clients) as pool:
                list(pool.map(one, [range(first + i, first + count, args.clients) for i in range(args.clients)]))

        memory = {}
        many(0, args.requests // 10)
        memory[args.requests // 10] = rss_mib(running.pid)
        many(args.requests // 10, args.requests - args.requests // 10)
        memory[args.requests] = rss_mib(running.pid)
        print(f"memory in MiB after so many requests: {memory}", flush=True)

        rng = random.Random(0)
        good = build_request([jpeg(1, 64), jpeg(2, 64)], [Ask(k=12)], id="1")
        statuses: collections.Counter[int] = collections.Counter()
        for _ in range(args.requests):
            body, headers = changed_request(*good, rng)
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
            status, answer = post(connection, name, body, headers)
            assert status == 200 or list(json.loads(answer)) == ["error"], (status, answer)
            assert status < 500, answer
            statuses[status] += 1
            connection.close()
        after = rss_mib(running.pid)
        many(0, args.clients)
        print(f"damaged requests: {dict(statuses)}; memory after them {after:.0f} MiB", flush=True)
    growth = memory[args.requests] / memory[args.requests // 10] - 1
    return {"memory_mib": memory, "growth": growth, "damaged": dict(statuses), "memory_after_damage_mib": after}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--backbone", default="vit_base_patch16_224")
    parser.add_argument("--pixels", type=int, default=224)
    parser.add_argument("--clients", type=int, default=32)
    parser.add_argument("--processes", type=int, default=4)
    parser.add_argument("--max-batch", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--requests", type=int, default=10_000)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as root:
        result = {"kind": "serve", **vars(args), **throughput(Path(root), args), **endurance(Path(root), args)}
    device = "cuda" if torch.cuda.is_available() else "cpu"
    path = RESULTS / f"serve-{device}.json"
    path.write_text(json.dumps({**result, **birth_certificate()}, indent=1) + "\n")
    print(f"wrote {path}")


if __name__ == "__main__":
    main()
