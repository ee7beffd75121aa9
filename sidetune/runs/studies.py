"""The papers' ablations: which variants of a method are trained beside each other, named after what they vary."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import get_args

from sidetune.backbones import Backbone
from sidetune.errors import unknown
from sidetune.methods import Method
from sidetune.methods.dtl import DTL, Fusion
from sidetune.methods.dtlv2 import DTLv2
from sidetune.methods.last import LAST
from sidetune.methods.linear import Linear
from sidetune.methods.mist import MIST, Block

Variants = Mapping[str, Method]
PLUS = DTL(fusion="depthwise")


def dtl_modules(_: Backbone) -> Variants:
    """Journal, table 7; skip: what is read is added as it is, in place of CSN's low-rank maps."""
    return {
        "linear": Linear(),
        "skip": DTL(maps="skip", theta=False),
        "CSN": DTL(theta=False),
        "CSN + swish": DTL(),
        "skip + swish + dwconv": DTL(maps="skip", fusion="depthwise"),
        "CSN + swish + dwconv": PLUS,
    }


def dtl_fusion(_: Backbone) -> Variants:
    """The operator g (journal, fusion operators)."""
    return {kind: DTL(fusion=kind) for kind in get_args(Fusion)}


def dtl_rank(_: Backbone) -> Variants:
    return {str(rank): replace(PLUS, rank=rank) for rank in (1, 2, 4, 8)}


def dtl_first_write(backbone: Backbone) -> Variants:
    """M from 1 to N in about five steps."""
    num_blocks = backbone.num_blocks
    values = sorted({1, num_blocks // 4 + 1, num_blocks // 2 + 1, 3 * num_blocks // 4 + 1, num_blocks})
    return {str(m): replace(PLUS, first_write=m) for m in values}


def dtlv2_sharing(_: Backbone) -> Variants:
    """Journal: one G for each write, one a stage, or one a stage that is scaled and shifted (L-Share)."""
    return {kind: DTLv2(share=kind) for kind in ("apart", "direct", "linear")}


def dtlv2_connection(_: Backbone) -> Variants:
    """Journal, table of stage connections; for staged networks."""
    kinds = {kind: DTLv2(connection=kind) for kind in ("reset", "backbone", "learned", "full")}
    return {**kinds, **{f"grouped, {size}": DTLv2(connection="grouped", group_size=size) for size in (8, 4, 2, 1)}}


def mist_components(_: Backbone) -> Variants:
    """MIST, table 3."""
    return {
        "linear": Linear(),
        "gather": MIST(layers=0, lr=Linear().lr),  # a linear probe as well
        "LAE": MIST(gather=False),
        "gather + LAE": MIST(),
    }


def mist_blocks(_: Backbone) -> Variants:
    """MIST, table 4."""
    return {f"{kind} x {layers}": MIST(block=kind, layers=layers) for kind in get_args(Block) for layers in (4, 8)}


def mist_k(backbone: Backbone) -> Variants:
    """How many taps are summed: N and fractions of it."""
    return {str(k): MIST(k=k) for k in MIST().worth_trying(backbone)["k"]}


def side_input(backbone: Backbone) -> Variants:
    """MIST, section 10: how many of the last taps a layer of side attention is given, from one to all N + 1."""
    taps = backbone.num_blocks + 1
    return {str(t): LAST(gap=1, layers=1, window=t) for t in sorted({1, 2, taps // 4, taps // 2, taps})}


STUDIES: dict[str, Callable[[Backbone], Variants]] = {
    "dtl-modules": dtl_modules,
    "dtl-fusion": dtl_fusion,
    "dtl-rank": dtl_rank,
    "dtl-first-write": dtl_first_write,
    "dtlv2-sharing": dtlv2_sharing,
    "dtlv2-connection": dtlv2_connection,
    "mist-components": mist_components,
    "mist-blocks": mist_blocks,
    "mist-k": mist_k,
    "side-input": side_input,
}


def find_study(name: str) -> Callable[[Backbone], Variants]:
    if name not in STUDIES:
        raise unknown("study", name, STUDIES)
    return STUDIES[name]
