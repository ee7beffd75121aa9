"""The edge network's parameters: one flat vector, seen as tensors under the names that PyTorch gives them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from sidetune.errors import DataError

Array = np.ndarray


@dataclass(frozen=True, kw_only=True)
class Shape:
    """What decides the sizes of the edge network (`sidetune.methods.mist.MIST` has the choices)."""

    width: int
    """d, channels of a token."""
    num_classes: int
    rank: int = 32
    layers: int = 4

    def __post_init__(self) -> None:
        for name, low in {"width": 1, "num_classes": 2, "rank": 1, "layers": 0}.items():
            if getattr(self, name) < low:
                raise ValueError(f"{name} must be at least {low}, got {getattr(self, name)}")
        if self.rank > self.width:
            raise ValueError(f"rank {self.rank} is above the width of the features, {self.width}")

    def tensors(self) -> dict[str, tuple[int, ...]]:
        """Shapes by name, matrices before vectors: the order they have in the flat vector."""
        d, r = self.width, self.rank
        matrices: dict[str, tuple[int, ...]] = {"head.weight": (self.num_classes, d)}
        vectors: dict[str, tuple[int, ...]] = {"head.bias": (self.num_classes,)}
        for i in range(self.layers):
            matrices |= {name_of(i, "qkv.weight"): (3 * r, d), name_of(i, "out.weight"): (d, r)}
            vectors |= {name_of(i, "norm.weight"): (d,), name_of(i, "norm.bias"): (d,)}
        return matrices | vectors

    @property
    def num_parameters(self) -> int:
        return sum(int(np.prod(shape)) for shape in self.tensors().values())

    @property
    def num_decayed(self) -> int:
        """How many numbers at the start of the flat vector belong to matrices, which weight decay shrinks."""
        return sum(int(np.prod(shape)) for shape in self.tensors().values() if len(shape) > 1)


def name_of(layer: int, part: str) -> str:
    return f"suffix.side.layers.{layer}.{part}"


class Parameters:
    """`flat` holds every number, float32; the tensors are views of it."""

    def __init__(self, shape: Shape, flat: Array | None = None) -> None:
        self.shape = shape
        self.flat = np.zeros(shape.num_parameters, np.float32) if flat is None else flat
        self.tensors: dict[str, Array] = {}
        start = 0
        for name, sizes in shape.tensors().items():
            stop = start + int(np.prod(sizes))
            self.tensors[name] = self.flat[start:stop].reshape(sizes)
            start = stop

    def __getitem__(self, name: str) -> Array:
        return self.tensors[name]

    def layer(self, number: int) -> tuple[Array, Array, Array, Array]:
        """Scale and shift of the norm (d), W_qkv (3r, d), W_o (d, r)."""
        names = ("norm.weight", "norm.bias", "qkv.weight", "out.weight")
        scale, shift, w_qkv, w_out = (self[name_of(number, name)] for name in names)
        return scale, shift, w_qkv, w_out

    def load(self, tensors: Mapping[str, Array]) -> None:
        """Copy tensors in by name. Raises DataError if names or shapes are not exactly those of this network."""
        own = {name: t.shape for name, t in self.tensors.items()}
        given = {name: tuple(t.shape) for name, t in tensors.items()}
        if own != given:
            raise DataError(
                f"these tensors belong to another network; differing: {sorted(own.items() ^ given.items())[:4]}"
            )
        for name, tensor in tensors.items():
            self[name][...] = tensor


def start(shape: Shape, seed: int) -> Parameters:
    """Parameters before the first step, distributed as PyTorch's are: the network starts as a linear probe."""
    parameters, rng = Parameters(shape), np.random.default_rng([seed, 0])
    for name, tensor in parameters.tensors.items():
        if name.endswith("norm.weight"):
            tensor[...] = 1
        elif name.endswith("qkv.weight") or name == "head.weight":
            tensor[...] = 0.02 * rng.standard_normal(tensor.shape)
    return parameters
