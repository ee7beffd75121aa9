"""Bits flipped, halves and exchanged files in everything that is read back: is it noticed, mended, or trusted?

python benchmarks/damage.py [--flips N]       # writes benchmarks/results/damage.json

For every kind of file, N seeded flips of one bit each, at places drawn evenly over the file and, for every second one,
over its first 4,096 bytes, where headers are; then the file cut in half, empty, and with another's content. After each,
the file is read by what reads it in use, in this process. It may be `refused` (an error of ours), `told` (a warning
names the file), `mended` (the content is made anew), or `the same` (what was hit decides nothing); `trusted` is wrong
content without a word and `traceback` any other error: both are faults, and make the command end with 1.
"""

import argparse
import json
import random
import shutil
import sys
import tempfile
import warnings
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch

import sidetune
from sidetune.backbones import open_backbone
from sidetune.data.samples import Samples
from sidetune.edge import trainer
from sidetune.edge.artefact import Choices
from sidetune.edge.client import Client
from sidetune.edge.enroll import enroll
from sidetune.errors import SidetuneError
from sidetune.measure.machine import birth_certificate
from sidetune.memo import Memo
from sidetune.recipe import Recipe
from sidetune.serve.cache import Cache
from sidetune.serve.local import Local

RESULTS = Path(__file__).parent / "results"
FAULTS = ("trusted", "traceback")
RECIPE = Recipe(epochs=2, batch_size=8, precision="fp32", lr=1e-2)
ON_DEVICE = Recipe(epochs=2, batch_size=8, lr_update="step")
CHOICES = Choices(rank=4, layers=1, lr=1e-2)
HEADER = 4096


@dataclass(frozen=True, kw_only=True)
class Kind:
    """A kind of file, one of it, another of it, and what reading it comes to."""

    file: Path
    other: Path
    read: Callable[[], Any]
    """What it decides, comparable by ==; `MENDED` where it was made anew."""


MENDED = "mended"


def squares(seed: int) -> Samples:
    rng = np.random.default_rng(seed)
    labels = [i % 3 for i in range(24)]
    images = np.stack([rng.integers(80 * label, 80 * label + 90, (32, 32)) for label in labels]).astype(np.uint8)
    return Samples(images=images, labels=labels, classes=("dark", "grey", "light"))


def tiny() -> Any:
    torch.manual_seed(0)
    size = {"depth": 4, "embed_dim": 48, "num_heads": 3, "img_size": 32, "patch_size": 8}
    return open_backbone(timm.create_model("vit_tiny_patch16_224", num_classes=0, **size))


def kinds(work: Path) -> dict[str, Kind]:
    backbone = tiny()

    def model(method: str = "dtl+") -> Any:
        return sidetune.adapt(backbone, method, classes=squares(0).classes, transform="vtab", seed=0)

    def trained(out: Path, seed: int, **how: Any) -> Any:
        made = model()
        sidetune.fit(made, squares(0), recipe=replace(RECIPE, seed=seed), out=out, **how)
        return made

    a, b = work / "a", work / "b"
    trained(a, 0)
    trained(b, 1)

    def weights(made: Any) -> list[Any]:
        return [t.tolist() for t in made.trained().values()]

    def loaded() -> Any:
        return weights(sidetune.load(a, backbone=backbone))

    def resumed() -> Any:
        shutil.rmtree(work / "resumed", ignore_errors=True)
        shutil.copytree(a, work / "resumed")
        return weights(trained(work / "resumed", 0, resume=True))

    found = {
        "model.safetensors": Kind(file=a / "model.safetensors", other=b / "model.safetensors", read=loaded),
        "sidetune.json": Kind(file=a / "sidetune.json", other=b / "sidetune.json", read=loaded),
        "run/checkpoint.pt": Kind(file=a / "run/checkpoint.pt", other=b / "run/checkpoint.pt", read=resumed),
        "run/run.json": Kind(file=a / "run/run.json", other=b / "run/run.json", read=resumed),
    }
    store = work / "store"

    def from_store(method: str = "dtl+") -> Any:
        made, before = model(method), {path: path.stat().st_ino for path in store.glob("*/shard-*")}
        sidetune.fit(made, squares(0), recipe=replace(RECIPE, epochs=1), store=store)
        after = {path: path.stat().st_ino for path in store.glob("*/shard-*")}
        for path in after.keys() - before.keys():
            if before:
                shutil.rmtree(path.parent)
        return (MENDED if after != before else "", weights(made))

    from_store()
    second = model()
    sidetune.fit(second, squares(1), recipe=replace(RECIPE, epochs=1), store=work / "store-2")
    (shard,), (another,) = store.glob("*/shard-*"), (work / "store-2").glob("*/shard-*")
    found["store shard"] = Kind(file=shard, other=another, read=from_store)
    found["store.json"] = Kind(
        file=shard.parent / "store.json", other=a / "run/run.json", read=lambda: from_store("dtlv2")
    )
    found |= of_device(work, backbone)
    found |= of_service(work)
    memo = Memo(work / "answers.json")
    memo.about = {"data": "photos", "epochs": 3}
    for i in range(5):
        memo.put(["run", i], {"accuracy": i / 7, "history": [{"loss": i / 3}] * 4})
    other = Memo(work / "other.json")
    other.put(["run", 0], {"accuracy": 0.5})

    def remembered() -> Any:
        return [Memo(work / "answers.json").find(["run", i]) for i in range(5)]

    found["answers.json"] = Kind(file=work / "answers.json", other=a / "run/run.json", read=remembered)
    return found


def of_device(work: Path, backbone: Any) -> dict[str, Kind]:
    images = work / "images"
    for part in ("train", "val"):
        for i, label in enumerate(squares(0).labels):
            path = images / part / squares(0).classes[label] / f"{part}{i}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            squares(len(part)).image(i).save(path)
    file, reversed_file = work / "features", work / "features-2"
    client = Client(Local(backbone, transform="vtab", name="tiny"), "tiny")
    enroll(client, images, file, ks=[4], precision="int8")
    enroll(client, images, reversed_file, ks=[4], precision="fp16")
    out, other = work / "device", work / "device-2"
    for folder, seed in ((out, 0), (other, 1)):
        trainer.fit(file, folder, choices=CHOICES, recipe=replace(ON_DEVICE, seed=seed))

    def parameters(folder: Path) -> bytes:
        return (folder / "model.safetensors").read_bytes()

    def resumed() -> Any:
        shutil.rmtree(work / "device-on", ignore_errors=True)
        shutil.copytree(out, work / "device-on")
        trainer.fit(file, work / "device-on", choices=CHOICES, recipe=ON_DEVICE, resume=True)
        return parameters(work / "device-on")

    state = "run/checkpoint.safetensors"
    return {
        "edge checkpoint": Kind(file=out / state, other=other / state, read=resumed),
        "features file": Kind(file=file, other=reversed_file, read=resumed),
    }


def of_service(work: Path) -> dict[str, Kind]:
    folder = work / "cache"
    cache = Cache(folder, 2**30)
    for key in ("a", "b"):
        cache.put(key, key.encode() * 3000)
    cache.close()
    first, second = (Cache.path(cache, name) for name in sorted(cache.sizes))

    def got() -> Any:
        again = Cache(folder, 2**30)
        answers = [again.get(key) for key in ("a", "b")]
        for key in ("a", "b"):
            again.put(key, key.encode() * 3000)
        again.close()
        return (MENDED if None in answers else "", [None if a is None else a[:1] * len(a) == a for a in answers])

    return {"cache entry": Kind(file=first, other=second, read=got)}


def outcome(kind: Kind, right: Any) -> str:
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always", UserWarning)
        try:
            found = kind.read()
        except SidetuneError:
            return "refused"
        except Exception as e:
            print(f"{kind.file.name}: {type(e).__name__}: {e}", file=sys.stderr)
            return "traceback"
    if isinstance(found, tuple) and found[0] == MENDED:
        wrong = found[1] != right[1] if isinstance(right[1], list) and None not in found[1] else False in found[1]
        return "trusted" if wrong else MENDED
    if any(issubclass(w.category, sidetune.errors.DataWarning) for w in told):
        return "told"
    return "the same" if found == right else "trusted"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--flips", type=int, default=300)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    torch.set_num_threads(1)
    rng, table = random.Random(given.seed), {}
    with tempfile.TemporaryDirectory() as work:
        for name, kind in kinds(Path(work)).items():
            whole, other = kind.file.read_bytes(), kind.other.read_bytes()
            right, counts = kind.read(), Counter()

            def tried(data: bytes, kind: Kind = kind, right: Any = right, whole: bytes = whole) -> str:
                kind.file.write_bytes(data)
                seen = outcome(kind, right)
                kind.file.write_bytes(whole)
                return seen

            for number in range(given.flips):
                place = rng.randrange(len(whole) if number % 2 else min(len(whole), HEADER))
                hit = bytearray(whole)
                hit[place] ^= 1 << rng.randrange(8)
                seen = tried(bytes(hit))
                counts[seen] += 1
                if seen in FAULTS:
                    print(f"{name}: {seen} at byte {place} of {len(whole)}", file=sys.stderr)
            cases = {"half": whole[: len(whole) // 2], "empty": b"", "another's": other}
            table[name] = {"flips": dict(counts), **{case: tried(data) for case, data in cases.items()}}
            print(f"{name}: {table[name]}", flush=True)
    result = {"kind": "damage", **birth_certificate(), "seed": given.seed, "flips": given.flips, "files": table}
    (RESULTS / "damage.json").write_text(json.dumps(result, indent=1) + "\n")
    bad = [name for name, row in table.items() if any(f in row.values() or row["flips"].get(f) for f in FAULTS)]
    sys.exit(f"not noticed: {', '.join(bad)}" if bad else 0)


if __name__ == "__main__":
    main()
