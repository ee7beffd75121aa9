"""How h goes on from one stage of a backbone to the next, wider and with fewer places (DTL journal, section 5.3)."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sidetune.backbones.layout import Layout
from sidetune.backbones.sizes import Size
from sidetune.methods.hidden import Hidden, form, recomputed


class Convolution(nn.Module):
    """A bias-free convolution of as many pixels as become one (2 x 2 mostly), in groups.

    It is linear, so h stays in factors: pixels that become one lay their codes side by side, and C takes the kernel in.
    Where the next stage is no whole fraction of this one, zeros stand behind the last row and column, or the last is
    left out, as the backbone has it: maps (of `size`, where that is given) become `next_size`, and those of another
    size are rounded up or down, or refused where `rounds_up` is None.
    """

    def __init__(
        self,
        width: int,
        next_width: int,
        next_size: Size,
        stride: int,
        groups: int,
        *,
        size: Size | None = None,
        rounds_up: bool | None = None,
    ) -> None:
        super().__init__()
        self.next_size, self.stride, self.groups = next_size, stride, groups
        self.size, self.rounds_up = size, rounds_up
        self.weight = nn.Parameter(torch.empty(next_width, width // groups, stride, stride))
        nn.init.kaiming_uniform_(self.weight, a=math.sqrt(5))

    def forward(self, state: Hidden) -> Hidden:
        if state.h is None and state.num_codes * self.stride**2 <= len(self.weight):
            code = self.side_by_side(torch.cat(state.codes, dim=-1))
            return Hidden(state.stage + 1, (code,), (self.joined(torch.cat(state.columns, dim=1)),))
        return Hidden(state.stage + 1, h=recomputed(self.convolved, state))

    def size_after(self, size: Size) -> Size:
        """Rows and columns in the next stage. Raises ValueError for maps that cannot go on."""
        if self.size is None or size == self.size:
            return self.next_size
        if self.rounds_up is None:
            raise ValueError(
                f"h goes on to the next stage from maps of {self.size[0]} x {self.size[1]} places, got "
                f"{size[0]} x {size[1]}; give images of the size that the backbone was opened for"
            )
        rows, columns = (-(-n // self.stride) if self.rounds_up else n // self.stride for n in size)
        return rows, columns

    def fitted(self, x: Tensor) -> Tensor:
        """(batch, row, column, ...) with rows and columns that the stride divides into the next stage's."""
        size = x.shape[1], x.shape[2]
        rows, columns = (n * self.stride - have for n, have in zip(self.size_after(size), size, strict=True))
        return F.pad(x, (0, 0, 0, columns, 0, rows)) if rows or columns else x

    def side_by_side(self, code: Tensor) -> Tensor:
        """(batch, row, column, d') -> (batch, next row, next column, stride * stride * d')"""
        by = self.stride
        pixels = self.fitted(code).unflatten(2, (-1, by)).unflatten(1, (-1, by))
        return pixels.transpose(2, 3).flatten(3)

    def joined(self, columns: Tensor) -> Tensor:
        """(d, d') -> (next d, stride * stride * d')"""
        kernel = self.weight.unflatten(0, (self.groups, -1))
        grouped = columns.unflatten(0, (self.groups, -1))
        return torch.einsum("goiyx,gir->goyxr", kernel, grouped).flatten(0, 1).flatten(1)

    def convolved(self, state: Hidden) -> Tensor:
        maps = self.fitted(form(state)).movedim(-1, 1)
        return F.conv2d(maps, self.weight.to(maps.dtype), stride=self.stride, groups=self.groups).movedim(1, -1)


class Transition(nn.Module):
    """The module that stands between the backbone's own stages, on h. It holds a norm, so it takes no factors, and does
    not send zero to zero."""

    def __init__(self, module: nn.Module, layout: Layout) -> None:
        super().__init__()
        self.module, self.layout = module, layout

    def forward(self, state: Hidden) -> Hidden:
        return Hidden(state.stage + 1, h=recomputed(self.passed, state))

    def passed(self, state: Hidden) -> Tensor:
        return self.layout.to_side(self.module(self.layout.from_side(form(state))))
