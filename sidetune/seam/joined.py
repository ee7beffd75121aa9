"""A model as those see it that it is made of, or that it uses: its parts, without what joined them."""

from __future__ import annotations

from typing import Any, Protocol

import torch
from torch import Tensor

from sidetune.backbones.backbone import Card
from sidetune.seam.prefix import Prefix
from sidetune.seam.suffix import Suffix


class Joined(Protocol):
    """`sidetune.AdaptedModel`; see there."""

    card: Card
    method: Any
    task: Any
    transform: Any
    recipe: Any
    prefix: Prefix | None
    suffix: Suffix
    head: Any
    dtype: torch.dtype
    training: bool

    @property
    def device(self) -> torch.device: ...
    @property
    def classes(self) -> tuple[str, ...]: ...
    def __call__(self, x: Tensor) -> Tensor: ...
    def eval(self) -> Any: ...
    def modules(self) -> Any: ...
    def loss(self, outputs: Any, targets: Tensor) -> Tensor: ...
    def trained(self) -> dict[str, Tensor]: ...
    def load_trained(self, tensors: dict[str, Tensor]) -> None: ...
