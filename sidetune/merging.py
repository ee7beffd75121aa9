"""Folding what was trained into a plain network of timm's, which then runs at the plain network's speed."""

from __future__ import annotations

from typing import Any

import timm
import torch
from timm.models.eva import Eva
from torch import nn

from sidetune.backbones import FAMILIES, family_named
from sidetune.backbones.eva import unfold_biases
from sidetune.backbones.held import is_low
from sidetune.backbones.structure import shared
from sidetune.backbones.swin import resize_plain
from sidetune.errors import CannotMerge
from sidetune.methods.method import Folds
from sidetune.seam.joined import Joined


@torch.no_grad()
def merge(model: Joined, into: Any = None) -> nn.Module:
    """A plain timm network with the model's head, computing the same logits.

    It is made by the backbone's architecture; for a backbone that was a module of the caller's, pass a network of the
    same shape as `into`, whose weights are overwritten. Raises CannotMerge for methods that leave something beside the
    blocks (dtl, vpt), or in them what is no linear change of their weights (adapter); logits of a random image tell.
    """
    side = model.suffix.side
    if side.reads or side.writes:
        raise CannotMerge(
            f"{type(model.method).__name__} adds a side network that is no linear change of the backbone's weights, so "
            f"it cannot be folded into them; export the whole model instead (sidetune export)"
        )
    source = merged_tensors(model)
    num_classes = model.head.out_features
    if into is None:
        if not model.card.architecture:
            raise ValueError("the backbone has no timm architecture; pass a network of its shape as into=")
        pooling = pooling_of(model)
        into = timm.create_model(
            model.card.architecture, num_classes=num_classes, **({"global_pool": pooling} if pooling else {})
        )
    else:
        into.reset_classifier(num_classes)
    if model.card.revised:
        resize_plain(into, model.card.image_size)
    elif hasattr(into, "set_input_size"):
        into.set_input_size(img_size=model.card.image_size)
    parts = FAMILIES[type(into)].open(into)
    target = {
        f"{part}.{name}": t
        for part, module in parts.named_parts(model.suffix.pool_name)
        for name, t in module.state_dict().items()
    }
    if differing := sorted(target.keys() ^ source.keys()):
        raise CannotMerge(
            f"the plain network and the adapted one differ in what they hold: {', '.join(differing[:4])}; what "
            f"stands in for a layer needs a function merge() that gives a plain one"
        )
    for name, tensor in source.items():
        target[name].copy_(tensor)
    if isinstance(into, Eva):
        unfold_biases(into, parts.blocks)
    head, own, final = into.get_classifier(), model.head, model.task.final(model.head)
    head.weight.copy_(final.weight)
    head.bias.copy_(final.bias)
    model.head = final
    try:
        check_same(model, into.eval())
    finally:
        model.head = own
    return into


def pooling_of(model: Joined) -> str | None:
    """What timm builds the network with (`global_pool=`) to pool as the model does; None for its own."""
    return family_named(model.card.family).timm_pools.get(model.suffix.pool_name or "")


def check_same(model: Joined, plain: nn.Module) -> None:
    """Raise CannotMerge if the plain network's logits are not the model's, up to the rounding of its type."""
    image = torch.randn(1, 3, *model.card.image_size, generator=torch.Generator().manual_seed(0))
    modes = [(m, m.training) for m in model.modules()]
    adapted = model.eval()(image.to(model.device))
    for module, training in modes:
        module.training = training
    expected = adapted.float().cpu()
    found = plain(image.to(next(plain.parameters()).device)).float().cpu()
    difference, largest = (found - expected).abs().max(), torch.maximum(found.abs().max(), expected.abs().max())
    if not (difference.isfinite() and difference <= (0.3 if is_low(model.dtype) else 1e-2) * largest):
        raise CannotMerge(
            f"the plain network with the method folded into it gives other logits (off by {difference:.1g}), so "
            f"something was replaced that weights do not tell, such as an activation; export the whole model instead"
        )


def merged_tensors(model: Joined) -> dict[str, torch.Tensor]:
    """Every tensor of stem, blocks, transitions and pooling by the names of `Parts.named_parts`, wraps folded in."""
    tensors: dict[str, torch.Tensor] = {}
    for half in (model.prefix, model.suffix):
        if half is None:
            continue
        for name, child in half.named_children():
            if name == "side" or child is None:
                continue
            name = {"pools": ""}.get(name, name)
            plain = fold(child)
            for inner, tensor in plain.state_dict().items():
                full = f"{name}.{inner}" if name else f"pool.{inner.partition('.')[2]}"
                tensors[full] = tensor
    return tensors


def fold(module: nn.Module) -> nn.Module:
    """A copy in which what was put around layers is folded into them, and rounded layers are plain ones."""
    plain = shared(module)
    for name, layer in reversed(list(plain.named_modules())):  # what is wrapped comes before its wrap
        if isinstance(layer, Folds):
            plain.set_submodule(name, layer.merge())
    return plain
