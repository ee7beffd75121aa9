"""What a backbone has done since the start, counted as Triton's statistics extension counts it."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from sidetune.wire.metadata import VERSION

REQUESTS = ("success", "fail")
IMAGES = ("queue", "compute_input", "compute_infer", "compute_output", "cache_hit", "cache_miss")
"""Counted by image, those of the cache by image and output; `compute_infer` of an image is its whole batch's."""


class Spent:
    """How often something happened, and how long it took altogether."""

    def __init__(self) -> None:
        self.count, self.seconds = 0, 0.0

    def add(self, seconds: float, count: int = 1) -> None:
        self.count += count
        self.seconds += seconds * count

    def told(self) -> dict[str, int]:
        return {"count": self.count, "ns": round(self.seconds * 1e9)}


class Statistics:
    """Lives on one event loop, as the service does."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.spent = {what: Spent() for what in (*REQUESTS, *IMAGES)}
        self.batches: dict[int, Spent] = {}
        """By number of images."""
        self.last = 0.0
        """When the last request came, in seconds since 1970; 0: never."""

    @contextmanager
    def request(self) -> Iterator[None]:
        """Around an inference request: it succeeds unless the block raises."""
        self.last, start, outcome = time.time(), time.monotonic(), "fail"
        try:
            yield
            outcome = "success"
        finally:
            self.spent[outcome].add(time.monotonic() - start)

    def image(self, **seconds: float) -> None:
        """What each step of computing an image took: all at once, for tools refuse counts of steps that differ."""
        for what, spent in seconds.items():
            self.spent[what].add(max(spent, 0.0))

    def batch(self, images: int, seconds: float) -> None:
        """A pass of the backbone."""
        self.batches.setdefault(images, Spent()).add(seconds)

    def looked_up(self, found: int, wanted: int, seconds: float) -> None:
        """A look into the cache for an image's outputs."""
        for what, count in (("cache_hit", found), ("cache_miss", wanted - found)):
            self.spent[what].add(seconds / wanted, count)

    def told(self) -> dict[str, Any]:
        """An entry of the extension's `model_stats`."""
        nothing = Spent().told()
        return {
            "name": self.name,
            "version": VERSION,
            "last_inference": round(self.last * 1e3),
            "inference_count": self.spent["compute_infer"].count,
            "execution_count": sum(b.count for b in self.batches.values()),
            "inference_stats": {what: spent.told() for what, spent in self.spent.items()},
            "response_stats": {},
            "batch_stats": [
                {"batch_size": n, "compute_input": nothing, "compute_infer": b.told(), "compute_output": nothing}
                for n, b in sorted(self.batches.items())
            ],
            "memory_usage": [],
        }
