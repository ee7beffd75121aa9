"""Linear probe: nothing but the head is trained; one pooled vector an image crosses the seam."""

from dataclasses import dataclass

from sidetune.backbones.backbone import Backbone
from sidetune.methods.method import Adaptation, Method


@dataclass(frozen=True, kw_only=True)
class Linear(Method):
    lr: float = 3e-2

    def adapt(self, backbone: Backbone) -> Adaptation:
        return Adaptation()
