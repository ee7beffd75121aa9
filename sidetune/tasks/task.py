"""What a task is to everything else: the taps it reads, its head, its loss, its score and its answers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

from PIL import Image
from torch import Tensor, nn

from sidetune.backbones.backbone import Backbone
from sidetune.data.samples import Kind
from sidetune.errors import unknown
from sidetune.methods.method import Method
from sidetune.seam.taps import Need


def check_metric(metric: str, known: Iterable[str]) -> None:
    """Raises ValueError for a metric that a score does not have."""
    if metric not in known:
        raise unknown("metric", metric, known)


@runtime_checkable
class Score(Protocol):
    """How good answers are."""

    @property
    def num_images(self) -> int: ...

    @property
    def values(self) -> Mapping[str, float]:
        """By the name of a metric."""
        ...

    def described(self) -> dict[str, Any]:
        """Everything, for JSON."""
        ...

    def in_words(self) -> str:
        """On a line."""
        ...


@runtime_checkable
class Meter(Protocol):
    """Gathers outputs and targets on the CPU, batch by batch."""

    def add(self, outputs: Tensor, targets: Any) -> None: ...
    def score(self) -> Score: ...


@runtime_checkable
class Answer(Protocol):
    """What a model says of an image."""

    def in_words(self, top: int = 1) -> str: ...

    def described(self) -> dict[str, Any]:
        """For JSON."""
        ...


@runtime_checkable
class Placed(Answer, Protocol):
    """An answer that says something of places in a picture."""

    def at(self, size: tuple[int, int]) -> Placed:
        """For a picture of this height and width."""
        ...

    def drawn(self, picture: Image.Image) -> Image.Image:
        """Over its picture, for people to look at."""
        ...


@runtime_checkable
class Masked(Placed, Protocol):
    """One that says something of every place."""

    def mask(self) -> Image.Image:
        """As a file keeps it."""
        ...


@runtime_checkable
class Task(Protocol):
    """A frozen dataclass, saved as JSON by its fields. A target is what one image has; a batch of them is a tensor with
    the image first, or, where scored targets differ in shape from image to image, a list."""

    @property
    def targets(self) -> Kind:
        """Which targets it takes: the number of a class, a row of 0 and 1, or a row of numbers; see `Samples.task`."""
        ...

    @property
    def classes(self) -> tuple[str, ...]:
        """The names of what the head gives, in order."""
        ...

    @property
    def metric(self) -> str:
        """Of the score's values the one that decides: which epoch is best, which choice, which row of a table. A task
        may list in `metrics` how its values are told and which way is better, see `sidetune.tasks.metric`."""
        ...

    def taps(self, backbone: Backbone, method: Method) -> Need:
        """What the head reads."""
        ...

    def head(self, backbone: Backbone, method: Method) -> nn.Module:
        """Features with these taps -> outputs: a tensor with the image first; in training whatever `losses` takes."""
        ...

    def begin(self, targets: Sequence[Any]) -> Task:
        """The task after a look at the training images' targets; of most tasks itself. Raises DataError for targets
        that cannot be learned from."""
        ...

    def losses(self, outputs: Any, targets: Tensor) -> dict[str, Tensor]:
        """By name, the terms whose sum is minimised, each a mean over the images: those of a batch's pieces, weighed by
        their images, add up to the batch's."""
        ...

    def meter(self) -> Meter: ...
    def predict(self, outputs: Tensor, top: int = 5) -> Sequence[Answer]: ...

    def final(self, head: nn.Module) -> nn.Module:
        """A head whose outputs are in the answers' own units, for graphs that leave here; of most tasks itself."""
        ...

    def stand_in(self, num_images: int, image_size: tuple[int, int]) -> Tensor:
        """Targets of so many images, for planning and timing."""
        ...

    def truth(self, target: Any) -> str:
        """A target in words."""
        ...

    def is_right(self, answer: Any, target: Any) -> bool | None:
        """None where that is no question."""
        ...


@runtime_checkable
class PlacedTask(Task, Protocol):
    """A task whose answers are `Placed`."""

    def drawn(self, picture: Image.Image, target: Any) -> Image.Image:
        """A picture with its target (as `Samples.target` gives it) over it, as answers are drawn."""
        ...
