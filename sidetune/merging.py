"""Folding what was trained into a plain network of timm's, which then runs at the plain network's speed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import timm
import torch
from torch import nn

from sidetune.backbones import FAMILIES, Family, Parts, family_named, family_of
from sidetune.backbones.held import is_low
from sidetune.backbones.structure import shared
from sidetune.errors import CannotMerge
from sidetune.heads.linear import LinearHead
from sidetune.methods.method import Folds
from sidetune.seam.joined import Joined
from sidetune.seam.readout import Pooled


@torch.no_grad()
def merge(model: Joined, into: Any = None) -> nn.Module:
    """A plain timm network with the model's head, computing the same logits.

    It is made by the backbone's architecture; for a backbone that was a module of the caller's, pass a network of the
    same shape as `into`, whose weights are overwritten. Raises CannotMerge for methods that leave something beside the
    blocks (dtl, vpt), or in them what is no linear change of their weights (adapter); logits of a random image tell.
    And for heads that are more than a linear layer on what the backbone pools.
    """
    side = model.suffix.side
    if side.reads or side.writes:
        raise CannotMerge(
            f"{type(model.method).__name__} adds a side network that is no linear change of the backbone's weights, so "
            f"it cannot be folded into them; export the whole model instead (sidetune export)"
        )
    final = linear_head(model)
    source = merged_tensors(model)
    if into is None:
        if not model.card.architecture:
            raise ValueError("the backbone has no timm architecture; pass a network of its shape as into=")
        pooling = pooling_of(model)
        into = timm.create_model(
            model.card.architecture, num_classes=final.out_features, **({"global_pool": pooling} if pooling else {})
        )
    else:
        check_class(into, model)
        into.reset_classifier(final.out_features)
    family = family_of(model.card)
    family.resize_plain(into, model.card.image_size)
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
    shapes = {name: (tuple(t.shape), tuple(source[name].shape)) for name, t in target.items()}
    if misfit := [f"{name} {found}, not {wanted}" for name, (found, wanted) in shapes.items() if found != wanted]:
        raise CannotMerge(f"the plain network is of another shape than the model's: {', '.join(misfit[:4])}")
    for name, tensor in source.items():
        target[name].copy_(tensor)
    unfold(into, parts, family, target)
    head, own = into.get_classifier(), model.head
    if not isinstance(head, nn.Linear):
        raise CannotMerge(
            f"a {type(into).__name__} ends in a {type(head).__name__}, where the model has a linear layer; export the "
            f"whole model instead (sidetune export)"
        )
    head.weight.copy_(final.weight)
    head.bias.copy_(final.bias)
    model.head = final
    try:
        check_same(model, into.eval())
    finally:
        model.head = own
    return into


def linear_head(model: Joined) -> LinearHead:
    """The head whose outputs are in the answers' own units. Raises CannotMerge for one of another form than a plain
    network ends in."""
    final = model.task.final(model.head)
    task, name = type(model.task).__name__, type(final).__name__
    otherwise = "export the whole model instead (sidetune export)"
    if not isinstance(final, LinearHead) or type(final).forward is not LinearHead.forward:
        raise CannotMerge(
            f"the head of {task}, a {name}, is more than the linear layer that a plain network of timm's ends in; "
            f"{otherwise}, or have the task's final(head) give a LinearHead, where one computes the same"
        )
    if not isinstance(final.readout, Pooled):
        raise CannotMerge(
            f"the head of {task} reads {final.readout.tap} by {type(final.readout).__name__}, and a plain network of "
            f"timm's the backbone's own pooling; {otherwise}"
        )
    return final


def check_class(into: nn.Module, model: Joined) -> None:
    """Raise ValueError for a network of another family than the model's backbone."""
    if FAMILIES.get(type(into)) != model.card.family:
        fitting = " or a ".join(cls.__name__ for cls, family in FAMILIES.items() if family == model.card.family)
        raise ValueError(f"into= must be of the backbone's own class, a {fitting}, got a {type(into).__name__}")


def unfold(into: nn.Module, parts: Parts, family: Family, tensors: Mapping[str, torch.Tensor]) -> None:
    """Give a plain network what its opened parts hold in tensors of their own. Raises CannotMerge where its family does
    not say how."""
    if family.unfold is not None:
        return family.unfold(into, parts.blocks)
    held = {t.data_ptr() for t in into.state_dict().values()}
    if apart := [name for name, t in tensors.items() if t.data_ptr() not in held]:
        raise CannotMerge(
            f"opened, a {type(into).__name__} holds {', '.join(apart[:4])} in tensors of their own; the family "
            f"{family} has to say how they go back (unfold=), or export the whole model instead (sidetune export)"
        )


def built_with(model: Joined, plain: nn.Module) -> dict[str, Any]:
    """With what timm builds the network that `merge` gave (`timm.create_model(architecture, ...)`)."""
    family, pooling = family_named(model.card.family), pooling_of(model)
    size = {"img_size": model.card.image_size} if family.sized else {}
    pool = {"global_pool": pooling} if pooling else {}
    return {"num_classes": linear_head(model).out_features, **size, **family.built_with(plain), **pool}


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
