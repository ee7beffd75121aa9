"""A backbone on its device: pictures already decoded go in, the taps that were asked for come out."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from pathlib import Path
from typing import cast, get_args

import numpy as np
import torch
from torch import Tensor

from sidetune.backbones import Backbone, open_backbone
from sidetune.backbones.weights import is_file
from sidetune.data.transforms import Transform
from sidetune.errors import unknown
from sidetune.recipe import Precision
from sidetune.seam.features import Features
from sidetune.seam.prefix import Prefix
from sidetune.seam.taps import Need
from sidetune.train.precision import TYPES, best_device, resolve
from sidetune.wire.ask import GATHERS, Ask
from sidetune.wire.codec import Array
from sidetune.wire.compression import COMPRESSIONS, has_zstd
from sidetune.wire.metadata import ModelCard

Taps = dict[str, Tensor]
"""One image's features by output name, on the CPU."""


class Worker:
    """Not thread-safe: `compute` is for one thread."""

    def __init__(
        self, backbone: Backbone, *, name: str, transform: str, device: torch.device, precision: Precision
    ) -> None:
        chosen = resolve(precision, device)
        self.card = card_of(backbone, name, transform, chosen)
        self.layout, self.device = backbone.layout, device
        self.prefix = Prefix(backbone, self.need([a.name for a in self.card.asks()]))
        self.prefix.hold(device, TYPES[chosen])
        card = backbone.card
        preset = Transform(preset=transform, image_size=card.image_size, mean=card.mean, std=card.std)
        self.geometry, self.to_tensor = preset.geometry(), preset.to_tensor()

    def need(self, names: Sequence[str]) -> Need:
        """What the prefix has to give for these outputs."""
        return Need(tap for name in names for tap in Ask.named(name).taps(self.card.num_blocks))

    def compute(self, images: Sequence[Tensor], kind: Hashable) -> list[Taps]:
        """One pass for images that all want the same outputs; `kind` is a tuple of their names."""
        assert isinstance(kind, tuple)
        with torch.inference_mode():
            features = self.prefix(torch.stack(list(images)).to(self.device), self.need(kind))
            outputs = {name: self.output(features, Ask.named(name)).cpu() for name in kind}
        return [{name: t[i] for name, t in outputs.items()} for i in range(len(images))]

    def output(self, features: Features, ask: Ask) -> Tensor:
        """An output of the whole batch, with its tokens as the wire wants them."""
        taps = ask.taps(self.card.num_blocks)
        parts = [features[tap] if tap.kind == "pool" else self.tokens(features[tap]) for tap in taps]
        return torch.stack(parts, dim=1) if ask.gather == "stack" else parts[0]

    def tokens(self, z: Tensor) -> Tensor:
        """Any backbone's features as (batch, token, channel)."""
        return self.layout.to_side(z).flatten(1, -2)


def as_array(t: Tensor) -> Array:
    return np.ascontiguousarray(t.float().numpy())


def card_of(backbone: Backbone, name: str, transform: str, dtype: str) -> ModelCard:
    card, layout, last = backbone.card, backbone.layout, backbone.num_blocks
    shape = backbone.output_shapes[last]
    grid = layout.grid or (shape[1:] if layout.channels_first else shape[:2])
    one_shape = all(backbone.output_shapes[i] == shape for i in range(last + 1))
    possible = {
        "sum": all(backbone.keeps_shape(i) for i in backbone.blocks),
        "last": True,
        "token": "token" in backbone.pools,
        "stack": one_shape,
    }
    return ModelCard(
        name=name,
        architecture=card.architecture,
        digest=card.identity,
        image_size=card.image_size,
        mean=card.mean,
        std=card.std,
        transform=transform,
        num_blocks=last,
        width=backbone.output_width(last),
        grid=(grid[0], grid[1]),
        num_prefix_tokens=layout.num_prefix_tokens,
        dtype=dtype,
        gathers=tuple(g for g in GATHERS if possible[g]),
        compressions=COMPRESSIONS if has_zstd() else COMPRESSIONS[:1],
    )


def open_workers(
    sources: Sequence[str],
    *,
    image_size: int | None = None,
    architecture: str | None = None,
    transform: str = "photo",
    precision: str = "auto",
    device: str | None = None,
) -> list[Worker]:
    """Workers for backbones that `open_backbone` finds, each under the last part of its name.

    Raises ValueError for a device that is not here, before anything is loaded.
    """
    chosen = best_device() if device is None else present(device)
    if precision not in get_args(Precision):
        raise unknown("precision", precision, get_args(Precision))
    return [
        Worker(
            open_backbone(source, image_size=image_size, architecture=architecture),
            name=Path(source).stem if is_file(source) else source.rpartition("/")[2],
            transform=transform,
            device=chosen,
            precision=cast(Precision, precision),
        )
        for source in sources
    ]


def present(device: str) -> torch.device:
    """Raises ValueError for a device that this machine does not have."""
    try:
        torch.zeros(1, device=device).cpu()
    except (RuntimeError, AssertionError, NotImplementedError):  # what torch says of it is pages long
        gpus = [f"cuda:{i}" for i in range(torch.cuda.device_count())] + ["mps"] * torch.backends.mps.is_available()
        raise ValueError(f"there is no device {device!r} here; there is {', '.join(['cpu', *gpus])}") from None
    return torch.device(device)
