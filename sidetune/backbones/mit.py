"""MiT, SegFormer's encoder (Xie et al., NeurIPS 2021, section 3.1), under the names mit_b0 to mit_b5 among timm's.

timm has none, and the blocks of others take rows of tokens with the height and width beside them. These take maps, so
that they are opened as they stand; weights come from files of the authors or of transformers.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch
from timm.models import register_model
from torch import Tensor, nn
from torch.nn import functional as F

from sidetune.backbones.family import Family, Parts
from sidetune.backbones.layout import Layout
from sidetune.backbones.sizes import Steps
from sidetune.backbones.staged import staged_parts

HEADS = (1, 2, 5, 8)
REDUCTIONS = (8, 4, 2, 1)
"""By stage: how many times fewer rows and columns keys and values have."""
WIDTHS = (64, 128, 320, 512)


class PatchEmbed(nn.Module):
    """Overlapping patches: an image or a map, channels first -> a map, channels last."""

    def __init__(self, channels: int, width: int, size: int, stride: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(channels, width, size, stride, padding=size // 2)
        self.norm = nn.LayerNorm(width)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.proj(x).movedim(1, -1))


class Attention(nn.Module):
    """Every place attends to a map of fewer places (eq. 1, 2)."""

    def __init__(self, width: int, num_heads: int, reduction: int) -> None:
        super().__init__()
        self.num_heads, self.head_dim, self.fused_attn = num_heads, width // num_heads, True
        self.q, self.k, self.v = (nn.Linear(width, width) for _ in range(3))
        self.proj = nn.Linear(width, width)
        self.reduce = nn.Conv2d(width, width, reduction, reduction) if reduction > 1 else None
        self.norm = nn.LayerNorm(width) if reduction > 1 else None

    def forward(self, x: Tensor) -> Tensor:
        """(batch, row, column, channel) -> the same shape."""
        seen = x
        if self.reduce is not None and self.norm is not None:
            seen = self.norm(self.reduce(x.movedim(-1, 1)).movedim(1, -1))
        q, k, v = self.headed(self.q(x)), self.headed(self.k(seen)), self.headed(self.v(seen))
        if self.fused_attn:
            out = F.scaled_dot_product_attention(q, k, v)
        else:
            out = (q * self.head_dim**-0.5 @ k.transpose(-2, -1)).softmax(dim=-1) @ v
        return self.proj(out.transpose(1, 2).flatten(2).view(x.shape))

    def headed(self, x: Tensor) -> Tensor:
        """(batch, row, column, channel) -> (batch, head, token, channel)."""
        return x.flatten(1, 2).unflatten(2, (self.num_heads, self.head_dim)).transpose(1, 2)


class MixMLP(nn.Module):
    """An MLP whose hidden layer sees its neighbours, which tells it places (eq. 3)."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(width, hidden), nn.Linear(hidden, width)
        self.depthwise = nn.Conv2d(hidden, hidden, 3, padding=1, groups=hidden)
        self.act = nn.GELU()

    def forward(self, x: Tensor) -> Tensor:
        mixed = self.depthwise(self.fc1(x).movedim(-1, 1)).movedim(1, -1)
        return self.fc2(self.act(mixed))


class MixBlock(nn.Module):
    """Efficient attention and a Mix-FFN, each behind its norm and added to the stream."""

    def __init__(self, width: int, num_heads: int, reduction: int, mlp_ratio: int) -> None:
        super().__init__()
        self.norm1, self.attn, self.drop_path1 = (
            nn.LayerNorm(width),
            Attention(width, num_heads, reduction),
            nn.Identity(),
        )
        self.norm2, self.mlp, self.drop_path2 = nn.LayerNorm(width), MixMLP(width, mlp_ratio * width), nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.drop_path1(self.attn(self.norm1(x)))
        return x + self.drop_path2(self.mlp(self.norm2(x)))


class Downsample(nn.Module):
    """From a stage to the next: the stage's norm, and patches of its map."""

    def __init__(self, norm: nn.Module, embed: PatchEmbed) -> None:
        super().__init__()
        self.norm, self.embed = norm, embed

    def forward(self, x: Tensor) -> Tensor:
        return self.embed(self.norm(x).movedim(-1, 1))


class Stage(nn.Module):
    def __init__(
        self, channels: int, width: int, depth: int, num_heads: int, reduction: int, *, first: bool, mlp_ratio: int
    ) -> None:
        super().__init__()
        self.embed = PatchEmbed(channels, width, *((7, 4) if first else (3, 2)))
        self.blocks = nn.ModuleList(MixBlock(width, num_heads, reduction, mlp_ratio) for _ in range(depth))
        self.norm = nn.LayerNorm(width)

    def forward(self, x: Tensor) -> Tensor:
        """Channels first -> channels first."""
        x = self.embed(x)
        for block in self.blocks:
            x = block(x)
        return self.norm(x).movedim(-1, 1)


class MixTransformer(nn.Module):
    """Four stages of strides 4, 8, 16 and 32; images of any size from 32 pixels on."""

    def __init__(
        self,
        depths: tuple[int, ...] = (2, 2, 2, 2),
        widths: tuple[int, ...] = WIDTHS,
        *,
        num_heads: tuple[int, ...] = HEADS,
        reductions: tuple[int, ...] = REDUCTIONS,
        mlp_ratio: int = 4,
        num_classes: int = 0,
    ) -> None:
        super().__init__()
        self.num_features, self.pretrained_cfg = widths[-1], dict[str, Any]()
        channels = (3, *widths)
        self.stages = nn.ModuleList(
            Stage(channels[i], widths[i], depths[i], num_heads[i], reductions[i], first=i == 0, mlp_ratio=mlp_ratio)
            for i in range(len(depths))
        )
        self.reset_classifier(num_classes)
        self.apply(start)

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        self.num_classes = num_classes
        self.head = nn.Linear(self.num_features, num_classes) if num_classes else nn.Identity()

    def forward_features(self, x: Tensor) -> Tensor:
        """Images -> the last stage's map, channels first."""
        for stage in self.stages:
            x = stage(x)
        return x

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        pooled = x.mean(dim=(2, 3))
        return pooled if pre_logits else self.head(pooled)

    def forward(self, x: Tensor) -> Tensor:
        return self.forward_head(self.forward_features(x))


def start(module: nn.Module) -> None:
    """As the authors start it."""
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        nn.init.zeros_(module.bias)
    elif isinstance(module, nn.Conv2d):
        fan_out = module.kernel_size[0] * module.kernel_size[1] * module.out_channels // module.groups
        nn.init.normal_(module.weight, std=(2 / fan_out) ** 0.5)
        nn.init.zeros_(module.bias)  # type: ignore[arg-type]


NETWORKS = {
    "mit_b0": {"depths": (2, 2, 2, 2), "widths": (32, 64, 160, 256)},
    "mit_b1": {"depths": (2, 2, 2, 2)},
    "mit_b2": {"depths": (3, 4, 6, 3)},
    "mit_b3": {"depths": (3, 4, 18, 3)},
    "mit_b4": {"depths": (3, 8, 27, 3)},
    "mit_b5": {"depths": (3, 6, 40, 3)},
}
"""Table 6 of the paper."""


def join_timm(name: str) -> None:
    """Let timm's registry make the network of a name; options change what it is built of."""

    def create(*, pretrained: bool = False, **options: Any) -> MixTransformer:
        if pretrained:
            raise ValueError(f"no hub has weights of {name} for timm; pass a file of them (with architecture={name!r})")
        for of_timm in ("pretrained_cfg", "pretrained_cfg_overlay", "cache_dir"):
            options.pop(of_timm, None)
        model = MixTransformer(**{**NETWORKS[name], **options})
        model.pretrained_cfg = {"architecture": name, "input_size": (3, 224, 224)}
        return model

    create.__name__ = name
    register_model(create)


for each in NETWORKS:
    join_timm(each)


AUTHORS = (
    (r"^(?:backbone\.)?patch_embed(\d)\.", r"stages.\1.embed."),
    (r"^(?:backbone\.)?block(\d)\.", r"stages.\1.blocks."),
    (r"^(?:backbone\.)?norm(\d)\.", r"stages.\1.norm."),
    (r"\.attn\.sr\.", ".attn.reduce."),
    (r"\.mlp\.dwconv\.dwconv\.", ".mlp.depthwise."),
)
"""Where stages count from 1, and k and v are one layer."""
TRANSFORMERS = (
    (r"^(?:segformer\.)?encoder\.patch_embeddings\.(\d)\.layer_norm\.", r"stages.\1.embed.norm."),
    (r"^(?:segformer\.)?encoder\.patch_embeddings\.(\d)\.", r"stages.\1.embed."),
    (r"^(?:segformer\.)?encoder\.block\.(\d)\.", r"stages.\1.blocks."),
    (r"^(?:segformer\.)?encoder\.layer_norm\.(\d)\.", r"stages.\1.norm."),
    (r"^(?:segformer\.)?stages\.(\d)\.patch_embeddings\.layer_norm\.", r"stages.\1.embed.norm."),
    (r"^(?:segformer\.)?stages\.(\d)\.patch_embeddings\.", r"stages.\1.embed."),
    (r"^(?:segformer\.)?stages\.(\d)\.layer_norm\.", r"stages.\1.norm."),
    (r"^segformer\.", ""),
    (r"\.(?:layer_norm_1|layernorm_before)\.", ".norm1."),
    (r"\.(?:layer_norm_2|layernorm_after)\.", ".norm2."),
    (r"\.attention\.(?:self\.query|q_proj)\.", ".attn.q."),
    (r"\.attention\.(?:self\.key|k_proj)\.", ".attn.k."),
    (r"\.attention\.(?:self\.value|v_proj)\.", ".attn.v."),
    (r"\.attention\.(?:output\.dense|o_proj)\.", ".attn.proj."),
    (r"\.attention\.(?:self\.sr|sequence_reduction\.sequence_reduction)\.", ".attn.reduce."),
    (r"\.attention\.(?:self|sequence_reduction)\.layer_norm\.", ".attn.norm."),
    (r"\.mlp\.dense(\d)\.", r".mlp.fc\1."),
    (r"\.mlp\.dwconv\.dwconv\.", ".mlp.depthwise."),
)
"""Under the names of transformers 4 and of 5."""


def checkpoint_filter_fn(state: Mapping[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """Weights by our names; the authors' and transformers' are known by how theirs begin."""
    state = state.get("state_dict", state)  # type: ignore[assignment]
    if any(re.match(r"^(backbone\.)?patch_embed1\.", name) for name in state):
        return dict(pair for name, tensor in state.items() for pair in of_authors(name, tensor))
    return {renamed(name, TRANSFORMERS): tensor for name, tensor in state.items()}


def of_authors(name: str, tensor: Tensor) -> list[tuple[str, Tensor]]:
    name = renamed(name, AUTHORS)
    name = re.sub(r"^stages\.(\d)", lambda m: f"stages.{int(m[1]) - 1}", name)
    if ".attn.kv." in name:
        return [(name.replace(".kv.", f".{to}."), part) for to, part in zip("kv", torch.chunk(tensor, 2), strict=True)]
    return [(name, tensor)]


def renamed(name: str, rules: tuple[tuple[str, str], ...]) -> str:
    for pattern, becomes in rules:
        name = re.sub(pattern, becomes, name)
    return name


def open_mit(net: Any) -> Parts:
    stages: list[tuple[nn.Module | None, list[nn.Module]]] = []
    norm: nn.Module | None = None
    for stage in net.stages:
        stages.append((None if norm is None else Downsample(norm, stage.embed), list(stage.blocks)))
        norm = stage.norm
    assert norm is not None
    return staged_parts(
        MIT,
        stem=net.stages[0].embed,
        stages=stages,
        norm=norm,
        norm_first=True,
        global_pool=nn.Identity(),
        layout=Layout(),
        steps=Steps(least=(32, 32)),
    )


MIT = Family(
    name="mit",
    open=open_mit,
    staged=True,
    roles={
        "attention_norm": "norm1",
        "attention": "attn",
        "q": "attn.q",
        "k": "attn.k",
        "v": "attn.v",
        "projection": "attn.proj",
        "mlp_norm": "norm2",
        "mlp": "mlp",
        "fc1": "mlp.fc1",
        "fc2": "mlp.fc2",
    },
    mlp_branch=("norm2", "mlp"),
)
