"""What a trained side network holds twice, and what sharing G does (DTL journal, section 5.2, figures 5 and 6)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from sidetune.methods.csn import CompactSideNetwork
from sidetune.methods.method import SideNetwork
from sidetune.model import AdaptedModel

Outputs = Mapping[int, Float[np.ndarray, "image channel"]]
"""By block: what is added to its output, the mean over an image's tokens."""


@dataclass(frozen=True, kw_only=True)
class Pair:
    """Two neighbouring low-rank maps of one stage."""

    stage: int
    blocks: tuple[int, int]
    cosine: float
    """Of their mean outputs, in -1..1; towards 1 the second says what the first did."""


@dataclass(frozen=True, kw_only=True)
class Analysis:
    """What one model showed on some images."""

    num_images: int
    pairs: tuple[Pair, ...]
    outputs: Outputs
    stages: Mapping[int, int]
    """By block."""
    shares: bool
    """Whether one G serves several blocks."""

    @property
    def mean_cosine(self) -> float | None:
        """None if no stage has two maps."""
        return float(np.mean([p.cosine for p in self.pairs])) if self.pairs else None


class Recorder(SideNetwork):
    """A side network that notes what passes through another one, which does the work."""

    def __init__(self, side: CompactSideNetwork) -> None:
        super().__init__()
        self.side, self.reads, self.writes = side, side.reads, side.writes
        self.sums: dict[int, Tensor] = {}
        self.num_tokens: dict[int, int] = dict.fromkeys(side.reads, 0)
        self.added: dict[int, list[np.ndarray]] = {i: [] for i in side.writes}

    def read(self, block: int, x: Tensor, state: Any) -> Any:
        tokens = self.side.layout.to_side(x).flatten(0, -2).double()
        self.sums[block] = self.sums.get(block, 0) + tokens.sum(dim=0)
        self.num_tokens[block] += len(tokens)
        return self.side.read(block, x, state)

    def write(self, block: int, z: Tensor, state: Any) -> Tensor:
        added = self.side.fused(block, self.side.at(block, state))
        self.added[block].append(added.flatten(1, -2).mean(dim=1).float().cpu().numpy())
        return z + self.side.layout.from_side(added)

    def mean_outputs(self) -> dict[int, Tensor]:
        """By block, z_i w_i averaged over all tokens of all images, (d,): w_i is linear, so of the mean token."""
        return {i: self.side.w_of(i)((total / self.num_tokens[i]).float()).double() for i, total in self.sums.items()}


@torch.no_grad()
def analyze(model: AdaptedModel, batches: Iterable[tuple[Tensor, Any]]) -> Analysis:
    """Pass images (batch, 3, height, width) through a trained model of the DTL family.

    Raises ValueError for other methods and for a model that is not trained, whose maps give zero.
    """
    side = model.suffix.side
    if not isinstance(side, CompactSideNetwork):
        raise ValueError(
            f"only DTL and DTLv2 have what is analysed; this model's method is {type(model.method).__name__}"
        )
    recorder, was_training, device = Recorder(side), model.training, model.device
    model.eval()
    model.suffix.side = recorder
    try:
        for images, _ in batches:
            model(images.to(device))
    finally:
        model.suffix.side = side
        model.train(was_training)
    outputs = {i: np.concatenate(parts) for i, parts in recorder.added.items()}
    if (num_images := len(next(iter(outputs.values())))) < 2:
        raise ValueError("one image says nothing of a spread; give at least two")
    means = recorder.mean_outputs()
    if silent := [i for i, mean in means.items() if not mean.any()]:
        raise ValueError(f"w of blocks {silent} gives zero on every image: the model is not trained")
    pairs = tuple(
        Pair(stage=side.stages[i], blocks=(i, j), cosine=F.cosine_similarity(means[i], means[j], dim=0).item())
        for i, j in zip(side.reads, side.reads[1:], strict=False)
        if side.stages[i] == side.stages[j]
    )
    return Analysis(
        num_images=num_images,
        pairs=pairs,
        outputs=outputs,
        stages=side.stages,
        shares=len(set(side.g_of.values())) < len(side.writes),
    )


@dataclass(frozen=True, kw_only=True)
class Plane:
    """Two principal components that several groups of points have in common."""

    title: str
    points: Mapping[str, Float[np.ndarray, "image 2"]]
    explained: tuple[float, float]
    """The share of the variance each component explains."""
    shifts: Mapping[str, float]
    """By block: see `shift`; empty where nothing is compared."""


def projections(analyses: Mapping[str, Analysis]) -> list[Plane]:
    """What G adds, by stage: of each model whose blocks share a G together with the first that writes the same blocks
    and whose blocks do not; models that are in no such pair by themselves. Points are named by block, `13` and
    `13 (share)`.
    """
    pairs = {
        name: next((other for other, b in analyses.items() if not b.shares and seen_by(a) == seen_by(b)), None)
        for name, a in analyses.items()
        if a.shares
    }
    found = []
    for name, a in analyses.items():
        if apart := pairs.get(name):
            title = f"{name} (share) and {apart}"
            found += [of_stage(title, stage, analyses[apart], a) for stage in written_stages(a)]
        elif name not in pairs.values():
            found += [of_stage(name, stage, a) for stage in written_stages(a)]
    return found


def written_stages(analysis: Analysis) -> list[int]:
    return list(dict.fromkeys(analysis.stages[i] for i in analysis.outputs))


def seen_by(analysis: Analysis) -> dict[int, tuple[int, ...]]:
    """By block written: how many images, how wide."""
    return {i: points.shape for i, points in analysis.outputs.items()}


def of_stage(title: str, stage: int, analysis: Analysis, shared: Analysis | None = None) -> Plane:
    groups: dict[str, np.ndarray] = {}
    shifts: dict[str, float] = {}
    for i in (i for i in analysis.outputs if analysis.stages[i] == stage):
        groups[str(i)] = analysis.outputs[i]
        if shared is not None:
            groups[f"{i} (share)"] = shared.outputs[i]
            shifts[str(i)] = shift(analysis.outputs[i], shared.outputs[i])
    points, explained = principal(groups)
    return Plane(title=f"{title}, stage {stage}", points=points, explained=explained, shifts=shifts)


def principal(groups: Mapping[str, np.ndarray]) -> tuple[dict[str, np.ndarray], tuple[float, float]]:
    """Groups (image, channel) on the first two components of all of them together, and what each explains."""
    count = sum(map(len, groups.values()))
    centre = sum(group.sum(axis=0, dtype=np.float64) for group in groups.values()) / count
    moved = {name: group - centre for name, group in groups.items()}
    variances, axes = np.linalg.eigh(sum(points.T @ points for points in moved.values()))  # in rising order
    if not variances[-1] > 0:
        raise ValueError(f"there is nothing to project: all {count} points are the same")
    first, second = variances[:-3:-1] / variances.sum()
    return {name: points @ axes[:, :-3:-1] for name, points in moved.items()}, (float(first), float(second))


def shift(apart: np.ndarray, shared: np.ndarray) -> float:
    """How far sharing moved what G gives for a block: the distance of the two means by the spread of the first.

    The spread is the root mean square distance of its points (image, channel) from their mean.
    """
    spread = np.sqrt(((apart - apart.mean(axis=0)) ** 2).sum(axis=1).mean())
    return float(np.linalg.norm(shared.mean(axis=0) - apart.mean(axis=0)) / spread)
