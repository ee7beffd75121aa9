"""Features of a data set on disk: computed once, memory-mapped afterwards.

A store is a folder of shards, each a safetensors file with the features of some images in a row and a checksum of
them. A shard is whole or not there, so a stopped extraction goes on where it was and several processes may fill one
store at once. The folder's name is a digest of everything that decides the features: whoever asks for others gets
another folder.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import shutil
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Subset

from sidetune.atomic import remove_stale, replacing, write_text
from sidetune.data.dataset import collate, together
from sidetune.errors import NoSpace
from sidetune.sealed import is_sealed, sealed_json
from sidetune.seam.features import Features, from_named, join
from sidetune.seam.taps import Kind, Need, Tap
from sidetune.store.codec import Codec, decode, encode

Compute = Callable[[Tensor], Features]
SHARD_BYTES = 64 * 2**20
FORMAT = 2
FORMER: dict[str, Kind] = {"inputs": "input", "outputs": "output", "pooled": "pool", "gathered": "sum"}
"""What version 1 of a store called the kinds of taps."""


@dataclass(frozen=True, kw_only=True)
class Origin:
    """Everything that decides what stands in a store."""

    weights: str
    """Digest of the backbone's weights."""
    image_size: tuple[int, int]
    preprocessing: str
    images: str
    """Digest of the images, in order."""
    need: Need
    dtype: str
    """Type the features were computed in."""
    codec: Codec
    num_images: int
    views: int
    """Randomly augmented views of each image; 0 for the one that evaluation sees."""
    seed: int
    """Of the views."""

    def described(self, version: int = FORMAT) -> dict[str, object]:
        """As a store's JSON has it. Version 1, of sidetune 0.1, called the kinds of taps otherwise."""
        taps: object = sorted(map(str, self.need))
        if version == 1:
            taps = {old: sorted(tap.at for tap in self.need if tap.kind == kind) for old, kind in FORMER.items()}
        fields = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        return {**fields, "need": taps, "format": version}

    def key(self, version: int = FORMAT) -> str:
        """The name of the store's folder."""
        return hashlib.sha256(json.dumps(self.described(version), sort_keys=True).encode()).hexdigest()[:24]

    @property
    def num_items(self) -> int:
        return self.num_images * max(self.views, 1)


class FeatureStore(Dataset[tuple[Features, Tensor]]):
    """(features, label) of every image, read from whole shards. Item v * num_images + i is view v of image i."""

    is_random = False

    def __init__(
        self,
        folder: Path,
        origin: Origin,
        per_shard: int,
        need: Need,
        labels: Tensor | Sequence[Any],
        classes: tuple[str, ...],
    ) -> None:
        self.folder, self.origin, self.per_shard, self.need = folder, origin, per_shard, need
        self.labels, self.classes = labels, classes
        self.num_views = max(origin.views, 1)
        self._shards: dict[int, dict[str, Tensor]] = {}
        self._dtype: torch.dtype = getattr(torch, origin.dtype)

    def __len__(self) -> int:
        return self.origin.num_images

    def __getitem__(self, index: int) -> tuple[Features, Tensor]:
        features, label = self.__getitems__([index])
        return features.map(lambda t: t[0]), label[0]

    def __getitems__(self, indices: Sequence[int]) -> tuple[Features, Tensor]:
        """A whole batch at once, copied out of the mapped files."""
        rows: dict[int, list[tuple[int, int]]] = {}
        for position, index in enumerate(indices):
            rows.setdefault(index // self.per_shard, []).append((position, index % self.per_shard))
        out: dict[str, Tensor] = {}
        for number, places in rows.items():
            to, of = (torch.tensor(side) for side in zip(*places, strict=True))
            for name, tensor in self.shard(number).items():
                if name not in out:
                    out[name] = tensor.new_empty((len(indices), *tensor.shape[1:]))
                out[name][to] = tensor[of]
        return decoded(out, self._dtype), self.targets(indices)

    def targets(self, indices: Sequence[int]) -> Any:
        if isinstance(self.labels, Tensor):
            return self.labels[torch.tensor(indices) % len(self)]
        return together([self.labels[i] for i in indices])

    def shard(self, number: int) -> dict[str, Tensor]:
        if number not in self._shards:
            with safe_open(shard_path(self.folder, number), framework="pt") as file:
                names = {name: present(name) for name in file.keys()}
                wanted = set(map(str, self.need))
                self._shards[number] = {
                    now: file.get_tensor(name) for name, now in names.items() if now.removesuffix(".scale") in wanted
                }
        return self._shards[number]

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "_shards": {}}  # a worker maps the files itself


def fill(
    root: Path,
    origin: Origin,
    images: Dataset[tuple[Tensor, int]],
    labels: Tensor | Sequence[Any],
    classes: tuple[str, ...],
    compute: Compute,
    *,
    channel_axis: int = -1,
    batch_size: int = 32,
    num_workers: int = 0,
    share: float = 0,
    progress: Callable[[int, int], None] | None = None,
) -> FeatureStore:
    """The store of these images under `root`; what is missing or damaged in it is computed first.

    `images` holds an item for every view of every image, view by view. A finished store that holds these features among
    others serves as well. Several processes that begin at different shares (0..1) of it split the work. Raises NoSpace
    before anything is written if the disk cannot hold the rest.
    """
    if (found := finished(root, origin)) is not None:
        return FeatureStore(*found, origin.need, labels, classes)
    folder = root / origin.key()
    per_item = item_bytes(images[0][0], compute, origin.codec, channel_axis)
    per_shard = max(SHARD_BYTES // per_item, 1)
    num_shards = -(-origin.num_items // per_shard)
    remove_stale(folder, "shard-*")  # before the space is counted
    missing = [n for n in range(num_shards) if not is_whole(folder, n, per_shard, origin)]
    foresee_space(root, per_item * sum(len(items_of(n, per_shard, origin)) for n in missing))
    write_text(folder / "store.json", sealed_json({**origin.described(), "per_shard": per_shard}))
    done = num_shards - len(missing)
    for number in sorted(missing, key=lambda n: (n - int(share * num_shards)) % num_shards):
        if not is_whole(folder, number, per_shard, origin):  # another process may have been here
            items = items_of(number, per_shard, origin)
            features = features_of(Subset(images, items), compute, batch_size, num_workers)
            write_shard(folder, number, encoded(features, origin.codec, channel_axis))
        done += 1
        if progress:
            progress(min(done * per_shard, origin.num_items), origin.num_items)
    return FeatureStore(folder, origin, per_shard, origin.need, labels, classes)


def finished(root: Path, origin: Origin) -> tuple[Path, Origin, int] | None:
    """A finished store under `root`, of this version or an earlier one, that holds these features among others or
    alone: its folder, origin and images a shard. Not the folder that would be filled."""
    for path in root.glob("*/store.json"):
        try:
            told = json.loads(path.read_text())
            need, version, per_shard = need_of(told["need"]), int(told["format"]), int(told["per_shard"])
            if version > 1 and not is_sealed(path, told):
                continue
        except (ValueError, TypeError, KeyError, AttributeError):
            continue
        candidate = replace(origin, need=need)
        if not origin.need <= need or path.parent.name != candidate.key(version) or path.parent.name == origin.key():
            continue
        if per_shard > 0 and all(
            is_whole(path.parent, n, per_shard, origin, version) for n in range(-(-origin.num_items // per_shard))
        ):
            return path.parent, candidate, per_shard
    return None


def need_of(told: object) -> Need:
    """What a store's JSON says that it holds. Raises ValueError or TypeError for what says nothing."""
    if isinstance(told, dict):
        return Need(Tap.named(f"{FORMER[kind]}.{at}") for kind, taken in told.items() for at in taken)
    if not isinstance(told, list):
        raise ValueError("a store's taps are a list")
    return Need(map(Tap.named, told))


def present(name: str) -> str:
    """A tensor's name in a shard as this version writes it."""
    kind, _, rest = name.partition(".")
    return f"{FORMER.get(kind, kind)}.{rest}"


def shard_path(folder: Path, number: int) -> Path:
    return folder / f"shard-{number:05}.safetensors"


def items_of(number: int, per_shard: int, origin: Origin) -> range:
    return range(number * per_shard, min((number + 1) * per_shard, origin.num_items))


def features_of(images: Dataset[tuple[Tensor, int]], compute: Compute, batch_size: int, num_workers: int) -> Features:
    batches = DataLoader(images, batch_size=batch_size, num_workers=num_workers, collate_fn=collate)
    return join([compute(batch).to("cpu") for batch, _ in batches], torch.cat)


def encoded(features: Features, codec: Codec, channel_axis: int) -> dict[str, Tensor]:
    """The tensors of a shard by name; pooled features have their channels last."""
    return {
        name + suffix: part.contiguous()
        for name, t in features.named()
        for suffix, part in encode(t, codec, channel_axis if t.ndim > 2 else -1).items()
    }


def write_shard(folder: Path, number: int, tensors: dict[str, Tensor]) -> None:
    with replacing(shard_path(folder, number), sum(t.nbytes for t in tensors.values())) as beside:
        save_file(tensors, beside, metadata={"crc32": checksum(tensors, f"{folder.name}/{number}")})


def checksum(tensors: dict[str, Tensor], place: str) -> str:
    """CRC-32 of a shard's tensors, and of the store and number that they belong to ('' in version 1)."""
    crc = zlib.crc32(place.encode())
    for name in sorted(tensors):
        about = f"{name} {tensors[name].dtype} {list(tensors[name].shape)}" if place else name
        data = memoryview(tensors[name].reshape(-1).view(torch.uint8).numpy())  # type: ignore[arg-type]
        crc = zlib.crc32(data, zlib.crc32(about.encode(), crc))
    return f"{crc:08x}"


def is_whole(folder: Path, number: int, per_shard: int, origin: Origin, version: int = FORMAT) -> bool:
    """Whether a shard is there and holds what was written for these items, neither damaged nor another's."""
    place = f"{folder.name}/{number}" if version > 1 else ""
    try:
        with safe_open(shard_path(folder, number), framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}
            found = (file.metadata() or {}).get("crc32")
    except (OSError, SafetensorError):
        return False
    rows = {len(t) if t.ndim else 0 for t in tensors.values()}
    return rows == {len(items_of(number, per_shard, origin))} and checksum(tensors, place) == found


def item_bytes(image: Tensor, compute: Compute, codec: Codec, channel_axis: int) -> int:
    """Bytes of one image's features as they are written."""
    return sum(t.nbytes for t in encoded(compute(image.unsqueeze(0)), codec, channel_axis).values())


def foresee_space(root: Path, num_bytes: int) -> None:
    root.mkdir(parents=True, exist_ok=True)
    if num_bytes > (free := shutil.disk_usage(root).free):
        raise NoSpace(
            f"the features need {num_bytes / 2**30:,.2f} GiB in {root}, but its disk has {free / 2**30:,.2f} GiB left; "
            f"a store elsewhere, codec=int8 or fewer views take less"
        )


def decoded(parts: dict[str, Tensor], dtype: torch.dtype) -> Features:
    """Features from the tensors of shards."""
    return from_named(
        (name, decode({"": codes, **({".scale": parts[f"{name}.scale"]} if f"{name}.scale" in parts else {})}, dtype))
        for name, codes in parts.items()
        if not name.endswith(".scale")
    )
