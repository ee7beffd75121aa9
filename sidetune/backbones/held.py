"""Frozen weights, held once in the type they compute in; models of one backbone go on sharing them."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from contextlib import AbstractContextManager, nullcontext

import torch
from timm.layers.norm import LayerNorm
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.weak import TensorWeakRef, WeakIdKeyDictionary, WeakTensorKeyDictionary

from sidetune.backbones.eight_bit import Codes, EightBitLinear, hold_in_eight_bits


class Copies:
    """What is made of a backbone's weights for its models and is in use by one of them: each once."""

    def __init__(self) -> None:
        self.tensors: WeakIdKeyDictionary = WeakTensorKeyDictionary()
        """By original: its copies of other types and on other devices."""
        self.codes: Codes = WeakTensorKeyDictionary()

    def of(self, t: Tensor, device: torch.device, dtype: torch.dtype) -> Tensor:
        """The tensor itself if it is so already, else the one copy of it that is."""
        if t.device == device and t.dtype == dtype:
            return t
        known = self.tensors.setdefault(t, {})
        copy: Tensor | None = known[device, dtype]() if (device, dtype) in known else None
        if copy is None:
            copy = t.detach().to(device, dtype)
            copy = nn.Parameter(copy, requires_grad=False) if isinstance(t, nn.Parameter) else copy
            known[device, dtype] = TensorWeakRef(copy)
        return copy

    def __deepcopy__(self, memo: object) -> Copies:
        return self  # a copied model shares what models share

    def __reduce__(self) -> tuple[type[Copies], tuple[()]]:
        return Copies, ()  # in another process nothing is in use yet


def hold(
    module: nn.Module,
    device: torch.device,
    dtype: torch.dtype,
    copies: Copies,
    weights: str = "same",
    keep: Collection[nn.Module] = (),
) -> None:
    """Move a module to a device, and what is frozen in it to a floating-point type. With `weights` "int8", frozen
    linear layers are rounded to 8 bits first.

    Frozen tensors are replaced by `copies`, not changed: whoever else holds the original keeps it, and it is gone when
    nobody does.
    Trained parameters keep their type, and with them the vectors of the same layer (a norm computes in one type);
    BatchNorms, whose statistics need it, keep theirs, and so do the scales of 8-bit weights, and the modules in `keep`.
    """
    if weights == "int8":
        hold_in_eight_bits(module, copies.codes)
    for part in module.modules():
        whole = isinstance(part, (_BatchNorm, EightBitLinear)) or part in keep
        trains = any(p.requires_grad for p in part.parameters(recurse=False))
        for tensors in (part._parameters, part._buffers):
            for name, t in tensors.items():
                if t is None:
                    continue
                if t.requires_grad:
                    if t.device != device:
                        t.data = t.data.to(device)
                else:
                    changes = t.is_floating_point() and not (whole or (trains and t.ndim <= 1))
                    tensors[name] = copies.of(t, device, dtype if changes else t.dtype)  # type: ignore[assignment]


class InTypeOfStream(nn.LayerNorm):
    """A LayerNorm that keeps and gives the type of what comes; its sums are float32 inside either way.

    By autocast norms do so on CPUs, but take, keep and give float32 on GPUs: three times the memory.
    """

    def forward(self, x: Tensor) -> Tensor:
        weight, bias = (None if p is None else p.to(x.dtype) for p in (self.weight, self.bias))
        with torch.autocast(x.device.type, enabled=False):
            return F.layer_norm(x, self.normalized_shape, weight, bias, self.eps)


def keep_type_of_stream(norms: Iterable[nn.Module]) -> None:
    """Have LayerNorms, PyTorch's and timm's own, compute as `InTypeOfStream`; others are left."""
    for norm in norms:
        if type(norm) in (nn.LayerNorm, LayerNorm):
            norm.__class__ = InTypeOfStream


def is_low(dtype: torch.dtype) -> bool:
    return dtype in (torch.bfloat16, torch.float16)


def natively(device: torch.device, dtype: torch.dtype) -> AbstractContextManager[object]:
    """For modules that are frozen and held in a low type: they compute in it throughout, norms and sums included."""
    return torch.autocast(device.type, enabled=False) if is_low(dtype) else nullcontext()


def by_autocast(device: torch.device, dtype: torch.dtype) -> AbstractContextManager[object]:
    """For modules with trained parameters; in full precision it leaves the caller's own autocast alone."""
    return torch.autocast(device.type, dtype) if is_low(dtype) else nullcontext()
