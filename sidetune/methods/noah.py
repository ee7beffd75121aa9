"""NOAH (Zhang et al., 2022): adapters, LoRA and prompts in every block, of sizes that are searched for.

    [q k v] = x W + x A B        LoRA on the fused qkv, rank r_i
    m       = m + U f(D m)       adapter behind the MLP, in its residual branch, width a_i; f(x) = x sigmoid(1.702 x)
    X'      = [class, P_i, X]    prompts, p_i of them, in place of the last block's; where p_i = 0 those go on

A *sub-network* says r_i, a_i, p_i for each block; each kind stands in the first blocks, up to a depth of its own. The
*supernet* has all at their largest and trains a sub-network drawn anew at every step: one of size s uses the first s
rows and columns of each matrix. `sidetune search` trains it and then looks for the best one within a number of
parameters; the authors' prompts stand behind the patches, which to attention is the same.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sidetune.backbones.backbone import Backbone
from sidetune.backbones.family import Family
from sidetune.methods.adapter import quick_gelu
from sidetune.methods.layers import lacks
from sidetune.methods.method import Adaptation, Method, SideNetwork, State
from sidetune.methods.vpt import why_no_prompts
from sidetune.seam.joined import Joined

KINDS = ("prompts", "lora", "adapter")
Sizes = tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class Subnet:
    """Sizes by block, 0 where a kind is left out."""

    prompts: Sizes
    lora: Sizes
    adapter: Sizes


@dataclass(frozen=True, kw_only=True)
class Space:
    """All sub-networks: every kind in the first blocks up to one of `depths`, there of any of `sizes`."""

    num_blocks: int
    sizes: Sizes
    depths: Sizes

    def draw(self, choose: Callable[[Sizes], int]) -> Subnet:
        """One of them; `choose` picks from a tuple."""
        return Subnet(**{kind: self.draw_kind(choose) for kind in KINDS})

    def draw_kind(self, choose: Callable[[Sizes], int]) -> Sizes:
        depth = choose(self.depths)
        return tuple(choose(self.sizes) if i < depth else 0 for i in range(self.num_blocks))

    @property
    def smallest(self) -> Subnet:
        return self.draw(min)

    @property
    def largest(self) -> Subnet:
        return self.draw(max)

    def mutate(self, subnet: Subnet, choose: Callable[[Sizes], int], chance: Callable[[float], bool]) -> Subnet:
        """A neighbour: each kind's depth is drawn anew with probability 0.2 x 0.4, each of its sizes with 0.2.

        The authors redraw depths alone, so that sizes only change with them.
        """

        def mutated(sizes: Sizes) -> Sizes:
            depth = sum(size > 0 for size in sizes)
            if chance(0.2) and chance(0.4):
                depth = choose(self.depths)
            kept = (choose(self.sizes) if not size or chance(0.2) else size for size in sizes)
            return tuple(size if i < depth else 0 for i, size in enumerate(kept))

        return Subnet(**{kind: mutated(getattr(subnet, kind)) for kind in KINDS})

    @staticmethod
    def cross(first: Subnet, second: Subnet, chance: Callable[[float], bool]) -> Subnet:
        """Each kind from one of two."""
        return Subnet(**{kind: getattr(first if chance(0.5) else second, kind) for kind in KINDS})


class Active:
    """The sub-network that all modules of a model are at the moment."""

    def __init__(self, subnet: Subnet, space: Space | None) -> None:
        self.subnet, self.space = subnet, space

    def draw(self) -> None:
        """Become another one, by torch's random numbers; only a supernet can."""
        if self.space is not None:
            self.subnet = self.space.draw(lambda options: options[int(torch.randint(len(options), ()))])


class ElasticPrompts(SideNetwork):
    def __init__(
        self, active: Active, sizes: Sizes, num_prefix_tokens: int, width: int, bound: float, p: float
    ) -> None:
        super().__init__()
        self.active, self.first, self.num_blocks = active, num_prefix_tokens, len(sizes)
        self.prompts = nn.ParameterDict(
            {str(i): torch.empty(size, width).uniform_(-bound, bound) for i, size in enumerate(sizes) if size}
        )
        self.dropout = nn.Dropout(p)
        self.writes = tuple(range(len(sizes) + 1))

    def write(self, block: int, z: Tensor, state: State) -> Tensor:
        if block == 0 and self.training:
            self.active.draw()
        sizes = self.active.subnet.prompts
        if block < self.num_blocks and not sizes[block]:
            return z
        present = next((size for size in reversed(sizes[:block]) if size), 0)
        before, after = z[:, : self.first], z[:, self.first + present :]
        if block == self.num_blocks:  # the head reads the backbone's own tokens
            return torch.cat([before, after], dim=1)
        prompts = self.dropout(self.prompts[str(block)][: sizes[block]].expand(len(z), -1, -1))
        return torch.cat([before, prompts.to(z), after], dim=1)


class ElasticLoRA(nn.Module):
    def __init__(self, base: nn.Linear, active: Active, index: int, size: int, dropout: float) -> None:
        super().__init__()
        self.base, self.active, self.index, self.dropout = base, active, index, nn.Dropout(dropout)
        self.down = nn.Parameter(torch.empty(size, base.in_features))
        self.up = nn.Parameter(torch.zeros(base.out_features, size))
        nn.init.kaiming_uniform_(self.down, a=math.sqrt(5))

    def forward(self, x: Tensor) -> Tensor:
        rank = self.active.subnet.lora[self.index]
        if not rank:
            return self.base(x)
        return self.base(x) + F.linear(F.linear(self.dropout(x), self.down[:rank]), self.up[:, :rank])


class ElasticAdapter(nn.Module):
    def __init__(self, base: nn.Linear, active: Active, index: int, size: int, dropout: float) -> None:
        super().__init__()
        self.base, self.active, self.index, self.dropout = base, active, index, nn.Dropout(dropout)
        self.down, self.up = nn.Linear(base.out_features, size), nn.Linear(size, base.out_features)
        for layer in (self.down, self.up):
            nn.init.xavier_uniform_(layer.weight)
            nn.init.normal_(layer.bias, std=1e-6)

    def forward(self, x: Tensor) -> Tensor:
        x, size = self.base(x), self.active.subnet.adapter[self.index]
        if not size:
            return x
        h = F.linear(x, self.down.weight[:size], self.down.bias[:size])
        return x + F.linear(self.dropout(quick_gelu(h)), self.up.weight[:, :size], self.up.bias)


@dataclass(frozen=True, kw_only=True)
class NOAH(Method):
    """One sub-network (the largest where sizes are left open), or the supernet of all."""

    starts_as_identity = False  # prompts take part in attention, and adapters start at random

    prompts: Sizes | None = None
    """Tokens by block, 0 for none."""
    lora: Sizes | None = None
    """Ranks by block."""
    adapter: Sizes | None = None
    """Widths by block."""
    supernet: bool = False
    """Train another sub-network at every step, drawn from `sizes` and `depths`."""
    sizes: Sizes = (1, 5, 10)
    depths: Sizes | None = None
    """In how many of the first blocks a kind may stand; quarters of the blocks (3, 6, 9, 12 of 12) if None."""
    dropout: float = 0.1
    """Of prompts, of what LoRA reads and of adapters behind their activation."""
    lr: float = 1e-3

    def __post_init__(self) -> None:
        for name in ("sizes", "depths"):
            if (values := getattr(self, name)) is not None and (not values or min(values) < 1):
                raise ValueError(f"{name} must be numbers above 0, got {values}")
        for kind in KINDS:
            if (values := getattr(self, kind)) is not None and min(values, default=0) < 0:
                raise ValueError(f"{kind} must not be negative, got {values}")
        if self.supernet and any(getattr(self, kind) is not None for kind in KINDS):
            raise ValueError("a supernet has all sizes; leave out prompts, lora and adapter")

    def refuses(self, family: Family) -> str | None:
        if family.prompts and not (family.has("qkv") and family.has("fc2")):
            return f"{lacks(family, 'qkv', 'fc2')}; there stand LoRA and adapters"
        return why_no_prompts(family)

    def space(self, backbone: Backbone) -> Space:
        """The sub-networks that a search chooses from. Raises ValueError for a depth above the backbone's."""
        n = backbone.num_blocks
        depths = self.depths or tuple(sorted({max(n * i // 4, 1) for i in (1, 2, 3, 4)}))
        if max(depths) > n:
            raise ValueError(f"depths {depths} go beyond the {n} blocks of the backbone")
        return Space(num_blocks=n, sizes=self.sizes, depths=depths)

    def subnet(self, backbone: Backbone) -> Subnet:
        """The sub-network that these choices mean."""
        largest = self.space(backbone).largest
        found = {kind: getattr(largest, kind) if (s := getattr(self, kind)) is None else s for kind in KINDS}
        for kind, sizes in found.items():
            if len(sizes) != backbone.num_blocks:
                raise ValueError(f"{kind} has {len(sizes)} sizes, but the backbone has {backbone.num_blocks} blocks")
        return Subnet(**found)

    def as_supernet(self) -> NOAH:
        return replace(self, supernet=True, prompts=None, lora=None, adapter=None)

    def with_subnet(self, subnet: Subnet) -> NOAH:
        return replace(self, supernet=False, **vars(subnet))

    def activate(self, model: Joined, subnet: Subnet) -> None:
        """Make a supernet compute as one of its sub-networks, until its next step of training."""
        assert isinstance(model.suffix.side, ElasticPrompts)
        model.suffix.side.active.subnet = subnet

    def adapt(self, backbone: Backbone) -> Adaptation:
        subnet, width = self.subnet(backbone), backbone.width(1)
        active = Active(subnet, self.space(backbone) if self.supernet else None)
        fused_qkv, end_of_mlp = backbone.path("qkv"), backbone.path("fc2")
        wraps: dict[int, dict[str, Callable[[nn.Module], nn.Module]]] = {i: {} for i in backbone.blocks}
        for i, block in backbone.blocks.items():
            places: dict[str, tuple[Callable[..., nn.Module], int]] = {
                fused_qkv: (ElasticLoRA, subnet.lora[i - 1]),
                end_of_mlp: (ElasticAdapter, subnet.adapter[i - 1]),
            }
            for name, (elastic, size) in places.items():
                layer = block.get_submodule(name)
                if not isinstance(layer, nn.Linear):
                    raise ValueError(f"{name} of block {i} is a {type(layer).__name__}; NOAH changes linear layers")
                if size > width:
                    raise ValueError(f"size {size} at {name} of block {i} is above the backbone's width, {width}")
                if size:
                    wraps[i][name] = partial(elastic, active=active, index=i - 1, size=size, dropout=self.dropout)
        assert backbone.layout.grid is not None
        patch_area = math.prod(backbone.card.image_size) / math.prod(backbone.layout.grid)
        bound = math.sqrt(6 / (3 * patch_area + width))
        prefix = backbone.layout.num_prefix_tokens
        side = ElasticPrompts(active, subnet.prompts, prefix, width, bound, self.dropout)
        return Adaptation(side=side, wraps=wraps, num_units=sum(s > 0 for k in KINDS for s in getattr(subnet, k)))

    def num_parameters(self, backbone: Backbone, subnet: Subnet) -> int:
        """What a sub-network trains, the head not counted."""
        width = backbone.width(1)
        num = width * sum(subnet.prompts)
        fused_qkv, end_of_mlp = backbone.path("qkv"), backbone.path("fc2")
        for i, block in backbone.blocks.items():
            qkv, fc2 = block.get_submodule(fused_qkv), block.get_submodule(end_of_mlp)
            assert isinstance(qkv, nn.Linear) and isinstance(fc2, nn.Linear)
            num += subnet.lora[i - 1] * (qkv.in_features + qkv.out_features)
            if size := subnet.adapter[i - 1]:
                num += size * (2 * fc2.out_features + 1) + fc2.out_features
        return num
