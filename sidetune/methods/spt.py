"""SPT-LoRA (He et al., ICCV 2023): what is tuned, and how, is decided by how sensitive the task is to each weight.

Matrices that hold many sensitive weights get a low-rank update, vectors that do are trained whole, and of the others
the sensitive weights alone are trained. The selection comes from a pass over training images (`sensitivity.py`).
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import partial

import torch
from timm.layers.drop import DropPath
from torch import Tensor, nn
from torch.nn import functional as F

from sidetune.backbones.backbone import Backbone
from sidetune.backbones.family import LINEAR, Family
from sidetune.methods.layers import (
    LinearLayer,
    affine,
    channels_first,
    check_width,
    from_last,
    lacks,
    matrix,
    remade_linear,
    to_last,
    with_bias,
)
from sidetune.methods.lora import spread
from sidetune.methods.method import Adaptation, Make, Method, check_called, check_positive, check_suits
from sidetune.methods.sensitivity import Selection, select, sensitivity, tunable, unpack
from sidetune.seam.features import widened


class Singles(nn.Module):
    """Changes of single weights of a parameter, all zero at the start."""

    places: Tensor

    def __init__(self, places: Tensor) -> None:
        super().__init__()
        self.register_buffer("places", places, persistent=False)
        self.values = nn.Parameter(torch.zeros(len(places)))


def changed_at(places: Tensor, t: Tensor, values: Tensor) -> Tensor:
    """A tensor with values added at places of it, flattened."""
    return t + values.new_zeros(t.numel()).index_put((places,), values).view_as(t)


def changed(t: Tensor, singles: Singles | None) -> Tensor:
    return t if singles is None else changed_at(singles.places, t, singles.values)


class TunedNorm(nn.Module):
    """A LayerNorm of which single weights are trained."""

    def __init__(self, base: nn.LayerNorm, weight: Singles | None, bias: Singles | None) -> None:
        super().__init__()
        self.base, self.weight, self.bias = base, weight, bias

    def forward(self, x: Tensor) -> Tensor:
        weight = widened(changed(self.base.weight, self.weight))  # both in one type, whichever of them is changed
        bias = widened(changed(self.base.bias, self.bias))
        y = F.layer_norm(to_last(x, self.base), self.base.normalized_shape, weight, bias, self.base.eps)
        return from_last(y, self.base)

    @torch.no_grad()
    def merge(self) -> nn.Module:
        merged: nn.LayerNorm = with_bias(self.base)
        merged.weight.copy_(changed(self.base.weight, self.weight))
        merged.bias.copy_(changed(self.base.bias, self.bias))
        return merged


class LowRankUpdate(nn.Module):
    """What LoRA adds to some of the equal slices of a layer's output."""

    def __init__(
        self,
        shape: tuple[int, int],
        rank: int,
        slices: tuple[int, ...],
        num_slices: int,
        dropout: float,
        drop_path: float,
    ) -> None:
        super().__init__()
        self.slices, self.num_slices = slices, num_slices
        self.down = nn.Parameter(torch.empty(len(slices), rank, shape[1]))
        self.up = nn.Parameter(torch.zeros(len(slices), shape[0] // num_slices, rank))
        for part in self.down:
            nn.init.kaiming_uniform_(part, a=math.sqrt(5))
        self.dropout, self.drop_path = nn.Dropout(dropout), DropPath(drop_path)

    def factors(self) -> tuple[Tensor, Tensor]:
        """The matrices (slices * rank, in) and (out, slices * rank)."""
        return self.down.flatten(0, 1), spread(self.up, self.slices, self.num_slices)

    def forward(self, x: Tensor) -> Tensor:
        down, up = self.factors()
        out: Tensor = self.drop_path(F.linear(F.linear(self.dropout(x), down), up))
        return out


class TunedLinear(nn.Module):
    """A linear layer of which single weights are trained, and some matrices by low-rank updates."""

    def __init__(
        self, base: LinearLayer, weight: Singles | None, bias: Singles | None, lowrank: LowRankUpdate | None
    ) -> None:
        super().__init__()
        self.base, self.weight, self.bias, self.lowrank = base, weight, bias, lowrank

    def forward(self, x: Tensor) -> Tensor:
        bias = None if self.base.bias is None else changed(self.base.bias, self.bias)
        if self.weight is None and self.bias is None:
            y = self.base(x)
        elif self.weight is None:
            y = affine(x, matrix(self.base), bias, channels_first(self.base))
        else:
            remake = partial(changed_at, self.weight.places)
            y = remade_linear(x, self.base, bias, remake, self.weight.values)
        return y if self.lowrank is None else y + from_last(self.lowrank(to_last(x, self.base)), self.base)

    @torch.no_grad()
    def merge(self) -> nn.Module:
        merged = copy.deepcopy(self.base)
        merged.weight.copy_(changed(self.base.weight, self.weight))
        if self.lowrank is not None:
            down, up = self.lowrank.factors()
            merged.weight += (up @ down).view_as(merged.weight)
        if merged.bias is not None:
            merged.bias.copy_(changed(merged.bias, self.bias))
        return merged


@dataclass(frozen=True, kw_only=True)
class SPT(Method):
    """Low-rank updates start at zero and so do the changes of single weights, so it starts as the identity.

    The class token is always trained, the patch embedding never. Made with the selection of `prepare`.
    """

    selection: Selection | None = None
    """What `sidetune.methods.sensitivity` selected; `fit` and `compare` on the command line see to it."""
    budget: int = 400_000
    """Trained parameters to come near to. The authors report the best of 0.2, 0.4, 0.6, 0.8 and 1.0 million."""
    rank: int = 8
    alpha: float = 10.0
    """A matrix gets a low-rank update if that has at most alpha times as many parameters as it has sensitive ones."""
    beta: float = 5.0
    """A vector is trained whole if at least one in beta of its weights is sensitive."""
    num_batches: int = 16
    """Batches of training images that the sensitivity is measured on."""
    dropout: float = 0.1
    drop_path: float = 0.1
    """Both on the low-rank updates."""

    def __post_init__(self) -> None:
        check_positive(self, "budget", "rank", "alpha", "beta", "num_batches")

    def refuses(self, family: Family) -> str | None:
        return None if family.has(*LINEAR) else f"{lacks(family, *LINEAR)}; SPT-LoRA tunes linear layers and LayerNorms"

    def prepare(self, backbone: Backbone, batches: Iterable[tuple[Tensor, Tensor]], num_classes: int) -> SPT:
        check_suits(self, backbone)
        if self.selection is not None:
            return self
        for i in backbone.blocks:
            check_called(self, backbone, f"blocks.{i}", backbone.paths(*LINEAR).values())
        sums = sensitivity(backbone, batches, num_classes, pool=self.pool, num_batches=self.num_batches)
        matrices = tunable(backbone, self.pool)
        token = dict(backbone.stem.named_parameters()).get(backbone.family.class_token or "")
        budget = max(self.budget - (0 if token is None else token.numel()), 1)
        found = select(sums, matrices, budget=budget, rank=self.rank, alpha=self.alpha, beta=self.beta)
        return replace(self, selection=found)

    def adapt(self, backbone: Backbone) -> Adaptation:
        if self.selection is None:
            raise ValueError(
                "SPT tunes what a sensitivity pass over training images selects, and there was none; make it by "
                "sidetune.prepare('spt-lora', backbone, images), or use `sidetune fit` or `compare`, which do"
            )
        known = tunable(backbone, self.pool)
        lowrank = [name.rpartition("/") for name in self.selection.lowrank]
        places = {name: unpack(text) for name, text in self.selection.single}
        named = {*(name for name, _, _ in lowrank), *self.selection.whole, *places}
        if foreign := sorted(named - known.keys()):
            raise ValueError(f"the selection was made on another backbone; this one has no {', '.join(foreign[:4])}")
        slices: dict[Layer, list[int]] = {}
        for name, _, index in lowrank:
            slices.setdefault(split(name)[0], []).append(int(index))
        singles: dict[Layer, dict[str, Tensor]] = {}
        for name, at in places.items():
            layer, parameter = split(name)
            singles.setdefault(layer, {})[parameter] = at
        wraps: dict[int | str, dict[str, Make]] = {}
        fused = backbone.paths("qkv").values()
        for part, name in dict.fromkeys([*slices, *singles]):
            wraps.setdefault(part, {})[name] = partial(
                self.tune,
                slices=tuple(slices.get((part, name), ())),
                num_slices=3 if name in fused else 1,
                singles=singles.get((part, name), {}),
            )
        trained = {*self.selection.whole, f"stem.{backbone.family.class_token}"}
        return Adaptation(wraps=wraps, trains=trained.__contains__, num_units=len(lowrank))

    def tune(
        self, layer: nn.Module, slices: tuple[int, ...], num_slices: int, singles: dict[str, Tensor]
    ) -> TunedNorm | TunedLinear:
        """What stands in place of a layer."""
        weight, bias = (Singles(singles[p]) if p in singles else None for p in ("weight", "bias"))
        if isinstance(layer, nn.LayerNorm):
            return TunedNorm(layer, weight, bias)
        assert isinstance(layer, (nn.Linear, nn.Conv2d))
        update = None
        if slices:
            num_outputs, num_inputs = matrix(layer).shape
            check_width("rank", self.rank, min(num_outputs // num_slices, num_inputs))
            shape = (num_outputs, num_inputs)
            update = LowRankUpdate(shape, self.rank, slices, num_slices, self.dropout, self.drop_path)
        return TunedLinear(layer, weight, bias, update)


Layer = tuple[int | str, str]
"""A part, as `Adaptation.wraps` names it, and a layer's name in it."""


def split(name: str) -> tuple[Layer, str]:
    """`blocks.3.attn.qkv.weight` -> (3, attn.qkv), weight."""
    path, _, parameter = name.rpartition(".")
    part, _, layer = path.partition(".")
    if part != "blocks":
        return (part, layer), parameter
    number, _, layer = layer.partition(".")
    return (int(number), layer), parameter
