"""Methods that train parameters the backbone already has: all, the last blocks, or the biases."""

from dataclasses import dataclass

from sidetune.backbones.backbone import Backbone
from sidetune.methods.method import Adaptation, Method, check_positive


@dataclass(frozen=True, kw_only=True)
class Full(Method):
    """Full fine-tuning."""

    lr: float = 2.5e-5

    def adapt(self, backbone: Backbone) -> Adaptation:
        return Adaptation(trains=lambda name: True)


@dataclass(frozen=True, kw_only=True)
class Partial(Method):
    """The last blocks and what follows them (the final norm). Partial-1 in the VPT paper."""

    num_blocks: int = 1

    def __post_init__(self) -> None:
        check_positive(self, "num_blocks")

    def adapt(self, backbone: Backbone) -> Adaptation:
        if self.num_blocks > backbone.num_blocks:
            raise ValueError(f"num_blocks is {self.num_blocks}, but the backbone has {backbone.num_blocks} blocks")
        last = range(backbone.num_blocks - self.num_blocks + 1, backbone.num_blocks + 1)
        trained = tuple(f"blocks.{i}." for i in last) + ("pool.",)
        return Adaptation(trains=lambda name: name.startswith(trained))


@dataclass(frozen=True, kw_only=True)
class BitFit(Method):
    """Every bias, those of norms and of the patch embedding included (Ben Zaken et al., 2022)."""

    def adapt(self, backbone: Backbone) -> Adaptation:
        return Adaptation(trains=lambda name: name.endswith(".bias"))
