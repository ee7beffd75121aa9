"""What a file of features holds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sidetune.edge.features import DONE, MISSING, REFUSED, FeatureFile

NAMES = {DONE: "there", MISSING: "missing", REFUSED: "refused"}


def status(path: Path) -> dict[str, Any]:
    """Counts of images by part and state, and what they are features of; damaged ones count as missing."""
    with FeatureFile(path) as file:
        header = file.header
        damaged = set(file.damaged(header.ks))
        images: dict[str, dict[str, int]] = {}
        for number, (item, state) in enumerate(zip(header.images, file.states, strict=True)):
            counts = images.setdefault(item.part, dict.fromkeys(NAMES.values(), 0))
            counts[NAMES[MISSING if number in damaged else int(state)]] += 1
        return {
            "model": header.card.name,
            "digest": header.card.digest,
            "image_size": header.card.image_size,
            "transform": header.card.transform,
            "tokens": header.shape[0],
            "width": header.shape[1],
            "ks": header.ks,
            "precision": header.precision,
            "classes": len(header.classes),
            "images": images,
            "kept": sum(counts[NAMES[DONE]] for counts in images.values()),
            "total": len(header.images),
            "complete": not any(counts["missing"] for counts in images.values()),
            "bytes_per_image": len(header.ks) * header.record_bytes,
            "bytes": file.places.end,
        }


def num_kept(path: Path) -> int:
    """How many images' features a file holds, by its marks; `status` also looks whether they are damaged."""
    with FeatureFile(path) as file:
        return int((file.states == DONE).sum())
