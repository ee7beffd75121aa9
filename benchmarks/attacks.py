"""Other callers' waiting times while one caller attacks the service, beside those when all is quiet.

python benchmarks/attacks.py [--seconds S] [--rounds N] [--only NAME,NAME]    # writes benchmarks/results/attacks.json

A service over ViT-Ti/16 at 224 px (random weights, no cache) in a process of its own, with a key for each of two
callers. The polite one sends one small JPEG after the other, each another one, with a pause between. The attacker, a
process of its own too, does one thing as fast as it can on some connections. Every round measures quiet and attacked in
turn, so that the ratios are of neighbours. Told are the medians over the rounds of p50 and p99 over their quiet values,
what both were answered, and the memory of the service with its decoders before and after everything. Target: p99 within
three times, no 5xx but 503, memory flat.
"""

import argparse
import gzip
import http.client
import io
import json
import os
import random
import re
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
import timm
import torch
from PIL import Image
from safetensors.torch import save_file

from sidetune.measure.machine import birth_certificate
from sidetune.wire.ask import Ask
from sidetune.wire.infer import build_request
from sidetune.wire.message import HEADER_LENGTH

RESULTS = Path(__file__).parent / "results"
POLITE, HOSTILE = "the key of the polite one", "the key of the hostile one"
PATH = "/v2/models/tiny/infer"
ASK = [Ask(gather="token")]
PAUSE = 0.01
Request = tuple[bytes, dict[str, str]]
Once = Callable[[str, int, Counter], None]


def jpeg(seed: int, size: tuple[int, int] = (224, 224), **options: object) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1] // 8, size[0] // 8, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).resize(size).save(file, "JPEG", **options)
    return file.getvalue()


def png(size: tuple[int, int], mode: str) -> bytes:
    file = io.BytesIO()
    Image.new(mode, size, 99).save(file, "PNG", compress_level=1)
    return file.getvalue()


def layered(size: tuple[int, int], scans: int) -> bytes:
    """A progressive JPEG whose last scan comes again and again."""
    file = io.BytesIO()
    Image.new("RGB", size, 99).save(file, "JPEG", progressive=True)
    plain = file.getvalue()
    at, end = plain.rindex(b"\xff\xda"), plain.rindex(b"\xff\xd9")
    return plain[:end] + plain[at:end] * scans + b"\xff\xd9"


def asked(*images: bytes, key: str = HOSTILE, **more: str) -> Request:
    body, length = build_request(list(images), ASK)
    return bytes(body), {HEADER_LENGTH: str(length), "Authorization": f"Bearer {key}", **more}


def in_json(text: bytes) -> Request:
    return text, {"Content-Type": "application/json", "Authorization": f"Bearer {HOSTILE}"}


def repeated(*requests: Request) -> Once:
    """One after the other, on a connection that is kept as long as it can be."""

    def once(host: str, port: int, seen: Counter) -> None:
        caller = http.client.HTTPConnection(host, port, timeout=60)
        try:
            for body, headers in requests:
                caller.request("POST", PATH, body, headers)
                answer = caller.getresponse()
                answer.read()
                seen[answer.status] += 1
                if answer.status in (429, 503):
                    time.sleep(0.02)
        finally:
            caller.close()

    return once


def leaves(body: bytes, headers: dict[str, str]) -> Once:
    """Sends a request and is gone before its answer."""
    head = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    data = f"POST {PATH} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n{head}\r\n".encode() + body

    def once(host: str, port: int, seen: Counter) -> None:
        with socket.create_connection((host, port)) as s:
            s.sendall(data)
            time.sleep(0.05)
        seen["left"] += 1

    return once


def in_single_bytes(host: str, port: int, seen: Counter) -> None:
    head = f"POST {PATH} HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\nAuthorization: Bearer {HOSTILE}\r\n\r\n"
    with socket.create_connection((host, port)) as s:
        s.settimeout(60)
        with suppress(OSError):
            s.sendall(head.encode() + b"1\r\nx\r\n" * 500_000 + b"0\r\n\r\n")
        status = re.match(rb"HTTP/1.1 (\d+)", s.recv(100) or b"")
        seen[int(status[1]) if status else "closed"] += 1


def drips(host: str, port: int, seen: Counter) -> None:
    """Headers that come byte by byte."""
    with socket.create_connection((host, port)) as s:
        for byte in f"POST {PATH} HTTP/1.1\r\nHost: x".encode():
            s.sendall(bytes([byte]))
            time.sleep(0.2)
    seen["gave up"] += 1


def gzipped() -> Request:
    return gzip.compress(bytes(2**28), 1), {**asked(b"")[1], "Content-Encoding": "gzip"}


def full(number: int) -> Request:
    return asked(*[jpeg(40 * number + j) for j in range(32)])


ATTACKS: dict[str, tuple[int, Callable[[], Once]]] = {
    "progressive JPEG of 2,000 scans": (4, lambda: repeated(asked(layered((1400, 1400), 2000)))),
    "25 megapixels in 50 scans": (4, lambda: repeated(asked(layered((5000, 5000), 40)))),
    "32-megapixel RGBA": (4, lambda: repeated(asked(png((5600, 5600), "RGBA")))),
    "eight of 31 megapixels in a request": (4, lambda: repeated(asked(*[png((5600, 5600), "RGB")] * 8))),
    "nine of 31 megapixels in a request": (4, lambda: repeated(asked(*[png((5600, 5600), "RGB")] * 9))),
    "leaves before the answer": (8, lambda: leaves(*asked(png((5600, 5600), "RGBA")))),
    "500,000 chunks of one byte": (4, lambda: in_single_bytes),
    "4 MiB of [], in JSON": (4, lambda: repeated(in_json(b'{"inputs": [' + b"[]," * (4 * 2**20 // 3) + b"1]}"))),
    "an output's name of 3 MB": (
        4,
        lambda: repeated(in_json(json.dumps({"inputs": [], "outputs": [{"name": "x" * 3_000_000}]}).encode())),
    ),
    "gzip of 256 MiB": (4, lambda: repeated(gzipped())),
    "headers that drip": (200, lambda: drips),
    "flood of small images by one key": (32, lambda: repeated(*[asked(jpeg(i)) for i in range(20)])),
    "flood of full requests by one key": (8, lambda: repeated(*map(full, range(4)))),
}
"""By name: on how many connections, and what makes what is done again and again on each."""


def attack(name: str, host: str, port: int, seconds: float) -> None:
    """In a process of its own: attack until told, then say what was answered."""
    connections, make = ATTACKS[name]
    once = make()
    seen: Counter = Counter()
    print("ready", flush=True)
    sys.stdin.readline()
    until = time.monotonic() + seconds

    def again() -> None:
        while time.monotonic() < until:
            try:
                once(host, port, seen)
            except (OSError, http.client.HTTPException) as e:
                seen[type(e).__name__] += 1
                time.sleep(0.02)

    for thread in [threading.Thread(target=again, daemon=True) for _ in range(connections)]:
        thread.start()
    time.sleep(seconds + 0.2)
    print(json.dumps({str(status): count for status, count in seen.items()}), flush=True)
    os._exit(0)


def polite(host: str, port: int, seconds: float, files: Iterator[bytes]) -> tuple[list[float], Counter]:
    """Seconds of each request, and what was answered."""
    caller, times, seen = http.client.HTTPConnection(host, port, timeout=60), [], Counter()
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        body, headers = asked(next(files), key=POLITE)
        start = time.monotonic()
        caller.request("POST", PATH, body, headers)
        answer = caller.getresponse()
        answer.read()
        times.append(time.monotonic() - start)
        seen[str(answer.status)] += 1
        time.sleep(PAUSE)
    caller.close()
    return times, seen


def different() -> Iterator[bytes]:
    number = 10**6
    while True:
        yield jpeg(number := number + 1)


def percentile(times: list[float], share: float) -> float:
    return sorted(times)[min(int(share * len(times)), len(times) - 1)]


@contextmanager
def service(work: Path) -> Iterator[tuple[subprocess.Popen[bytes], int, Path]]:
    torch.manual_seed(0)
    save_file(timm.create_model("vit_tiny_patch16_224", num_classes=0).state_dict(), work / "tiny.safetensors")
    keys, log = work / "keys.toml", work / "log"
    keys.write_text(f'[polite]\nkey = "{POLITE}"\n[hostile]\nkey = "{HOSTILE}"\n')
    keys.chmod(0o600)
    command = (sys.executable, "-c", "from sidetune.cli.entry import main; main()", "serve", "--port", "0")
    backbone = ("--backbone", work / "tiny.safetensors", "--architecture", "vit_tiny_patch16_224")
    with log.open("wb") as out:
        running = subprocess.Popen([*command, *map(str, backbone), "--keys", str(keys)], stderr=out)
    try:
        while not (found := re.search(r"running on http://\S+:(\d+)", log.read_text())):
            if running.poll() is not None:
                raise SystemExit(log.read_text())
            time.sleep(0.1)
        yield running, int(found[1]), log
    finally:
        running.terminate()
        running.wait()


def resident(pid: int) -> int:
    """Bytes in memory of a process and of those that it started."""
    total = 0
    for status in Path("/proc").glob("[0-9]*/status"):
        with suppress(OSError):
            told = dict(line.split(":\t", 1) for line in status.read_text().splitlines() if ":\t" in line)
            if pid in (int(told["Pid"]), int(told["PPid"])):
                total += 1024 * int(told.get("VmRSS", "0 kB").split()[0])
    return total


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=8)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", help="attacks whose names hold one of these, with commas between")
    parser.add_argument("--attack", nargs=3, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.attack:
        name, port, seconds = given.attack
        return attack(name, "127.0.0.1", int(port), float(seconds))
    random.seed(0)
    names = [n for n in ATTACKS if given.only is None or any(word in n for word in given.only.split(","))]
    files, table = different(), {}
    with tempfile.TemporaryDirectory() as work, service(Path(work)) as (running, port, log):
        polite("127.0.0.1", port, 3, files)
        before = resident(running.pid)
        for name in names:
            rounds = []
            for _ in range(given.rounds):
                command = [sys.executable, __file__, "--attack", name, str(port), str(given.seconds + 1)]
                with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as hostile:
                    assert hostile.stdin is not None and hostile.stdout is not None
                    hostile.stdout.readline()
                    quiet, _ = polite("127.0.0.1", port, given.seconds, files)
                    hostile.stdin.write("go\n")
                    hostile.stdin.flush()
                    time.sleep(0.5)
                    times, seen = polite("127.0.0.1", port, given.seconds, files)
                    said = json.loads(hostile.stdout.readline())
                rounds.append((quiet, times, seen, said))
                time.sleep(1)
            ratios = {
                f"p{round(100 * share)}": statistics.median(
                    percentile(times, share) / percentile(quiet, share) for quiet, times, _, _ in rounds
                )
                for share in (0.5, 0.99)
            }
            table[name] = {
                "over_quiet": ratios,
                "quiet_seconds": [[percentile(q, 0.5), percentile(q, 0.99)] for q, _, _, _ in rounds],
                "attacked_seconds": [[percentile(t, 0.5), percentile(t, 0.99)] for _, t, _, _ in rounds],
                "polite": dict(sum((seen for _, _, seen, _ in rounds), Counter())),
                "hostile": dict(sum((Counter(said) for _, _, _, said in rounds), Counter())),
                "resident_mib": resident(running.pid) / 2**20,
            }
            print(f"{name}: p50 x {ratios['p50']:.2f}, p99 x {ratios['p99']:.2f}; {table[name]['hostile']}", flush=True)
        time.sleep(2)
        after = resident(running.pid)
        traces = log.read_text().count("Traceback")
    print(f"resident {before / 2**20:.0f} -> {after / 2**20:.0f} MiB, tracebacks {traces}")
    result = {"kind": "attacks", **birth_certificate(), "seconds": given.seconds, "rounds": given.rounds}
    result |= {"resident_mib": [before / 2**20, after / 2**20], "tracebacks_in_log": traces, "attacks": table}
    (RESULTS / "attacks.json").write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
