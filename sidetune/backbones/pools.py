"""From the last block's output to one vector an image: norm and pooling, in the order a network was trained with."""

from __future__ import annotations

from timm.layers.pool1d import global_pool_nlc
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from sidetune.backbones.layout import Layout


class MeanPool(nn.Module):
    """The mean over patches, with the final norm before or after it."""

    def __init__(self, norm: nn.Module, layout: Layout, *, norm_first: bool) -> None:
        super().__init__()
        self.norm, self.layout, self.norm_first = norm, layout, norm_first

    def forward(self, z: Tensor) -> Tensor:
        if self.norm_first:
            return self.layout.mean(self.norm(z))
        mean = self.layout.mean(z)
        if self.layout.channels_first:  # norms of channels-first networks want a map
            return self.norm(mean[:, :, None, None]).flatten(1)
        return self.norm(mean)


class TokenPool(nn.Module):
    """The class token behind the final norm."""

    def __init__(self, norm: nn.Module) -> None:
        super().__init__()
        self.norm = norm

    def forward(self, z: Tensor) -> Tensor:
        return self.norm(z)[:, 0]


class TimmPool(nn.Module):
    """What timm's ViT does with its last tokens, for the rarer poolings (attention, maximum, norm before mean)."""

    def __init__(self, vit: VisionTransformer) -> None:
        super().__init__()
        self.norm, self.attn_pool, self.fc_norm = vit.norm, vit.attn_pool, vit.fc_norm
        self.kind, self.include_prefix = vit.global_pool, vit.pool_include_prefix
        self.num_prefix_tokens = vit.num_prefix_tokens

    def forward(self, z: Tensor) -> Tensor:
        z = self.norm(z)
        if self.attn_pool is None:
            pooled = global_pool_nlc(
                z,
                pool_type=self.kind,
                num_prefix_tokens=self.num_prefix_tokens,
                reduce_include_prefix=self.include_prefix,
            )
        else:
            pooled = self.attn_pool(z if self.include_prefix else z[:, self.num_prefix_tokens :])
        return self.fc_norm(pooled)
