"""What a family of networks can do and where its layers are, and the parts that one of its networks opens into."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from timm.layers.patch_embed import PatchEmbed
from torch import nn

from sidetune.backbones.layout import Layout
from sidetune.backbones.sizes import Size, Steps

Role = Literal[
    "attention",
    "attention_scale",
    "attention_norm",
    "qkv",
    "q",
    "k",
    "v",
    "projection",
    "mlp",
    "mlp_scale",
    "mlp_norm",
    "fc1",
    "gate",
    "gated",
    "fc2",
]
"""What a sub-layer of a block is there for. `qkv` is q, k and v in one; `gate` and `gated` are a gated MLP's fc1; norms
stand in front of their branch, scales (LayerScale) behind it."""

ATTENTION_READERS: tuple[Role, ...] = ("qkv", "q", "k", "v")
MLP_READERS: tuple[Role, ...] = ("fc1", "gate", "gated")
LINEAR: tuple[Role, ...] = (*ATTENTION_READERS, "projection", *MLP_READERS, "fc2")
"""Linear layers, in the order of the forward pass."""


def patches_of(network: nn.Module) -> Any:
    """What cuts images into patches: `patch_embed`, or timm's `PatchEmbed` under another name; None where nothing
    does."""
    embed = getattr(network, "patch_embed", None)
    return embed if embed is not None else next((m for m in network.modules() if isinstance(m, PatchEmbed)), None)


def size_of_patches(network: nn.Module) -> Size | None:
    size = getattr(patches_of(network), "img_size", None)
    return None if size is None else tuple(size)


def resize_by_timm(network: Any, size: Size) -> None:
    """A network that timm cannot resize is left, and says itself what it does not take."""
    if not hasattr(network, "set_input_size"):
        return
    with warnings.catch_warnings():  # of torch about how timm resamples Swin's bias tables
        warnings.simplefilter("ignore")
        network.set_input_size(img_size=size)


@dataclass(frozen=True, kw_only=True, eq=False)
class Family:
    """What all networks of one class of timm's have in common. Methods ask for this, never for a name.

    It equals its name, so that what compared names in version 0.1 goes on working.
    """

    name: str
    """As cards, saved folders and tables have it."""
    open: Callable[[Any], Parts]
    """Opens a network, already frozen and set to its image size. Raises ValueError for one of an unusual build."""

    tokens: bool = False
    """Features are rows of tokens; otherwise maps."""
    staged: bool = False
    """Width and number of places change from stage to stage."""
    keeps_shape: bool = True
    """No block changes the shape of what it is given; where a stage begins something stands between blocks."""
    prompts: bool = False
    """Tokens may be put among the patches: blocks take any number and ask none for its place."""
    rotary: bool = False
    """Every block tells patches their places (some networks of the family may not)."""
    batch_norms: bool = False
    """Norms keep statistics of the training images."""
    convolutions: bool = False
    """Blocks are convolutions: there is nothing in them that a role names."""
    roles: Mapping[Role, str] = field(default_factory=dict)
    """Where in a block its layers are, each by its path (`attn.qkv`). A role that is not here no block has. Blocks call
    these layers as modules: one that reads `attn.qkv.weight` itself passes by what a method puts there."""
    varying: frozenset[Role] = frozenset()
    """Roles that some networks of the family have and others have not."""
    mlp_branch: tuple[str, ...] = ()
    """Sub-layers that run one straight after the other, from the norm in front of the MLP to what is added to the
    stream; none where a block does something else between them."""
    class_token: str | None = None
    """The stem's parameter that is the class token, where a network has one."""
    narrowed: Callable[[Any, int, int], nn.Module] | None = None
    """From a block, its number and n: a new block of the same build, n times narrower, with as many heads. Raises
    ValueError for a block that there is none of."""
    num_heads: Callable[[Any], int] | None = None
    """Of a block's attention; what is narrowed says it."""

    native_size: Callable[[Any], Size | None] = size_of_patches
    """Height and width that a network is built for; None where any will do."""
    sized: bool = False
    """timm builds its networks for one image size (`img_size=`)."""
    timm_pools: Mapping[str, str] = field(default_factory=dict)
    """By pooling: the `global_pool=` with which timm builds the network so."""
    resize: Callable[[Any, Size], None] = resize_by_timm
    """Sets a network of timm's that has a size to another."""
    resize_plain: Callable[[Any, Size], None] = resize_by_timm
    """Does so for a network that goes on by itself, as `merge` makes it. Raises CannotMerge where it then computes
    something else than the opened one."""
    built_with: Callable[[Any], Mapping[str, Any]] = lambda network: {}
    """With what else timm builds a network of this size again, besides `img_size=`."""
    unfold: Callable[[Any, Mapping[int, Any]], None] | None = None
    """From a plain network and the blocks that `open` made of it: gives it what they hold in tensors of their own.
    Raises CannotMerge for what it has no place for."""
    as_0_1: Family | None = None
    """The family as version 0.1 had it, where that made something else of the same weights."""

    def __post_init__(self) -> None:
        if foreign := sorted(self.roles.keys() - set(get_args(Role))):
            raise ValueError(f"roles of {self.name} has {', '.join(foreign)}; known: {', '.join(get_args(Role))}")
        if foreign := sorted(self.varying - self.roles.keys()):
            raise ValueError(f"varying of {self.name} has {', '.join(foreign)}, which its roles do not name")
        if self.narrowed and not self.num_heads:
            raise ValueError(f"{self.name} has narrowed, and needs num_heads with it")
        if self.convolutions and self.roles:
            raise ValueError(f"{self.name} has roles, so its blocks are more than convolutions=True says")
        if self.mlp_branch and self.roles.get("mlp") not in self.mlp_branch:
            raise ValueError(f"mlp_branch of {self.name}, {self.mlp_branch}, is without the layer of the role mlp")

    def has(self, *roles: Role) -> bool:
        """Whether blocks have a layer of one of these roles."""
        return any(role in self.roles for role in roles)

    def __str__(self) -> str:
        return self.name

    def __eq__(self, other: object) -> bool:
        return self.name == (other.name if isinstance(other, Family) else other)

    def __hash__(self) -> int:
        return hash(self.name)


@dataclass(frozen=True, kw_only=True, eq=False)
class Parts:
    """The modules of a network in the order images meet them. Blocks, stages and their transitions count from 1."""

    family: Family
    stem: nn.Module
    blocks: Mapping[int, nn.Module]
    transitions: Mapping[int, nn.Module]
    """By block: what stands between the block before and this one, where a stage begins."""
    stages: Mapping[int, int]
    """By block: its stage."""
    pools: Mapping[str, nn.Module]
    native_pool: str
    """The pooling the network was pretrained with."""
    layout: Layout
    steps: Steps | None = None
    """The sizes that images may have besides the one the network is open for; None where it is that one alone."""
    revised: bool = False
    """Whether version 0.1 made something else of these weights at this size."""

    def __post_init__(self) -> None:
        numbers = list(range(1, len(self.blocks) + 1))
        if list(self.blocks) != numbers or not numbers:
            raise ValueError(f"blocks of a {self.family} network are {list(self.blocks)}; they count from 1, in order")
        if list(self.stages) != numbers or sorted(self.stages.values()) != list(self.stages.values()):
            raise ValueError(
                f"stages of a {self.family} network are {dict(self.stages)}; each of its blocks, 1 to {len(numbers)}, "
                f"has one, and they count up"
            )
        if foreign := [i for i in self.transitions if i not in self.blocks]:
            raise ValueError(f"transitions of a {self.family} network stand before blocks {foreign}, which it has not")
        if self.native_pool not in self.pools:
            raise ValueError(
                f"native_pool of a {self.family} network is {self.native_pool!r}; its pools are {', '.join(self.pools)}"
            )

    def named_parts(self, pool: str | None) -> Iterator[tuple[str, nn.Module]]:
        """Every module of the network under the name that trained parameters carry, e.g. `blocks.7`; of the poolings
        the one that is read."""
        yield "stem", self.stem
        for i, block in self.blocks.items():
            if i in self.transitions:
                yield f"transitions.{i}", self.transitions[i]
            yield f"blocks.{i}", block
        if pool is not None:
            yield "pool", self.pools[pool]

    def paths(self, *roles: Role) -> dict[Role, str]:
        """Where these roles are in a block, in the order asked for, as far as this network's blocks have them. Raises
        ValueError where they are not as the family says."""
        family = self.family
        here = {role: family.roles[role] for role in roles if role in family.roles}
        held = dict(self.blocks[1].named_modules())
        if missing := {role: path for role, path in here.items() if path not in held and role not in family.varying}:
            told = ", ".join(f"{role} at {path}" for role, path in missing.items())
            raise ValueError(
                f"the family {family} has {told}, but block 1 here, a {type(self.blocks[1]).__name__}, has "
                f"{', '.join(name for name in held if name)}"
            )
        return {role: path for role, path in here.items() if path in held}

    def path(self, role: Role) -> str:
        """Where this role is in a block. Raises ValueError if the blocks have no such layer."""
        if role not in (paths := self.paths(role)):
            raise ValueError(f"the blocks of this {self.family} backbone have no layer for {role}")
        return paths[role]
