"""images -> frozen prefix -> features -> trainable suffix -> head: the parts joined into one ordinary module."""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce
from operator import add
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor, nn

from sidetune import merging, saving
from sidetune.backbones import Backbone, open_backbone
from sidetune.backbones.held import by_autocast, hold
from sidetune.backbones.sizes import check_images
from sidetune.data.pictures import One, Picture, Pixels, all_of, as_rgb, is_one
from sidetune.data.reading import Reading
from sidetune.data.transforms import Transform, preset_for
from sidetune.methods import Method, adaptation, find_method
from sidetune.saved import WEIGHTS
from sidetune.saving import Adapter
from sidetune.seam.features import Features
from sidetune.seam.prefix import Prefix
from sidetune.seam.suffix import IMAGES, Suffix
from sidetune.tasks.classification import Classification
from sidetune.tasks.task import Answer, Placed, Task

if TYPE_CHECKING:
    from sidetune.recipe import Recipe


class AdaptedModel(nn.Module):
    """A backbone adapted by a method for a task. Images in, the head's outputs out; trains like any module.

    Only parameters with `requires_grad` are trained: the method's and the head's. Models made from one `Backbone`
    share its frozen weights.
    """

    def __init__(self, backbone: Backbone, method: Method, task: Task, transform: Transform) -> None:
        super().__init__()
        self.card, self.method, self.task, self.transform = backbone.card, method, task, transform
        self.steps = backbone.steps
        self.recipe: Recipe | None = None
        """The recipe of the last `fit`."""
        self.begun = False
        """Whether the method has seen the training images it starts from; see `Method.begin`."""
        self.num_blocks = backbone.num_blocks
        parts = adaptation(method, backbone)
        self.num_units = parts.num_units
        self.suffix = Suffix(backbone, parts, task.taps(backbone, method))
        self.need = self.suffix.need
        self.prefix = None
        if self.suffix.seam != IMAGES:
            self.prefix = Prefix(backbone, self.need)
        self.head = task.head(backbone, method)
        self.dtype = torch.float32
        self.is_compiled = False
        self.eval()

    def hold(
        self, dtype: torch.dtype, device: torch.device | str | None = None, *, weights: str = "same"
    ) -> AdaptedModel:
        """Hold the frozen weights once, in `dtype`, on `device`, and from now on compute in it. With `weights` "int8",
        frozen linear layers are rounded to 8 bits first.

        In bfloat16 or float16 what is trained stays in float32 and computes by autocast. In float32, the start, a
        caller's own autocast applies. What a low type rounded off does not come back by holding in float32 again.
        """
        device = self.device if device is None else torch.empty(0, device=device).device  # with its number
        if self.prefix is not None:
            self.prefix.hold(device, dtype, weights)
        self.suffix.hold(device, dtype, weights)
        hold(self.head, device, dtype, self.suffix.copies)
        self.dtype = dtype
        if device.type == "cpu":
            self.suffix.use_plain_attention()
        return self

    def compile_halves(self, backend: str = "inductor") -> AdaptedModel:
        """Compile prefix and suffix by `torch.compile` at their first use, once for batches of every size; on backbones
        of convolutions, whose gradient PyTorch compiles for known sizes only, once for each.

        Takes a minute or so and a C++ compiler (Triton on a GPU). Results differ by rounding.
        """
        for half in (self.prefix, self.suffix):
            if half is not None:
                half.compile(dynamic=not self.suffix.channels_first, backend=backend)
        self.is_compiled = True
        return self

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return next(self.head.parameters()).device

    @property
    def frozen_depth(self) -> int:
        """Blocks that compute exactly what they computed before training."""
        return max(self.suffix.seam, 0)

    def features(self, images: Float[Tensor, "batch 3 height width"]) -> Features | Tensor:
        """The frozen half: what crosses the seam. The images themselves if nothing is frozen."""
        if self.prefix is None:
            check_images(images, self.card.image_size, self.steps)
            return images
        if self.is_compiled and len(images) == 1:  # compilers treat a size of 1 apart, and would begin anew
            return self.prefix(twice(images), self.need).map(lambda t: t[:1])
        return self.prefix(images, self.need)

    def forward(self, x: Float[Tensor, "batch 3 height width"] | Features) -> Any:
        """The head's outputs for images (normalised as `transform` does), or for their features: of most tasks logits
        (batch, label), of segmentation (batch, label, row, column) and in training what its losses take, of detection
        (batch, anchor, label + 8).

        Raises ValueError for images of a size that the backbone does not take.
        """
        given = self.features(x) if isinstance(x, Tensor) else x
        with by_autocast(self.device, self.dtype):
            if self.is_compiled and len(given) == 1:
                return self.head(self.suffix(twice(given)).map(lambda t: t[:1]))
            return self.head(self.suffix(given))

    def loss(self, outputs: Any, targets: Tensor) -> Tensor:
        """The sum of the task's losses, a mean over the images."""
        return reduce(add, self.task.losses(outputs, targets).values())

    def trained(self) -> dict[str, Tensor]:
        """What training changes: trained parameters, and statistics of BatchNorms that are trained."""
        tensors = {name: p for name, p in self.named_parameters() if p.requires_grad}
        owners = {name.rpartition(".")[0] for name in tensors}
        state = self.state_dict(keep_vars=True)
        return {
            n: t.detach()
            for n, t in state.items()
            if n in tensors or (n.rpartition(".")[0] in owners and is_statistic(n))
        }

    @torch.no_grad()
    def load_trained(self, tensors: dict[str, Tensor]) -> None:
        """Put back what `trained` gave. Raises ValueError if names or shapes differ."""
        own = self.trained()
        if shapes(own) != shapes(tensors):
            differing = sorted(shapes(own).items() ^ shapes(tensors).items())[:4]
            raise ValueError(f"these tensors belong to another model; differing: {differing}")
        for name, tensor in tensors.items():
            own[name].copy_(tensor)

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the labels (or numbers), in the order of the outputs."""
        return self.task.classes

    @overload
    def predict(self, pictures: One, *, top: int = 5, batch_size: int = 32) -> Any: ...
    @overload
    def predict(self, pictures: Sequence[Picture], *, top: int = 5, batch_size: int = 32) -> list[Any]: ...
    @overload
    def predict(self, pictures: Pixels, *, top: int = 5, batch_size: int = 32) -> Any: ...
    def predict(self, pictures: Picture | Sequence[Picture], *, top: int = 5, batch_size: int = 32) -> Any:
        """The task's answers: labels with their probabilities, numbers, classes of pixels; one for one picture, a list
        of several.

        A picture is a path, a PIL image, an array (height, width) or (height, width, 3), or a tensor (3, height,
        width), of uint8 or of floating-point numbers in 0..1; batches of arrays and tensors, and lists, are several.
        Raises DataError for a bad file, ValueError for what is no picture.
        """
        several = all_of(pictures)
        predictions: list[Answer] = []
        for start in range(0, len(several), batch_size):
            shown = [self.shown(p) for p in several[start : start + batch_size]]
            predictions += self.answer(shown, top=top)
        return predictions[0] if is_one(pictures) else predictions

    def shown(self, picture: Picture, *, max_pixels: int | None = None) -> Image.Image:
        """A picture, as `predict` takes it, in the colours that the model sees. Files of more than `max_pixels` are
        refused."""
        return as_rgb(picture, Reading(levels=self.transform.levels, max_pixels=max_pixels))

    def prepare(self, picture: Picture, *, max_pixels: int | None = None) -> Float[Tensor, "3 height width"]:
        """What is shown of a picture, as the model's input."""
        return self.transform.evaluation()(self.shown(picture, max_pixels=max_pixels))

    def answer(self, shown: Sequence[Image.Image], *, top: int = 5) -> list[Any]:
        """What `predict` says of pictures that are shown; of places, of those of the pictures."""
        prepare = self.transform.evaluation()
        answers = self.label(torch.stack([prepare(picture) for picture in shown]), top=top)
        pairs = zip(answers, shown, strict=True)
        return [a.at((p.height, p.width)) if isinstance(a, Placed) else a for a, p in pairs]

    @torch.no_grad()
    def label(self, images: Float[Tensor, "batch 3 height width"], *, top: int = 5) -> list[Any]:
        """What `predict` says of images that are prepared already."""
        was_training = self.training
        self.eval()
        predictions = list(self.task.predict(self(images.to(self.device)), top))
        self.train(was_training)
        return predictions

    def save_pretrained(self, folder: str | Path) -> None:
        """Write the small part: see `sidetune.saving.save`."""
        saving.save(self, folder)

    def adapter(self, name: str) -> Adapter:
        """What is trained of the model, as it is now, as a value."""
        return Adapter.of(self, name)

    def take(self, adapter: Adapter) -> None:
        """Put in an adapter of the same method and task, in place of the model's own. Raises DataError for another."""
        try:
            self.load_trained(dict(adapter.tensors))
        except ValueError as e:
            raise saving.damaged(adapter.folder / WEIGHTS if adapter.folder else adapter.name, e) from e

    def merge(self, into: nn.Module | None = None) -> nn.Module:
        """Fold what was trained into a plain timm network: see `sidetune.merging.merge`."""
        return merging.merge(self, into)


def twice(given: Features | Tensor) -> Features | Tensor:
    """A batch followed by itself."""
    return torch.cat([given, given]) if isinstance(given, Tensor) else given.map(lambda t: torch.cat([t, t]))


def is_statistic(name: str) -> bool:
    return name.endswith((".running_mean", ".running_var", ".num_batches_tracked"))


def shapes(tensors: dict[str, Tensor]) -> dict[str, tuple[int, ...]]:
    return {name: tuple(t.shape) for name, t in tensors.items()}


def adapt(
    backbone: str | nn.Module | Backbone,
    method: str | Method = "dtl+",
    *,
    num_classes: int | None = None,
    classes: Sequence[str] | None = None,
    task: Task | None = None,
    image_size: int | tuple[int, int] | None = None,
    pretrained: bool = True,
    architecture: str | None = None,
    transform: str | None = None,
    seed: int = 0,
    **choices: object,
) -> AdaptedModel:
    """Put a method on a backbone.

    `backbone` is a timm name, a packaged name, a weights file (with `architecture`), a timm module, or an opened
    `Backbone` to share. `method` is a name from `sidetune methods` or a method of your own; `choices` change its fields
    (`rank=4`). Classes are named, or numbered up to `num_classes`; or `task` says what is learned, such as
    `Multilabel(classes=("sun", "rain"))` and `Regression(classes=("age",))`. `transform` is how pictures become
    tensors (`photo`, `vtab`, `few-shot`; `scene` with masks), that of the task if not given. `seed` starts the
    trainable parts; the global random state is left alone.

    Raises ValueError for names and values that do not exist, MethodRefused for a pair that makes no sense.
    """
    if [num_classes, classes, task].count(None) != 2:
        raise ValueError("give either num_classes or classes, or a task")
    task = task or Classification(classes=tuple(classes or map(str, range(num_classes or 0))))
    chosen = find_method(method, **choices)
    if not isinstance(backbone, Backbone):
        backbone = open_backbone(backbone, image_size=image_size, pretrained=pretrained, architecture=architecture)
    elif image_size is not None:
        raise ValueError("image_size is a choice of open_backbone; this backbone is already open")
    card, preset = backbone.card, preset_for(task.targets, transform)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return AdaptedModel(
            backbone,
            chosen,
            task,
            Transform(preset=preset, image_size=card.image_size, mean=card.mean, std=card.std),
        )


def load(
    folder: str | Path | Adapter, *, backbone: str | nn.Module | Backbone | None = None, force: bool = False
) -> AdaptedModel:
    """Load an adapter, or the folder that `save_pretrained` wrote of one, onto its backbone, fetched by name or given
    as `backbone`. On one that is open already only the adapter takes memory.

    Raises FileNotFoundError or DataError for a folder that holds no whole model, or not the one that was saved, and
    WeightsMismatch if the backbone's weights are not those that were trained on. `force` loads them all the same, and
    what was edited by hand.
    """
    adapter = folder if isinstance(folder, Adapter) else Adapter.read(folder, force=force)
    opened = saving.opened_for(adapter, backbone, force=force)
    model = adapt(opened, adapter.method, task=adapter.task, transform=adapter.transform.preset)
    model.transform, model.recipe = adapter.transform, adapter.recipe
    model.take(adapter)
    return model
