"""timm's SwinTransformer (v1) at any size: patch merging in front of stages 2 to 4, channels-last maps.

timm scales the windows with the image, which makes another network of it, and rolls a map before it pads it, so that at
a padded edge shifted windows mix opposite borders. Here windows stay what they were trained as, and a map is padded to
whole windows, then rolled, as the authors have it. Where nothing is padded both are the same, bit for bit.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from timm.models.swin_transformer import SwinTransformer, window_partition, window_reverse
from torch import Tensor, nn
from torch.nn import functional as F

from sidetune.backbones.family import Family, Parts, resize_by_timm
from sidetune.backbones.layout import Layout
from sidetune.backbones.sizes import Steps
from sidetune.backbones.staged import staged_parts
from sidetune.backbones.structure import shared
from sidetune.errors import CannotMerge

Pair = tuple[int, int]
APART = -100.0
"""What is added to the score of two tokens that do not see each other."""
NUM_SIZES = 4
"""A block keeps its masks for the last few sizes of maps."""


class SwinBlock(nn.Module):
    """timm's block, by its own sub-layers, on maps of any size; the mask for `size` is held as timm holds it."""

    def __init__(self, block: Any, size: Pair) -> None:
        super().__init__()
        self.norm1, self.attn, self.drop_path1 = block.norm1, block.attn, block.drop_path1
        self.norm2, self.mlp, self.drop_path2 = block.norm2, block.mlp, block.drop_path2
        self.window: Pair = block.window_size
        self.shift: Pair = (self.window[0] // 2, self.window[1] // 2) if any(block.target_shift_size) else (0, 0)
        self.always_shifts: bool = block.always_partition
        self.size, weight = size, block.norm1.weight
        self.attn_mask: Tensor | None
        self.register_buffer("attn_mask", self.make_mask(size, weight.device, weight.dtype), persistent=False)
        self.masks: dict[tuple[Pair, torch.device, torch.dtype], Tensor | None] = {}

    def forward(self, x: Tensor) -> Tensor:
        """(batch, row, column, channel) -> the same shape."""
        size = x.shape[1:3]
        x = x + self.drop_path1(self._attn(self.norm1(x)))
        tokens = x.flatten(1, 2)
        tokens = tokens + self.drop_path2(self.mlp(self.norm2(tokens)))
        return tokens.unflatten(1, size)

    def _attn(self, x: Tensor) -> Tensor:
        size, window = (x.shape[1], x.shape[2]), self.window
        shift, mask = self.shift_at(size), self.mask_at(size, x)
        if is_cut(size, window):
            x = F.pad(x, (0, 0, 0, -size[1] % window[1], 0, -size[0] % window[0]))
        rows, columns, channels = x.shape[1:]
        if any(shift):
            x = torch.roll(x, (-shift[0], -shift[1]), dims=(1, 2))
        windows = window_partition(x, window).view(-1, window[0] * window[1], channels)
        windows = self.attn(windows, mask=mask).view(-1, *window, channels)
        x = window_reverse(windows, window, rows, columns)
        if any(shift):
            x = torch.roll(x, shift, dims=(1, 2))
        return x[:, : size[0], : size[1]].contiguous()

    def shift_at(self, size: Pair) -> Pair:
        """By how many rows and columns a map is rolled: along an axis that one window spans it is not (timm).

        A map that has to be padded is not rolled at all if one window spans either axis (the authors).
        """
        if self.always_shifts:
            return self.shift
        spanned = [n <= w for n, w in zip(size, self.window, strict=True)]
        if any(spanned) and is_cut(size, self.window):
            return 0, 0
        return 0 if spanned[0] else self.shift[0], 0 if spanned[1] else self.shift[1]

    def mask_at(self, size: Pair, like: Tensor) -> Tensor | None:
        if size == self.size:
            return self.attn_mask
        key = size, like.device, like.dtype
        if key in self.masks:
            return self.masks[key]
        with torch.inference_mode(False), torch.no_grad():  # a step with gradients may find it
            mask = self.make_mask(size, like.device, like.dtype)
        if mask is None or type(mask) is Tensor:  # not one that has no values
            if len(self.masks) >= NUM_SIZES:
                self.masks.clear()
            self.masks[key] = mask
        return mask

    def make_mask(self, size: Pair, device: torch.device, dtype: torch.dtype) -> Tensor | None:
        """What is added to the scores in the windows of a map, (window, token, token); None if all see each other.

        Windows that the roll brought over an edge fall into parts that do not see each other. The rest of a window that
        is larger than the map is not seen either; other padding is, as in the authors' code.
        """
        shift = self.shift_at(size)
        larger = [n < w and not self.always_shifts for n, w in zip(size, self.window, strict=True)]
        if not any(shift) and not any(larger):
            return None
        parts = []
        for n, w, s, hides in zip(size, self.window, shift, larger, strict=True):
            place = torch.arange(n + -n % w, device=device)
            crossed = (place >= len(place) - w).long() + (place >= len(place) - s)
            parts.append(crossed if s else (place >= n).long() if hides else torch.zeros_like(place))
        part = (3 * parts[0][:, None] + parts[1])[None, :, :, None]
        part = window_partition(part, self.window).flatten(1)
        return torch.where(part[:, None] == part[:, :, None], 0.0, APART).to(dtype)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "masks": {}}  # a copy may live where there are no values


def is_cut(size: Pair, window: Pair) -> bool:
    """Whether the edge of a map cuts its last windows."""
    return any(n % w for n, w in zip(size, window, strict=True))


def open_swin(swin: SwinTransformer) -> Parts:
    rows, columns = swin.patch_embed.grid_size
    stages: list[tuple[nn.Module | None, list[nn.Module]]] = []
    revised = False
    for stage in swin.layers:
        if not isinstance(stage.downsample, nn.Identity):
            rows, columns = (rows + 1) // 2, (columns + 1) // 2
        size = rows, columns
        revised |= any(tuple(b.input_resolution) != size or is_cut(size, b.window_size) for b in stage.blocks)
        stages.append((stage.downsample, [SwinBlock(block, size) for block in stage.blocks]))
    stem = shared(swin.patch_embed)
    stem.strict_img_size = False  # blocks follow the maps, and patches any image that is made of them
    patch = tuple(stem.patch_size)
    return parts_of(swin, stages, stem=stem, steps=Steps(of=patch, least=patch), revised=revised)


def open_as_0_1(swin: SwinTransformer) -> Parts:
    """With timm's own blocks, as version 0.1 ran them."""
    stages = [(stage.downsample, list(stage.blocks)) for stage in swin.layers]
    return parts_of(swin, stages, stem=swin.patch_embed, steps=None, revised=False)


def resize_keeping_windows(swin: Any, size: Pair) -> None:
    """Set the patch embedding to an image size; opened blocks follow the maps."""
    swin.patch_embed.set_input_size(img_size=size)


def resize_plain(swin: Any, size: Pair) -> None:
    """Set timm's own network to an image size with its windows as they are.

    Raises CannotMerge where it then computes something else than the opened one, and leaves it as it is.
    """
    windows = windows_of(swin)
    grid = [n // patch for n, patch in zip(size, swin.patch_embed.patch_size, strict=True)]
    for number, window in enumerate(windows):
        rows, columns = (-(-n // 2**number) for n in grid)
        if is_cut((rows, columns), window):
            raise CannotMerge(
                f"at {size[0]} x {size[1]} pixels stage {number + 1} has {rows} x {columns} places, which windows of "
                f"{window[0]} x {window[1]} do not fill; there timm's own Swin mixes opposite borders. Merge at a size "
                f"that they fill, or export the whole model instead (sidetune export)"
            )
    swin.set_input_size(img_size=size, **built_with(swin))


def built_with(swin: Any) -> dict[str, Any]:
    windows = windows_of(swin)
    return {"window_size": windows if len(set(windows)) > 1 else windows[0]}


def windows_of(swin: Any) -> list[Pair]:
    """Rows and columns of a window, by stage."""
    return [stage.blocks[0].window_size for stage in swin.layers]


def parts_of(
    swin: SwinTransformer,
    stages: list[tuple[nn.Module | None, list[nn.Module]]],
    *,
    stem: nn.Module,
    steps: Steps | None,
    revised: bool,
) -> Parts:
    return staged_parts(
        SWIN,
        stem=stem,
        stages=stages,
        norm=swin.norm,
        norm_first=True,
        global_pool=swin.head.global_pool,
        layout=Layout(),
        steps=steps,
        revised=revised,
    )


SWIN = Family(
    name="swin",
    open=open_swin,
    staged=True,
    roles={
        "attention_norm": "norm1",
        "attention": "attn",
        "qkv": "attn.qkv",
        "projection": "attn.proj",
        "mlp_norm": "norm2",
        "mlp": "mlp",
        "fc1": "mlp.fc1",
        "fc2": "mlp.fc2",
    },
    mlp_branch=("norm2", "mlp"),
    sized=True,
    resize=resize_keeping_windows,
    resize_plain=resize_plain,
    built_with=built_with,
)
SWIN = replace(SWIN, as_0_1=replace(SWIN, open=open_as_0_1, resize=resize_by_timm, resize_plain=resize_by_timm))
