"""What is trained: one readable dict of names."""

from __future__ import annotations

import dataclasses

from sidetune.backbones.backbone import Backbone
from sidetune.errors import MethodRefused, unknown
from sidetune.methods.dtl import DTL
from sidetune.methods.dtlv2 import DTLv2
from sidetune.methods.full import BitFit, Full, Partial
from sidetune.methods.linear import Linear
from sidetune.methods.lora import LoRA
from sidetune.methods.method import Adaptation, Method, SideNetwork
from sidetune.methods.mist import MIST
from sidetune.methods.vpt import VPT

__all__ = ["METHODS", "Adaptation", "Method", "SideNetwork", "adaptation", "find_method"]

METHODS: dict[str, Method] = {
    "linear": Linear(),
    "partial": Partial(),
    "full": Full(),
    "bitfit": BitFit(),
    "lora": LoRA(),
    "lora-fused": LoRA(fused=True),
    "vpt-shallow": VPT(deep=False),
    "vpt-deep": VPT(deep=True),
    "dtl": DTL(),
    "dtl+": DTL(fusion="depthwise"),
    "dtlv1": DTL(fusion="depthwise"),
    "dtlv2": DTLv2(),
    "dtlv2-ls": DTLv2(share="linear"),
    "mist": MIST(),
    "dtl+*": DTL(fusion="depthwise", first_write=1),
}
"""Presets by name. A method of your own joins with `METHODS["mine"] = Mine()`."""


def find_method(method: str | Method, **changes: object) -> Method:
    """A preset by name, or a method as it is, with fields changed.

    Raises ValueError for an unknown name (the known ones listed) or field.
    """
    if isinstance(method, str):
        if method not in METHODS:
            raise unknown("method", method, METHODS)
        method = METHODS[method]
    fields = [f.name for f in dataclasses.fields(method)]
    for name in changes:
        if name not in fields:
            raise unknown(f"choice of {type(method).__name__}", name, fields)
    return dataclasses.replace(method, **changes)  # type: ignore[arg-type]


def adaptation(method: Method, backbone: Backbone) -> Adaptation:
    """What the method adds to the backbone. Raises MethodRefused, with the reason, where that makes no sense."""
    if reason := method.refuses(backbone.family):
        raise MethodRefused(f"{type(method).__name__} does not work on a {backbone.family} backbone: {reason}")
    return method.adapt(backbone)
