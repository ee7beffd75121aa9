"""What a method is: a frozen set of choices that, shown a backbone, says what is added to it and what is trained.

Three ingredients, freely combined: a *side network* that reads the inputs of blocks and writes to outputs of blocks,
*wraps* that replace sub-layers inside blocks, and a rule for which of the backbone's own parameters are *trained*.
The frozen depth follows from them (`sidetune.model`); it is never stated.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, runtime_checkable

from torch import Tensor, nn

from sidetune.backbones.backbone import Backbone
from sidetune.tasks.classification import HeadStart

if TYPE_CHECKING:
    from sidetune.model import AdaptedModel

State = Any
"""What a side network carries from block to block (DTL's h)."""


class SideNetwork(nn.Module):
    """A small trainable network beside the blocks. This base reads and writes nothing."""

    reads: tuple[int, ...] = ()
    """Blocks, counted from 1, whose input is read."""
    writes: tuple[int, ...] = ()
    """Blocks whose output is changed; 0 is the stem. Blocks up to the first of them stay frozen."""

    def read(self, block: int, x: Tensor, state: State) -> State:
        """Take in the input `x` of a block; `state` is None at first. Called in order for every block in `reads`."""
        return state

    def write(self, block: int, z: Tensor, state: State) -> Tensor:
        """Return what goes on in place of the output `z` of a block. Called for every block in `writes`."""
        return z


Make = Callable[[Any], nn.Module]
"""Given a sub-layer, its replacement."""
Wraps = Mapping[Any, Make]
"""By name of a sub-layer within its part (`attn.qkv`): what makes its replacement. A tuple names sub-layers that run
one straight after the other and are replaced by one; `Make` is given them as an `nn.Sequential`."""


@runtime_checkable
class Folds(Protocol):
    """A replacement that can be folded away again."""

    def merge(self) -> nn.Module:
        """A plain layer that computes the same. Raises CannotMerge where there is none."""
        ...


def nothing(_: str) -> bool:
    return False


@dataclass(frozen=True, kw_only=True, eq=False)
class Adaptation:
    """What a method adds to one backbone."""

    side: SideNetwork = field(default_factory=SideNetwork)
    wraps: Mapping[Any, Wraps] = field(default_factory=dict)
    """By block, or by name of another part (`stem`, `transitions.3`, `pool`): what is replaced in it. Parts not named
    stay as they are."""
    trains: Callable[[str], bool] = nothing
    """Which backbone parameters are trained, by name (`blocks.7.attn.qkv.bias`, `stem...`, `pool.norm.weight`)."""
    gather: int | None = None
    """Go on from the sum of taps z_0 + ... + z_k, this being k, in place of the last block's output."""
    pool: nn.Module | None = None
    """What makes one vector an image in place of the backbone's own pooling; its parameters are trained."""
    num_units: int = 0
    """Minimal structural units inserted into the backbone (DTL, AAAI 2024, table 1)."""

    def wraps_in(self, part: str) -> Wraps:
        """What is replaced in a part, by its name in `Parts.named_parts`."""
        place, _, number = part.partition(".")
        return self.wraps.get(int(number) if place == "blocks" else part, {})


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

    def refuses(self, family: str) -> str | None:
        """Why the method makes no sense on a family of backbones; None where it does."""
        return None

    @property
    def num_shown(self) -> int:
        """How many training images the method looks at before the first step."""
        return 0

    def begin(self, model: AdaptedModel, examples: Sequence[tuple[Tensor, int]]) -> None:
        """Look at `num_shown` images (3, height, width) and their labels and set the start of what is trained."""
        raise NotImplementedError(f"{type(self).__name__} wants {self.num_shown} images and does not say what for")


def check_positive(method: Method, *names: str) -> None:
    """Raise ValueError for a field that is below 1."""
    for name in names:
        value = getattr(method, name)
        if value is not None and value < 1:
            raise ValueError(f"{name} must be at least 1, got {value}")
