"""Where a network's weights come from: timm's hub, a local file, a registry package, or a module in hand."""

from __future__ import annotations

import difflib
import hashlib
import sys
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import timm
import torch
from torch import Tensor, nn

from sidetune.backbones.checkpoints import check_whole, read_state
from sidetune.backbones.packaged import PACKAGED, packaged_weights
from sidetune.errors import DataWarning

SUFFIXES = (".safetensors", ".npz", ".pth", ".pt", ".bin", ".ckpt", ".pth.tar", ".pt.tar")

# (width, patch) of the original JAX Vision Transformers -> timm's architecture
JAX_VITS = {
    (192, 16): "vit_tiny_patch16_224",
    (384, 16): "vit_small_patch16_224",
    (384, 32): "vit_small_patch32_224",
    (768, 8): "vit_base_patch8_224",
    (768, 16): "vit_base_patch16_224",
    (768, 32): "vit_base_patch32_224",
    (1024, 16): "vit_large_patch16_224",
    (1024, 32): "vit_large_patch32_224",
    (1280, 14): "vit_huge_patch14_224",
}


def digest_of(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 over names, types, shapes and bytes, independent of order."""
    sha = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        sha.update(f"{name}:{tensor.dtype}:{tuple(tensor.shape)};".encode())
        sha.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return sha.hexdigest()


def is_file(name: str) -> bool:
    """Whether a backbone's name is a weights file rather than a name of timm's."""
    return name.lower().endswith(SUFFIXES)


def create(name: str, *, architecture: str | None, pretrained: bool) -> nn.Module:
    """A timm network without its classifier, with weights from wherever `name` points."""
    if is_file(name):
        return from_file(Path(name), architecture)
    if name in PACKAGED:
        model = timm.create_model(PACKAGED[name].architecture, num_classes=0)
        if pretrained:
            model.load_state_dict({k: v for k, v in packaged_weights(name).items() if k in model.state_dict()})
        return model
    check_source(name, architecture)
    try:
        model = timm.create_model(name, pretrained=pretrained, num_classes=0)
        if pretrained:
            warn_of_license(name, model)
        return model
    except Exception as e:  # the hub's client has many error types and no common base
        if not pretrained:
            raise
        raise ConnectionError(
            f"the pretrained weights of {name!r} could not be fetched ({type(e).__name__}: {e}). Without a network, "
            f"pass a weights file, or use a packaged backbone: {', '.join(PACKAGED)}"
        ) from e


FREE = ("apache-2.0", "mit", "bsd-3-clause", "cc-by-4.0", "unknown")
"""Licences, as timm names them, that limit no use, and what says nothing."""


def warn_of_license(name: str, model: nn.Module) -> None:
    """Say it where fetched weights are under a licence that limits what they may be used for."""
    config = getattr(model, "pretrained_cfg", None) or {}
    if (told := config.get("license") or FREE[-1]) not in FREE:
        where = f" ({config['origin_url']})" if config.get("origin_url") else ""
        note = f"the weights of {name} are under {told}{where}, which is no free licence"
        warnings.warn(f"{note}: what is trained on them is bound by it", DataWarning, stacklevel=4)


def check_source(name: str, architecture: str | None) -> None:
    """Raises ValueError for a name that nothing has, or a file that does not say what it is of, and FileNotFoundError;
    fetches and reads nothing."""
    if is_file(name):
        check_whole(Path(name))
        if architecture is not None and not timm.is_model(architecture):
            near = difflib.get_close_matches(architecture, timm.list_models(), n=3, cutoff=0.5)
            hint = f"did you mean {', '.join(near)}?" if near else "timm.list_models() lists those that exist"
            raise ValueError(f"unknown architecture {architecture!r}; {hint}")
        if architecture is None and not name.endswith(".npz"):
            raise ValueError(
                f"pass architecture='...' (--set architecture=...), a timm name: {Path(name).name} does not say which "
                f"network it fits"
            )
        return
    base, _, tag = name.partition(".")
    if name in PACKAGED or (timm.is_model(name) and (not tag or timm.models.is_model_pretrained(name))):
        return
    known = [*timm.list_models(), *timm.list_pretrained(), *PACKAGED]
    tagged = [known for known in timm.list_pretrained() if known.startswith(f"{base}.")] if tag else []
    near = difflib.get_close_matches(name, tagged or known, n=5, cutoff=0.4)
    raise ValueError(
        f"unknown backbone {name!r}: neither a timm name, nor a packaged one ({', '.join(PACKAGED)}), nor a file "
        f"ending in {', '.join(SUFFIXES)}" + (f". Near: {', '.join(near)}" if near else "")
    )


def from_file(path: Path, architecture: str | None) -> nn.Module:
    """Weights of timm (safetensors or torch), or of the original JAX ViT (npz). Never unpickles code."""
    check_source(str(path), architecture)
    architecture = architecture or jax_architecture(path)
    model = timm.create_model(architecture, num_classes=0)
    try:
        if path.suffix == ".npz":
            model.load_pretrained(str(path))
        else:
            load_checked(model, path)
    except Exception as e:  # damaged and foreign files fail in as many ways as there are readers
        raise ValueError(f"{path} does not hold weights that fit {architecture}: {e}") from e
    return model


def load_checked(model: nn.Module, path: Path) -> None:
    """Load a state dict, renamed by timm where it is the original authors'; a tensor that is missing is an error."""
    own = model.state_dict()
    state = read_state(path, own)
    rename = getattr(sys.modules[type(model).__module__], "checkpoint_filter_fn", None)
    if rename is not None:
        state = rename(state, model)
    if missing := [name for name in own if name not in state and not name.endswith("num_batches_tracked")]:
        raise ValueError(f"{len(missing)} of {len(own)} tensors are missing, such as {', '.join(missing[:3])}")
    model.load_state_dict({**own, **{name: state[name] for name in own if name in state}})


def jax_architecture(path: Path) -> str:
    """The ViT that an original JAX checkpoint holds, from the shape of its patch embedding."""
    try:
        with np.load(path) as file:
            patch, _, _, width = file["embedding/kernel"].shape
    except (KeyError, ValueError, OSError, zipfile.BadZipFile) as e:
        raise ValueError(f"{path} is not an original JAX ViT checkpoint: {e}") from e
    if (width, patch) not in JAX_VITS:
        raise ValueError(f"{path} holds a ViT of width {width} and patch {patch}; pass architecture='...'")
    return JAX_VITS[width, patch]
