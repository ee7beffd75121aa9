"""timm's Eva: ViTs with rotary positions. DINOv3, EVA-02, Perception Encoder, RoPE-ViT and others.

Rotary positions follow from the grid (and, `mixed`, from learned frequencies, which stay as they are); each block here
holds those of the size that the network is open for.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import torch
from timm.layers.pool1d import global_pool_nlc
from timm.models.eva import Eva, EvaBlock, EvaBlockPostNorm
from torch import Tensor, nn

from sidetune.backbones.family import ATTENTION_READERS, MLP_READERS, Family, Parts
from sidetune.backbones.layout import Layout
from sidetune.backbones.pools import MeanPool, TokenPool
from sidetune.backbones.vit import ViTStem
from sidetune.errors import CannotMerge


class RotaryBlock(EvaBlock):  # type: ignore[misc]
    """timm's block with the rotary positions it needs: (2 x head channels) numbers a patch, or none."""

    rope: Tensor | None

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x, rope=self.rope)


class RotaryBlockPostNorm(EvaBlockPostNorm):  # type: ignore[misc]
    rope: Tensor | None

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x, rope=self.rope)


ROTARY: dict[type[nn.Module], type[nn.Module]] = {EvaBlock: RotaryBlock, EvaBlockPostNorm: RotaryBlockPostNorm}


def with_positions(block: nn.Module, rope: Tensor | None) -> nn.Module:
    """A copy of the block, its tensors shared, that brings its positions along."""
    copied = copy.copy(block)
    for name in ("_parameters", "_buffers", "_modules", "_non_persistent_buffers_set"):
        setattr(copied, name, copy.copy(getattr(block, name)))
    copied.__class__ = ROTARY[type(block)]
    copied.attn = with_one_bias(block.attn)
    copied.register_buffer("rope", rope, persistent=False)
    return copied


def with_one_bias(attn: Any) -> Any:
    """The attention; where it has biases of q and v beside qkv, as one of qkv, whose part for k is 0."""
    if attn.qkv is None or getattr(attn, "q_bias", None) is None:
        return attn
    copied = copy.copy(attn)
    for name in ("_parameters", "_buffers", "_modules"):
        setattr(copied, name, copy.copy(getattr(attn, name)))
    copied.qkv = copy.copy(attn.qkv)
    copied.qkv._parameters = dict(attn.qkv._parameters)
    copied.qkv.bias = nn.Parameter(torch.cat((attn.q_bias, attn.k_bias, attn.v_bias)).detach(), requires_grad=False)
    copied.q_bias = copied.k_bias = copied.v_bias = None
    return copied


@torch.no_grad()
def unfold_biases(eva: Any, blocks: Mapping[int, Any]) -> None:
    """Give a plain network the biases of blocks that `open_eva` made of it. Raises CannotMerge for one of k, which the
    plain network has not."""
    for plain, block in zip(eva.blocks, blocks.values(), strict=True):
        if getattr(plain.attn, "q_bias", None) is None or plain.attn.qkv is None:
            continue
        q, k, v = block.attn.qkv.bias.chunk(3)
        if k.any():
            raise CannotMerge(
                "a bias of k was trained, which the plain network has not; export the whole model instead"
            )
        plain.attn.q_bias.copy_(q)
        plain.attn.v_bias.copy_(v)


class EvaPool(nn.Module):
    """What timm's Eva does with its last tokens, for the rarer poolings."""

    def __init__(self, eva: Eva) -> None:
        super().__init__()
        self.norm, self.attn_pool, self.fc_norm = eva.norm, eva.attn_pool, eva.fc_norm
        self.kind, self.num_prefix_tokens = eva.global_pool, eva.num_prefix_tokens

    def forward(self, z: Tensor) -> Tensor:
        z = self.norm(z)
        if self.attn_pool is not None:
            return self.fc_norm(self.attn_pool(z))
        return self.fc_norm(global_pool_nlc(z, pool_type=self.kind, num_prefix_tokens=self.num_prefix_tokens))


def open_eva(eva: Eva) -> Parts:
    grid = tuple(eva.patch_embed.grid_size)
    layout = Layout(num_prefix_tokens=eva.num_prefix_tokens, grid=grid)
    norm_first = not isinstance(eva.norm, nn.Identity)
    norm = eva.norm if norm_first else eva.fc_norm
    pools: dict[str, nn.Module] = {"mean": MeanPool(norm, layout, norm_first=norm_first)}
    if eva.cls_token is not None:
        pools["token"] = TokenPool(norm)
    native = {"token": "token", "avg": "mean"}.get(eva.global_pool, "native")
    if native not in pools or (norm_first and not isinstance(eva.fc_norm, nn.Identity)):
        native = "native"
        pools[native] = EvaPool(eva)
    positions = rotary(eva, grid)
    blocks = {i: with_positions(block, positions[i - 1]) for i, block in enumerate(eva.blocks, start=1)}
    return Parts(
        family=EVA,
        stem=ViTStem(eva),
        blocks=blocks,
        transitions={},
        stages=dict.fromkeys(blocks, 1),
        pools=pools,
        native_pool=native,
        layout=layout,
    )


@torch.no_grad()
def rotary(eva: Any, grid: tuple[int, ...]) -> list[Tensor | None]:
    """By block: the sines and cosines of a grid's places."""
    if eva.rope is None:
        return [None] * len(eva.blocks)
    rope = eva.rope.eval()  # DINOv3 moves places about in training
    found = rope.get_embed(shape=grid)
    return list(found) if eva.rope_mixed else [found] * len(eva.blocks)


EVA = Family(
    name="eva",
    open=open_eva,
    tokens=True,
    rotary=True,
    roles={
        "attention": "attn",
        "qkv": "attn.qkv",
        "q": "attn.q_proj",
        "k": "attn.k_proj",
        "v": "attn.v_proj",
        "projection": "attn.proj",
        "mlp": "mlp",
        "fc1": "mlp.fc1",
        "gate": "mlp.fc1_g",
        "gated": "mlp.fc1_x",
        "fc2": "mlp.fc2",
    },
    varying=frozenset({*ATTENTION_READERS, *MLP_READERS}),
    class_token="cls_token",
    sized=True,
    unfold=unfold_biases,
)
"""Norms stand in front of branches or behind them, and what scales a branch is no sub-layer, so neither has a role."""
