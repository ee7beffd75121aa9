"""What is trained: one readable dict of names."""

from __future__ import annotations

import dataclasses

from sidetune.backbones.backbone import Backbone
from sidetune.errors import unknown
from sidetune.methods.adapter import Adapter, ZeroAdapter
from sidetune.methods.adaptformer import AdaptFormer
from sidetune.methods.arc import ARC
from sidetune.methods.dtl import DTL
from sidetune.methods.dtlv2 import DTLv2
from sidetune.methods.fact import FacT
from sidetune.methods.fitting import check_fits, check_is_method
from sidetune.methods.full import BitFit, Full, Partial
from sidetune.methods.last import LAST
from sidetune.methods.linear import Linear
from sidetune.methods.lora import LoRA
from sidetune.methods.lorand import LoRand
from sidetune.methods.lst import LST
from sidetune.methods.method import Adaptation, Method, SideNetwork, check_suits
from sidetune.methods.mist import MIST
from sidetune.methods.noah import NOAH
from sidetune.methods.rlrr import RLRR
from sidetune.methods.spt import SPT
from sidetune.methods.ssf import SSF
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
    "adapter": Adapter(),
    "adapter-vpt": ZeroAdapter(),
    "adaptformer": AdaptFormer(),
    "ssf": SSF(),
    "fact-tt": FacT(form="tt", rank=16),
    "fact-tk": FacT(form="tk", rank=32),
    "arc": ARC(),
    "rlrr": RLRR(),
    "spt-lora": SPT(),
    "dtl": DTL(),
    "dtl+": DTL(fusion="depthwise"),
    "dtlv1": DTL(fusion="depthwise"),
    "dtlv2": DTLv2(),
    "dtlv2-ls": DTLv2(share="linear"),
    "mist": MIST(),
    "lst": LST(),
    "last": LAST(),
    "lorand": LoRand(),
    "noah": NOAH(),
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
    check_is_method(method)
    fields = [f.name for f in dataclasses.fields(method)]
    for name in changes:
        if name not in fields:
            raise unknown(f"choice of {type(method).__name__}", name, fields)
    return dataclasses.replace(method, **changes)  # type: ignore[arg-type]


def adaptation(method: Method, backbone: Backbone) -> Adaptation:
    """What the method adds to the backbone.

    Raises MethodRefused, with the reason, where that makes no sense, ValueError where it does not fit.
    """
    check_suits(method, backbone)
    return check_fits(method.adapt(backbone), method, backbone)
