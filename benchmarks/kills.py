"""Processes that are killed again and again and go on: what comes out is what comes out without, and nothing is left.

python benchmarks/kills.py [--kills N] [--only VERB,VERB]       # writes benchmarks/results/kills.json

For each verb, the command runs once undisturbed. Then it is started over and over, killed (SIGKILL) at a seeded moment
between the first third of that time and its end, and started again on the same folder with what makes it go on, until
it ends by itself; that is done anew until N kills have hit. Every end is compared with the undisturbed one byte by byte
(weights, features) or number by number (a comparison, but for its times), and files whose names begin with a dot, which
writers leave behind while they write, are counted.
"""

import argparse
import json
import random
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
from PIL import Image
from safetensors.torch import save_file

from sidetune.measure.machine import birth_certificate

RESULTS = Path(__file__).parent / "results"
SIDETUNE = (sys.executable, "-c", "from sidetune.cli.entry import main; main()")


@dataclass(frozen=True, kw_only=True)
class Verb:
    words: tuple[str, ...]
    """`OUT` stands for what it writes."""
    result: Callable[[Path], Any]


def images(folder: Path) -> None:
    rng = np.random.default_rng(0)
    for part, number in (("train", 12), ("val", 4), ("test", 4)):
        for label, name in enumerate(("dark", "grey", "light")):
            (folder / part / name).mkdir(parents=True)
            for i in range(number):
                pixels = rng.integers(80 * label, 80 * label + 90, (32, 32, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / part / name / f"{i}.png")


def files(*patterns: str) -> Callable[[Path], dict[str, bytes]]:
    """What a folder, or a file, holds under these names."""

    def read(out: Path) -> dict[str, bytes]:
        if out.is_file():
            return {"": out.read_bytes()}
        return {str(p.relative_to(out)): p.read_bytes() for pattern in patterns for p in sorted(out.rglob(pattern))}

    return read


def compared(out: Path) -> Any:
    (results,) = out.glob("results-*.json")
    rows = json.loads(results.read_text())["rows"]
    histories = [[{**e, "seconds": 0} for history in row["histories"] for e in history] for row in rows]
    return [row["accuracies"] for row in rows], histories, files("model.safetensors")(out)


def verbs(work: Path, address: str, features: Path) -> dict[str, Verb]:
    network = ("--backbone", str(work / "tiny.safetensors"), "--set", "architecture=vit_tiny_patch16_224")
    network += ("--set", "image_size=32")
    data, quick = str(work / "images"), ("--set", "recipe.batch_size=8")
    fit = ("fit", data, *network, *quick, "--epochs", "8", "--out", "OUT", "--resume")
    compare = ("compare", data, *network, *quick, "--methods", "linear,dtl+", "--seeds", "2", "--epochs", "3")
    device = ("--k", "12", "--epochs", "60", "--batch-size", "8", "--checkpoint-seconds", "0")
    return {
        "fit": Verb(words=fit, result=files("model.safetensors", "sidetune.json")),
        "extract": Verb(
            words=("extract", data, *network, "--set", "transform=vtab", "--store", "OUT"),
            result=files("shard-*", "store.json"),
        ),
        "compare": Verb(words=(*compare, "--out", "OUT", "--resume"), result=compared),
        "edge enroll": Verb(
            words=("edge", "enroll", data, "--server", address, "--out", "OUT", "--k", "6,12"), result=files()
        ),
        "edge fit": Verb(
            words=("edge", "fit", str(features), *device, "--out", "OUT", "--resume"),
            result=files("model.safetensors", "sidetune.json"),
        ),
    }


def run(words: tuple[str, ...], out: Path, kill_after: float | None = None) -> bool:
    """Whether it came to its end before it was killed."""
    command = [*SIDETUNE, *(word.replace("OUT", str(out)) for word in words)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as running:
        try:
            _, said = running.communicate(timeout=kill_after)
        except subprocess.TimeoutExpired:
            running.kill()
            running.communicate()
            return False
        if running.returncode:
            raise SystemExit(f"{' '.join(command)}: {said}")
        return True


@contextmanager
def service(work: Path) -> Iterator[str]:
    words = ("serve", "--port", "0", "--backbone", str(work / "tiny.safetensors"), "--transform", "vtab")
    words += ("--architecture", "vit_tiny_patch16_224", "--image-size", "32", "--set", "drain_timeout=0")
    log = work / "log"
    with log.open("wb") as out:
        running = subprocess.Popen([*SIDETUNE, *words], stderr=out)
    try:
        while not (found := re.search(r"running on (http://\S+)", log.read_text())):
            time.sleep(0.1)
        yield found[1]
    finally:
        running.terminate()
        running.wait()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=30)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", help="verbs, with commas between; the others stay as they were in the file")
    given = parser.parse_args()
    rng, table = random.Random(given.seed), {}
    file = RESULTS / "kills.json"
    before = json.loads(file.read_text())["verbs"] if given.only and file.exists() else {}
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        torch.manual_seed(0)
        save_file(timm.create_model("vit_tiny_patch16_224", num_classes=0).state_dict(), work / "tiny.safetensors")
        images(work / "images")
        with service(work) as address:
            features = work / "features"
            run(verbs(work, address, features)["edge enroll"].words, features)
            for verb, how in verbs(work, address, features).items():
                if given.only and verb not in given.only.split(","):
                    continue
                whole, killed = work / "whole", work / "killed"
                start = time.monotonic()
                run(how.words, whole)
                seconds, right = time.monotonic() - start, how.result(whole)
                kills = ends = wrong = left = 0
                while kills < given.kills:
                    if run(how.words, killed, rng.uniform(seconds / 3, seconds)):
                        ends += 1
                        wrong += how.result(killed) != right
                        left += len([p for p in killed.rglob(".*")]) + len(list(work.glob(".killed*")))
                        remove(killed)
                    else:
                        kills += 1
                if killed.exists():
                    run(how.words, killed)
                    ends += 1
                    wrong += how.result(killed) != right
                    left += len([p for p in killed.rglob(".*")]) + len(list(work.glob(".killed*")))
                table[verb] = {"kills": kills, "ends": ends, "different": wrong, "files_left": left, "seconds": seconds}
                print(f"{verb}: {table[verb]}", flush=True)
                remove(killed)
                remove(whole)
                result = {"kind": "kills", **birth_certificate(), "seed": given.seed, "verbs": {**before, **table}}
                file.write_text(json.dumps(result, indent=1) + "\n")
    sys.exit(any(row["different"] or row["files_left"] for row in table.values()))


def remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


if __name__ == "__main__":
    main()
