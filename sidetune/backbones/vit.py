"""timm's VisionTransformer: class token or not, registers, LayerScale, any patch size."""

from __future__ import annotations

from typing import Any

import torch
from timm.layers import Mlp
from timm.layers.attention import Attention
from timm.models.vision_transformer import Block, VisionTransformer
from torch import Tensor, nn

from sidetune.backbones.family import Family, Parts
from sidetune.backbones.layout import Layout
from sidetune.backbones.pools import MeanPool, TimmPool, TokenPool


class ViTStem(nn.Module):
    """Patch embedding, class and register tokens, position embedding."""

    def __init__(self, vit: VisionTransformer) -> None:
        super().__init__()
        self.patch_embed = vit.patch_embed
        self.cls_token, self.reg_token, self.pos_embed = vit.cls_token, vit.reg_token, vit.pos_embed
        self.position_skips_prefix = vit.no_embed_class
        self.pos_drop, self.norm_pre = vit.pos_drop, vit.norm_pre
        self.patch_drop = nn.Identity() if vit.patch_drop is None else vit.patch_drop

    def forward(self, images: Tensor) -> Tensor:
        x = self.patch_embed(images)
        if x.ndim == 4:  # networks made for several sizes leave the grid unflattened
            x = x.flatten(1, 2)
        prefix = [t.expand(x.shape[0], -1, -1) for t in (self.cls_token, self.reg_token) if t is not None]
        if self.pos_embed is None:
            x = torch.cat([*prefix, x], dim=1)
        elif self.position_skips_prefix:
            x = torch.cat([*prefix, x + self.pos_embed], dim=1)
        else:
            x = torch.cat([*prefix, x], dim=1) + self.pos_embed
        return self.norm_pre(self.patch_drop(self.pos_drop(x)))


def open_vit(vit: VisionTransformer) -> Parts:
    layout = Layout(num_prefix_tokens=vit.num_prefix_tokens, grid=tuple(vit.patch_embed.grid_size))
    norm = vit.fc_norm if isinstance(vit.norm, nn.Identity) else vit.norm
    pools: dict[str, nn.Module] = {"mean": MeanPool(norm, layout, norm_first=False)}
    if vit.has_class_token:
        pools["token"] = TokenPool(norm)
    match vit.global_pool:
        case "token" if isinstance(vit.fc_norm, nn.Identity):
            native = "token"
        case "avg" if isinstance(vit.norm, nn.Identity) and not vit.pool_include_prefix:
            native = "mean"
        case _:
            native = "native"
            pools[native] = TimmPool(vit)
    blocks = dict(enumerate(vit.blocks, start=1))
    return Parts(
        family=VIT,
        stem=ViTStem(vit),
        blocks=blocks,
        transitions={},
        stages=dict.fromkeys(blocks, 1),
        pools=pools,
        native_pool=native,
        layout=layout,
    )


def narrowed(block: Any, number: int, by: int) -> Block:
    """A new plain pre-norm transformer block of the same build, `by` times narrower, with as many heads."""
    plain = (
        isinstance(block, Block)
        and isinstance(block.attn, Attention)
        and isinstance(block.attn.q_norm, nn.Identity)
        and isinstance(block.mlp, Mlp)
    )
    if not plain:
        raise ValueError(f"block {number} is a {type(block).__name__} of an unusual build, which cannot be pruned")
    for what, size in {"head width": block.attn.head_dim, "hidden width": block.mlp.fc1.out_features}.items():
        if size % by:
            raise ValueError(f"reduction {by} does not divide the {what} of block {number}, {size}")
    width, hidden = block.attn.proj.out_features // by, block.mlp.fc1.out_features // by
    has_bias = block.attn.qkv.bias is not None
    small = Block(width, block.attn.num_heads, mlp_ratio=hidden / width, qkv_bias=has_bias)
    for own, big in ((small.norm1, block.norm1), (small.norm2, block.norm2)):
        own.eps = big.eps
    return small


def num_heads(block: Any) -> int:
    heads: int = block.attn.num_heads
    return heads


VIT = Family(
    name="vit",
    open=open_vit,
    tokens=True,
    prompts=True,
    roles={
        "attention_norm": "norm1",
        "attention": "attn",
        "qkv": "attn.qkv",
        "projection": "attn.proj",
        "attention_scale": "ls1",
        "mlp_norm": "norm2",
        "mlp": "mlp",
        "fc1": "mlp.fc1",
        "fc2": "mlp.fc2",
        "mlp_scale": "ls2",
    },
    mlp_branch=("norm2", "mlp", "ls2"),
    class_token="cls_token",
    narrowed=narrowed,
    num_heads=num_heads,
    sized=True,
    timm_pools={"mean": "avg"},
)
