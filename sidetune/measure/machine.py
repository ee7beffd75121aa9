"""Where a number was measured: every result file carries it."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch._subclasses.fake_tensor import unset_fake_temporarily
from torch.nn import functional as F

from sidetune.train.precision import cpu_capabilities


def birth_certificate() -> dict[str, Any]:
    """Machine, versions, commit and command of the running process."""
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": " ".join([Path(sys.argv[0]).name, *sys.argv[1:]]),
        "commit": commit(),
        "cpu": f"{cpu_name()}, {os.cpu_count()} cores, {torch.get_num_threads()} threads",
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "versions": {"python": platform.python_version()} | {p: version(p) for p in ("sidetune", "torch", "timm")},
    }


def cpu_name() -> str:
    return str(cpu_capabilities().get("cpu_name") or platform.processor() or platform.machine())


def commit() -> str | None:
    """The commit of a source checkout, with '+' if files differ from it; None for an installed package."""
    where = Path(__file__).parent
    try:
        found = subprocess.run(
            ["git", "describe", "--always", "--abbrev=10", "--dirty=+"],
            cwd=where,
            capture_output=True,
            text=True,
            check=True,
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return found.stdout.strip()


def library_bytes() -> int:
    """What CUDA's libraries work in from the first matrix product on, forward and backward; 0 without a GPU.

    Some 16 MiB, 72 MiB on data-centre GPUs; found by a product of two small matrices.
    """
    if not torch.cuda.is_available():
        return 0
    torch._C._cuda_clearCublasWorkspaces()
    before = torch.cuda.memory_allocated()
    with unset_fake_temporarily(), torch.enable_grad():
        x = torch.zeros(64, 64, device="cuda", dtype=torch.bfloat16, requires_grad=True)
        F.linear(x, x, x[0]).sum().backward()
        del x
    return torch.cuda.memory_allocated() - before
