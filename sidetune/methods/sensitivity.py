"""Which weights a task asks to change (SPT, He et al., ICCV 2023): squared gradients, and what to tune within a budget.

The sensitivity of a weight is the sum of its squared gradients over some batches. The most sensitive tau weights are
taken. A matrix that holds enough of them gets a low-rank update, a vector that does is trained whole; of all others
just these weights are trained. tau is chosen so that what is trained comes as near to the budget as it can.
"""

from __future__ import annotations

import base64
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import islice

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sidetune.backbones.backbone import Backbone
from sidetune.backbones.family import LINEAR
from sidetune.heads.linear import LinearHead
from sidetune.seam.adaptation import Adaptation
from sidetune.seam.prefix import Prefix
from sidetune.seam.readout import native
from sidetune.seam.squares import squared_gradients
from sidetune.seam.suffix import IMAGES, Suffix
from sidetune.seam.taps import Need

STEPS_TO_BUDGET, MAX_STEPS = 20, 79
"""tau grows in twentieths of the budget (the authors' 0.02 M for 0.4 M), this many times at most."""


@dataclass(frozen=True, kw_only=True)
class Selection:
    """What of a backbone is tuned, and how."""

    lowrank: tuple[str, ...]
    """Matrices with a low-rank update, `blocks.3.mlp.fc1.weight/0`; q, k and v are 0, 1 and 2 of a fused one."""
    whole: tuple[str, ...]
    """Vectors that are trained whole, `blocks.3.norm1.bias`."""
    single: tuple[tuple[str, str], ...]
    """Parameters of which single weights are trained, each with their places, packed."""


def pack(places: Tensor) -> str:
    """Ascending places in a flattened parameter as a short text."""
    steps = np.diff(places.cpu().numpy().astype("<u4"), prepend=np.uint32(0)).astype("<u4")
    return base64.b64encode(zlib.compress(steps.tobytes())).decode("ascii")


def unpack(text: str) -> Tensor:
    """What `pack` was given, as int64."""
    steps = np.frombuffer(zlib.decompress(base64.b64decode(text)), dtype="<u4")
    return torch.from_numpy(np.cumsum(steps.astype(np.int64)))


def tunable(backbone: Backbone, pool: str) -> dict[str, int]:
    """Names of the parameters that may be tuned: the number of matrices that one is made of, 0 for a vector.

    Weights and biases of the blocks' linear layers, and of their norms and the final one.
    """
    found: dict[str, int] = {}
    roles = {path: role for role, path in backbone.paths(*LINEAR).items()}
    for part, module in backbone.named_parts(backbone.pool_named(pool)):
        for name, layer in module.named_modules():
            is_norm = isinstance(layer, nn.LayerNorm) and (part == "pool" or part.startswith("blocks."))
            is_linear = part.startswith("blocks.") and name in roles
            if is_norm or is_linear:
                num_matrices = 0 if is_norm else 3 if roles[name] == "qkv" else 1
                sizes = {"weight": num_matrices, "bias": 0}
                own = dict(layer.named_parameters(recurse=False))
                found |= {f"{part}.{name}.{p}": n for p, n in sizes.items() if p in own}
    return found


def sensitivity(
    backbone: Backbone,
    batches: Iterable[tuple[Tensor, Tensor]],
    num_classes: int,
    *,
    pool: str = "native",
    num_batches: int = 16,
) -> dict[str, Tensor]:
    """By parameter, each weight's sensitivity on batches of (images, labels), with a new head.

    Takes the memory of training all of the backbone without an optimizer, blocks computed again for the gradient.
    Raises ValueError without any batch.
    """
    names, readout = frozenset(tunable(backbone, pool)), native(backbone, pool)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        suffix = Suffix(backbone, Adaptation(trains=names.__contains__), Need({readout.tap}))
        head = LinearHead(readout, num_classes)
    prefix = None if suffix.seam == IMAGES else Prefix(backbone, suffix.need)
    suffix.num_recomputed = backbone.num_blocks
    probed = {name: suffix.get_parameter(name) for name in sorted(names)}

    def loss(batch: tuple[Tensor, Tensor]) -> Tensor:
        images, labels = batch
        suffix.hold(images.device, torch.float32)
        head.to(images.device)
        if prefix is not None:
            prefix.hold(images.device, torch.float32)
        given = images if prefix is None else prefix(images, suffix.need)
        return F.cross_entropy(head(suffix(given)), labels)

    sums = squared_gradients(probed, islice(batches, num_batches), loss)
    if not sums:
        raise ValueError("sensitivity is measured on training images, and there are none")
    return sums


@dataclass(frozen=True)
class Group:
    """Weights that are tuned alike: a vector, or one matrix of a parameter."""

    name: str
    index: int
    size: int
    structured: int
    """What it takes to train it whole or by a low-rank update."""
    enough: float
    """Sensitive weights from which that is done."""


def groups_of(
    shapes: Mapping[str, tuple[int, ...]], num_matrices: Mapping[str, int], rank: int, alpha: float, beta: float
) -> list[Group]:
    groups = []
    for name, shape in shapes.items():
        size = int(np.prod(shape))
        if count := num_matrices[name]:
            cost = rank * (shape[0] // count + size // shape[0])
            groups += [Group(name, k, size // count, cost, cost / alpha) for k in range(count)]
        else:
            groups.append(Group(name, 0, size, size, size / beta))
    return groups


def select(
    sums: Mapping[str, Tensor], num_matrices: Mapping[str, int], *, budget: int, rank: int, alpha: float, beta: float
) -> Selection:
    """The selection whose number of trained parameters is nearest to the budget."""
    shapes = {name: tuple(t.shape) for name, t in sums.items()}
    groups = groups_of(shapes, num_matrices, rank, alpha, beta)
    values = torch.cat([t.flatten() for t in sums.values()])
    step = max(budget // STEPS_TO_BUDGET, 1)
    order = values.topk(min(MAX_STEPS * step, len(values))).indices.cpu()
    ends = torch.tensor([g.size for g in groups]).cumsum(0)
    group_of = torch.searchsorted(ends, order, right=True)
    structured = torch.tensor([g.structured for g in groups])
    enough = torch.tensor([g.enough for g in groups], dtype=torch.float64)

    def outcome(tau: int) -> tuple[Tensor, int]:
        """Which groups are tuned as a whole, and how many parameters are trained in all."""
        counts = group_of[:tau].bincount(minlength=len(groups))
        as_a_whole = (counts > 0) & (counts >= enough)
        return as_a_whole, int(torch.where(as_a_whole, structured, counts).sum())

    taus = range(step, len(order) + step, step)
    tau = min(taus, key=lambda tau: abs(outcome(tau)[1] - budget))
    as_a_whole, _ = outcome(tau)
    chosen = [g for g, whole in zip(groups, as_a_whole.tolist(), strict=True) if whole]
    single = order[:tau][~as_a_whole[group_of[:tau]]].sort().values
    starts = np.cumsum([0, *(t.numel() for t in sums.values())])
    places = {
        name: single[(single >= start) & (single < end)] - int(start)
        for name, start, end in zip(sums, starts, starts[1:], strict=False)
    }
    return Selection(
        lowrank=tuple(f"{g.name}/{g.index}" for g in chosen if num_matrices[g.name]),
        whole=tuple(g.name for g in chosen if not num_matrices[g.name]),
        single=tuple((name, pack(p)) for name, p in places.items() if len(p)),
    )
