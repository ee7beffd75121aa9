"""What a method is: a frozen set of choices that, shown a backbone, says what is added to it and what is trained.

Three ingredients, freely combined: a *side network* that reads the inputs of blocks and writes to outputs of blocks,
*wraps* that replace sub-layers inside blocks, and a rule for which of the backbone's own parameters are *trained*.
The frozen depth follows from them (`sidetune.model`); it is never stated.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn

from sidetune.backbones.backbone import Backbone
from sidetune.backbones.family import Family
from sidetune.errors import MethodRefused
from sidetune.heads.linear import HeadStart
from sidetune.seam.adaptation import (
    Adaptation as Adaptation,
)
from sidetune.seam.adaptation import (
    Folds as Folds,
)
from sidetune.seam.adaptation import (
    Make as Make,
)
from sidetune.seam.adaptation import (
    SideNetwork as SideNetwork,
)
from sidetune.seam.adaptation import (
    State as State,
)
from sidetune.seam.adaptation import (
    Wraps as Wraps,
)
from sidetune.seam.adaptation import (
    nothing as nothing,
)
from sidetune.seam.readout import Readout, native
from sidetune.seam.squares import Measured


@dataclass(frozen=True, kw_only=True)
class Method(ABC):
    """The choices of a method. Subclasses add theirs as fields and check them in `__post_init__`."""

    starts_as_identity: ClassVar[bool] = True
    """Whether the adapted backbone computes exactly what the plain one does before the first step."""

    lr: float = 1e-3
    """The learning rate used where a recipe names none."""
    pool: str = "native"
    """How the last block's output becomes one vector: `native` (as pretrained), `mean` (of the patches, then norm),
    `token` (norm, then class token)."""
    head_start: HeadStart = "normal"
    """The head's weights before the first step: `normal` (of 0.02, truncated), `zero`, `kaiming` (normal of
    sqrt(2 / classes)). Its bias is zero."""

    def readout(self, backbone: Backbone) -> Readout:
        """What the method suggests to tasks that read one vector an image. Raises ValueError for a pooling that does
        not exist here."""
        return native(backbone, self.pool)

    @abstractmethod
    def adapt(self, backbone: Backbone) -> Adaptation:
        """Make the trainable parts for a backbone. Raises ValueError where a choice does not fit it."""

    def worth_trying(self, backbone: Backbone) -> Mapping[str, Sequence[int]]:
        """Choices that may be left to validation images (`method.k=auto`), with the values to try."""
        return {}

    def prepare(self, backbone: Backbone, batches: Iterable[tuple[Tensor, Tensor]], num_classes: int) -> Method:
        """The method to adapt with, after a look at training images: this one, unless it has something to find out.

        `batches` are (normalised images, labels) on the device to compute on; those not asked for are never made.
        """
        return self

    def refuses(self, family: Family) -> str | None:
        """Why the method makes no sense on a family of backbones, by what the family can do and has; None where it
        does."""
        return None

    @property
    def num_shown(self) -> int:
        """How many training images the method looks at before the first step."""
        return 0

    def begin(self, side: SideNetwork | None, blocks: Mapping[int, nn.Module], measured: Measured) -> None:
        """Set the start of what is trained by what is measured on `num_shown` training images.

        `blocks` are the plain backbone's; nothing but the side network's values may change.
        """
        raise NotImplementedError(f"{type(self).__name__} wants {self.num_shown} images and does not say what for")


def check_suits(method: Method, backbone: Backbone) -> None:
    """Raise MethodRefused, with the reason, where the method makes no sense."""
    if reason := method.refuses(backbone.family):
        raise MethodRefused(f"{type(method).__name__} does not work on a {backbone.family} backbone: {reason}")


def check_called(method: Method, backbone: Backbone, part: str, layers: Iterable[str]) -> None:
    """Raise MethodRefused where a part of the backbone runs without calling layers that a method puts something in
    place of."""
    called = backbone.called[part]
    if passed := [layer for layer in layers if layer not in called]:
        raise MethodRefused(
            f"{type(method).__name__} does not work on this {backbone.family} backbone: it puts something in place of "
            f"{', '.join(passed)}, which {part} computes without calling as a module, so that it would never run; the "
            f"family has to open blocks that call it (sidetune.check_family tells which layers are called)"
        )


def check_positive(method: Method, *names: str) -> None:
    """Raise ValueError for a field that is below 1."""
    for name in names:
        value = getattr(method, name)
        if value is not None and value < 1:
            raise ValueError(f"{name} must be at least 1, got {value}")
