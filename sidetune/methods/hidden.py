"""h, the state of a compact side network, in whichever of two forms is the smaller.

Unrolled, h_{i+1} = s C with the *codes* s = [z_1 a_1, ..., z_i a_i] and C = [c_1; ...; c_i]: as many sums of d'
numbers a token as blocks were read, in place of d-wide ones. While the codes are narrower than h they are kept in its
place, and h is made of them where it is wanted. Once they would be wider, h itself is kept.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint


class LowRankMap(nn.Module):
    """w = a c: d -> d' -> d without bias; a starts uniform and c at zero, so that h starts at zero."""

    def __init__(self, width: int, rank: int) -> None:
        super().__init__()
        self.a = nn.Parameter(torch.empty(rank, width))
        self.c = nn.Parameter(torch.zeros(width, rank))
        nn.init.kaiming_uniform_(self.a, a=math.sqrt(5))

    def forward(self, x: Tensor) -> Tensor:
        """(..., d) -> (..., d)"""
        return F.linear(F.linear(x, self.a), self.c)


class Skip(nn.Module):
    """w = 1: what is read is added as it is; for ablation."""

    def forward(self, x: Tensor) -> Tensor:
        return x


class Hidden(NamedTuple):
    """h in the shape of a stage, either in factors or formed."""

    stage: int
    codes: tuple[Tensor, ...] = ()
    """In factors: parts of s in side form, (batch, ..., d') each."""
    columns: tuple[Tensor, ...] = ()
    """What each is multiplied with, (d, d') each."""
    h: Tensor | None = None
    """Formed: (batch, ..., d); there are no codes then."""

    @property
    def num_codes(self) -> int:
        return sum(c.shape[1] for c in self.columns)

    def read(self, x: Tensor, w: LowRankMap | Skip) -> Hidden:
        """h + x w, where x is in side form."""
        if isinstance(w, LowRankMap) and self.h is None and self.num_codes + w.c.shape[1] <= w.c.shape[0]:
            return self._replace(codes=(*self.codes, F.linear(x, w.a)), columns=(*self.columns, w.c))
        new = recomputed(w, x)
        return Hidden(self.stage, h=recomputed(form, self) + new if self.codes or self.h is not None else new)

    def factors(self) -> tuple[Tensor, Tensor]:
        """s and C."""
        s = torch.cat(self.codes, dim=-1)
        return s, torch.cat(self.columns, dim=1).to(s.dtype)


def form(state: Hidden) -> Tensor:
    """h in side form, (batch, ..., d)."""
    return F.linear(*state.factors()) if state.h is None else state.h


def recomputed(function: Callable[..., Tensor], *args: Any) -> Tensor:
    """function(*args), of whose insides nothing is kept for the gradient: it is called again then."""
    if not torch.is_grad_enabled():
        return function(*args)
    result: Tensor = checkpoint(function, *args, use_reentrant=False, preserve_rng_state=False)
    return result
