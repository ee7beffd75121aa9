"""On which device and in which type a step computes."""

from __future__ import annotations

from typing import Any

import torch

from sidetune.recipe import Precision

TYPES: dict[Precision, torch.dtype] = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def best_device() -> torch.device:
    """A GPU where there is one."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def resolve(precision: Precision, device: torch.device) -> Precision:
    """What `auto` means on a device. Raises ValueError for fp16 on a CPU, where it is slow and overflows."""
    if precision == "fp16" and device.type == "cpu":
        raise ValueError("precision fp16 is for GPUs; use bf16 or fp32 on a CPU")
    if precision != "auto":
        return precision
    if device.type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"
    return "bf16" if device.type == "cpu" and cpu_has_bf16() else "fp32"


def cpu_has_bf16() -> bool:
    """Whether the CPU multiplies bf16 matrices itself; torch before 2.10 cannot tell."""
    capabilities = cpu_capabilities()
    return any(capabilities.get(name) for name in ("avx512_bf16", "amx_bf16", "bf16"))


def cpu_capabilities() -> dict[str, Any]:
    return dict(torch.cpu.get_capabilities()) if hasattr(torch.cpu, "get_capabilities") else {}
