"""One or several numbers an image: linear head, smooth L1 loss, MAE and R2."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import fmean
from typing import Any, ClassVar

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from sidetune.backbones.backbone import Backbone
from sidetune.data.samples import Kind
from sidetune.errors import DataError
from sidetune.heads.linear import LinearHead
from sidetune.methods.method import Method
from sidetune.seam.taps import Need
from sidetune.tasks.task import check_metric


@dataclass(frozen=True)
class Numbers:
    values: tuple[tuple[str, float], ...]
    """Names with what was found, in the units of the training images' numbers."""

    def in_words(self, top: int = 1) -> str:
        return ", ".join(f"{name} {value:.4g}" for name, value in self.values)

    def described(self) -> dict[str, Any]:
        return {"values": dict(self.values)}


@dataclass(frozen=True, kw_only=True)
class RegressionScore:
    classes: tuple[str, ...]
    num_images: int
    mae: tuple[float, ...]
    """By name, the mean of the absolute errors."""
    rmse: tuple[float, ...]
    """By name, the root of the mean of the squared errors."""
    r2: tuple[float, ...]
    """By name, 1 - squared errors / squared deviations from the mean of these images; 0 where these are all alike."""

    @property
    def values(self) -> dict[str, float]:
        return {name: fmean(getattr(self, name)) for name in ("r2", "mae", "rmse")}

    def described(self) -> dict[str, Any]:
        by_name = {name: dict(zip(self.classes, getattr(self, name), strict=True)) for name in ("r2", "mae", "rmse")}
        return {**self.values, "num_images": self.num_images, "by_name": by_name}

    def in_words(self) -> str:
        rows = zip(self.classes, self.mae, self.r2, strict=True)
        return "; ".join(f"{name}: MAE {mae:.4g}, R2 {r2:.3f}" for name, mae, r2 in rows)


class RegressionMeter:
    def __init__(self, task: Regression) -> None:
        self.task = task
        self.outputs: list[Tensor] = []
        self.targets: list[Tensor] = []

    def add(self, outputs: Tensor, targets: Tensor) -> None:
        self.outputs.append(self.task.in_units(outputs))
        self.targets.append(targets.double())

    def score(self) -> RegressionScore:
        found, truth = torch.cat(self.outputs), torch.cat(self.targets)
        squares = (found - truth).square().mean(dim=0)
        spread = truth.var(dim=0, unbiased=False)
        r2 = torch.where(spread > 0, 1 - squares / spread, 0.0)
        return RegressionScore(
            classes=self.task.classes,
            num_images=len(found),
            mae=tuple((found - truth).abs().mean(dim=0).tolist()),
            rmse=tuple(squares.sqrt().tolist()),
            r2=tuple(r2.tolist()),
        )


@dataclass(frozen=True, kw_only=True)
class Regression:
    """A target is a row of numbers, one for each name."""

    targets: ClassVar[Kind] = "regression"
    classes: tuple[str, ...]
    """What the numbers are called."""
    mean: tuple[float, ...] | None = None
    """Of the training images' numbers, by name. The head gives (number - mean) / scale, so that names of large numbers
    do not decide alone; answers and scores are in the numbers' own units."""
    scale: tuple[float, ...] | None = None
    """Their standard deviations."""
    metric: str = "r2"
    """Or `mae`, `rmse`."""

    def __post_init__(self) -> None:
        if len(set(self.classes)) < len(self.classes) or not self.classes:
            raise ValueError("there must be numbers to find, of different names")
        for name in ("mean", "scale"):
            value = getattr(self, name)
            if value is not None and len(value) != len(self.classes):
                raise ValueError(f"{name} has {len(value)} numbers, of {len(self.classes)} names")
        if self.scale is not None and min(self.scale) <= 0:
            raise ValueError(f"scale must be above 0, got {self.scale}")
        check_metric(self.metric, ("r2", "mae", "rmse"))

    def taps(self, backbone: Backbone, method: Method) -> Need:
        return Need({method.readout(backbone).tap})

    def head(self, backbone: Backbone, method: Method) -> LinearHead:
        return LinearHead(method.readout(backbone), len(self.classes), method.head_start)

    def begin(self, targets: Sequence[Any]) -> Regression:
        """Mean and scale of the training images' numbers, as far as they are not given."""
        rows = np.asarray(targets, dtype=np.float64).reshape(len(targets), -1)
        if not np.isfinite(rows).all():
            raise DataError("some of the training images' numbers are NaN or infinite")
        scale = rows.std(axis=0)
        if alike := [name for name, s in zip(self.classes, scale, strict=True) if not s > 0]:
            raise DataError(f"all training images have the same number for {', '.join(alike)}")
        return replace(
            self, mean=self.mean or tuple(rows.mean(axis=0).tolist()), scale=self.scale or tuple(scale.tolist())
        )

    def losses(
        self, outputs: Float[Tensor, "batch number"], targets: Float[Tensor, "batch number"]
    ) -> dict[str, Tensor]:
        """The mean over numbers and images of e^2 / 2, or |e| - 1/2 where the error e is above 1, in units of `scale`:
        no image pulls harder than a wrong label does."""
        mean, scale = self.units(targets.float())
        return {"smooth L1": F.smooth_l1_loss(outputs.float(), (targets.float() - mean) / scale)}

    def units(self, like: Tensor) -> tuple[Tensor, Tensor]:
        count = len(self.classes)
        return like.new_tensor(self.mean or (0.0,) * count), like.new_tensor(self.scale or (1.0,) * count)

    def in_units(self, outputs: Tensor) -> Tensor:
        numbers = outputs.cpu().double()
        mean, scale = self.units(numbers)
        return numbers * scale + mean

    def meter(self) -> RegressionMeter:
        return RegressionMeter(self)

    def predict(self, outputs: Float[Tensor, "batch number"], top: int = 5) -> list[Numbers]:
        return [Numbers(tuple(zip(self.classes, row, strict=True))) for row in self.in_units(outputs).tolist()]

    @torch.no_grad()
    def final(self, head: nn.Module) -> nn.Module:
        """A copy of the linear head that gives the numbers themselves."""
        final = copy.deepcopy(head)
        assert isinstance(final, LinearHead)
        mean, scale = self.units(final.bias)
        final.weight.mul_(scale[:, None])
        final.bias.mul_(scale).add_(mean)
        return final

    def stand_in(self, num_images: int, image_size: tuple[int, int]) -> Tensor:
        return torch.zeros(num_images, len(self.classes))

    def truth(self, target: Sequence[float]) -> str:
        return ", ".join(f"{name} {value:.4g}" for name, value in zip(self.classes, target, strict=True))

    def is_right(self, answer: Numbers, target: Sequence[float]) -> None:
        return None
