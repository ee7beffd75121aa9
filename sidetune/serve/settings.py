"""What a service allows, and how it batches."""

from __future__ import annotations

import os
from dataclasses import dataclass, fields

MIB = 2**20
MAY_BE_ZERO = ("rate", "max_delay", "drain_timeout")


@dataclass(frozen=True, kw_only=True)
class Settings:
    max_batch: int = 32
    """Images in one pass of a backbone."""
    max_delay: float = 0.005
    """Seconds that an image may wait for others to share its pass."""
    queue: int = 256
    """Images of a backbone that are accepted and not answered; above it, 503. That is for one caller; several together
    may have half as many more, so that one who floods leaves room for others."""
    workers: int = min(8, os.cpu_count() or 1)
    """Threads that encode features and decode small images, and processes that decode large ones."""
    max_images: int = 64
    """In one request."""
    max_body: int = 32 * MIB
    """Bytes of a request."""
    max_receiving: int = 256 * MIB
    """Bytes of one caller's requests that are held at once, and half as many more of all; above it, 503."""
    max_image_bytes: int = 16 * MIB
    """Of one encoded image."""
    max_pixels: int = 32_000_000
    """Of one image, looked up before it is decoded."""
    max_request_pixels: int = 256_000_000
    """Of all images of a request; above it, 413."""
    max_decoding: int = 64_000_000
    """Pixels that are decoded at once."""
    max_scans: int = 64
    """Of a progressive JPEG, each of which goes over the whole picture; cameras write about ten."""
    decode_timeout: float = 10.0
    """Seconds that one image may take to be decoded; then its process is killed and the image refused."""
    max_response: int = 64 * MIB
    """Bytes of an answer."""
    rate: float = 1000.0
    """Images a second that a caller may ask for in the long run, unless its key says otherwise; 0: any number."""
    max_connections: int = 1024
    header_timeout: float = 10.0
    """Seconds until a request's headers must be there."""
    body_timeout: float = 60.0
    """Seconds until its body must be there."""
    send_timeout: float = 30.0
    """Seconds in which a caller must take some of its answer."""
    drain_timeout: float = 2.0
    """Seconds that the service goes on, not ready any more, when it is told to stop; balancers must notice in them."""
    shutdown_timeout: int = 60
    """Seconds that accepted requests have to finish when the service is told to stop."""
    cache_bytes: int = 10 * 1024 * MIB
    """Of features kept on disk, where a folder is given for them."""

    def __post_init__(self) -> None:
        for f in fields(self):
            value = getattr(self, f.name)
            if value < 0 or (value == 0 and f.name not in MAY_BE_ZERO):
                raise ValueError(f"{f.name} must be above 0, got {value}")
        if self.max_pixels > self.max_decoding:
            raise ValueError(f"max_decoding must hold an image: {self.max_decoding}, max_pixels={self.max_pixels}")
        if self.max_batch > self.queue:
            raise ValueError(f"queue must hold a batch: queue={self.queue}, max_batch={self.max_batch}")
