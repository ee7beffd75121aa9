"""A class at every place of an image: heads on levels, cross entropy over pixels, mIoU of one confusion matrix."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from statistics import fmean
from typing import Any, ClassVar

import numpy as np
import torch
from jaxtyping import Float, Integer
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F

from sidetune.backbones.backbone import Backbone
from sidetune.data.masks import IGNORED
from sidetune.data.samples import Kind
from sidetune.errors import unknown
from sidetune.heads.maps import NORMS, resized
from sidetune.heads.pyramid import Pyramid
from sidetune.heads.segformer import LinearMaps, SegFormerHead
from sidetune.heads.upernet import UperNetHead
from sidetune.methods.method import Method
from sidetune.seam.levels import FINEST, levels
from sidetune.seam.taps import Need
from sidetune.tasks.colours import blended, palette
from sidetune.tasks.task import check_metric
from sidetune.tasks.words import MOST, poorest

DECODERS = ("segformer", "upernet", "linear")
WIDTHS = {"segformer": 256, "upernet": 512, "linear": 0}
"""Channels of a decoder where none are given: SegFormer-B0's and B1's (768 above), UperNet's."""
AUXILIARY = 0.4
"""What the auxiliary head's loss counts (PSPNet, UperNet as Swin's authors train it)."""
METRICS = ("miou", "pixel_accuracy", "class_accuracy")


@dataclass(frozen=True, kw_only=True, eq=False)
class Segments:
    """What a model says of every pixel of a picture."""

    scores: Float[Tensor, "label row column"]
    """Logits, at the head's own size."""
    classes: tuple[str, ...]
    size: tuple[int, int]
    """Height and width of the picture."""

    def at(self, size: tuple[int, int]) -> Segments:
        """For a picture of another size."""
        return replace(self, size=size)

    @cached_property
    def labels(self) -> np.ndarray:
        """(height, width): the number of each pixel's class."""
        found: np.ndarray = labelled(self.scores[None], self.size)[0].to(torch.int16).numpy()
        return found

    @property
    def shares(self) -> dict[str, float]:
        """By class, the share of the picture that is of it; the largest first."""
        counts = np.bincount(self.labels.ravel(), minlength=len(self.classes)) / self.labels.size
        return {self.classes[c]: float(counts[c]) for c in np.argsort(-counts, kind="stable") if counts[c] > 0}

    def in_words(self, top: int = 1) -> str:
        return ", ".join(f"{name} {share:.1%}" for name, share in list(self.shares.items())[: max(top, MOST)])

    def described(self) -> dict[str, Any]:
        return {"size": list(self.size), "shares": self.shares}

    def mask(self) -> Image.Image:
        """The classes' numbers as a picture of colours from a palette (of 16 bits and without one from 257 classes)."""
        if len(self.classes) > 256:
            return Image.fromarray(self.labels.astype(np.uint16))
        mask = Image.fromarray(self.labels.astype(np.uint8), mode="P")
        mask.putpalette(palette(len(self.classes)).ravel().tolist())
        return mask

    def drawn(self, picture: Image.Image) -> Image.Image:
        """The picture with every pixel's class over it, and the classes' names."""
        return blended(picture, self.labels, self.classes)


@dataclass(frozen=True, kw_only=True, eq=False)
class SegmentationScore:
    confusion: np.ndarray
    """Pixels by their class and the class that was said, (class, class); ignored ones are in none."""
    classes: tuple[str, ...]
    num_images: int

    @property
    def ious(self) -> tuple[float | None, ...]:
        """By class, pixels that are and are said to be of it of those that are or are said to be; None where none."""
        right = np.diag(self.confusion)
        either = self.confusion.sum(axis=0) + self.confusion.sum(axis=1) - right
        return tuple(float(r / e) if e else None for r, e in zip(right, either, strict=True))

    @property
    def recalls(self) -> tuple[float | None, ...]:
        """By class, the share of its pixels that are labelled right; None of a class without pixels."""
        pairs = zip(np.diag(self.confusion), self.confusion.sum(axis=1), strict=True)
        return tuple(float(right / pixels) if pixels else None for right, pixels in pairs)

    @property
    def values(self) -> dict[str, float]:
        """0 throughout where every pixel is ignored."""
        pixels = max(int(self.confusion.sum()), 1)
        return {
            "miou": mean_of(self.ious),
            "pixel_accuracy": float(np.trace(self.confusion) / pixels),
            "class_accuracy": mean_of(self.recalls),
        }

    def described(self) -> dict[str, Any]:
        return {
            **self.values,
            "num_images": self.num_images,
            "iou": dict(zip(self.classes, self.ious, strict=True)),
            "recall": dict(zip(self.classes, self.recalls, strict=True)),
            "confusion": self.confusion.tolist(),
        }

    def in_words(self) -> str:
        """mIoU and pixel accuracy, and the classes whose IoU is much lower."""
        values = self.values
        text = f"mIoU {100 * values['miou']:.2f} %, pixel accuracy {100 * values['pixel_accuracy']:.2f} %"
        poor = poorest(self.ious, self.classes, values["miou"])
        return f"{text}; lowest IoU: {poor}" if poor else text


class SegmentationMeter:
    def __init__(self, classes: tuple[str, ...]) -> None:
        self.classes, self.num_images = classes, 0
        self.confusion = torch.zeros(len(classes), len(classes), dtype=torch.int64)

    def add(self, outputs: Float[Tensor, "batch label row column"], targets: Tensor | Sequence[Tensor]) -> None:
        """Targets of any size, each image's own; an answer is brought to it before its classes are read."""
        for scores, target in zip(outputs, targets, strict=True):
            said = labelled(scores[None], tuple(target.shape))[0]
            known, truth = target != IGNORED, target.long()
            pairs = truth[known] * len(self.classes) + said[known]
            self.confusion += pairs.bincount(minlength=self.confusion.numel()).reshape(self.confusion.shape)
        self.num_images += len(outputs)

    def score(self) -> SegmentationScore:
        return SegmentationScore(confusion=self.confusion.numpy(), classes=self.classes, num_images=self.num_images)


@dataclass(frozen=True, kw_only=True)
class Segmentation:
    """A target is a map (row, column) of classes' numbers; -1 says nothing of a pixel."""

    targets: ClassVar[Kind] = "segmentation"
    classes: tuple[str, ...]
    decoder: str = "linear"
    """What reads the levels: a `linear` layer, which learns the most from few pictures, SegFormer's all-MLP decoder
    (`segformer`), or `upernet` with its auxiliary head."""
    width: int | None = None
    """Channels of the decoder; its authors' where none is given (SegFormer's smaller ones)."""
    norm: str = "group"
    """Of the decoder. `batch` is the authors'; it wants batches of more than a few images, whole."""
    cells: int | None = None
    """So many answers down and across in a place of the finest map; as many as make it one in 4 pixels if None."""
    metric: str = "miou"
    """Or `pixel_accuracy`, `class_accuracy` (the mean of the classes' recalls)."""

    def __post_init__(self) -> None:
        if len(self.classes) < 2:
            raise ValueError(f"segmentation needs at least 2 classes, got {len(self.classes)}: {self.classes}")
        if len(set(self.classes)) < len(self.classes):
            raise ValueError("classes must have different names")
        if self.decoder not in DECODERS:
            raise unknown("decoder", self.decoder, DECODERS)
        if self.norm not in NORMS:
            raise unknown("norm", self.norm, NORMS)
        for name in ("width", "cells"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} must be 1 or more, got {value}")
        check_metric(self.metric, METRICS)

    def taps(self, backbone: Backbone, method: Method) -> Need:
        """The levels."""
        return Need(level.tap for level in levels(backbone))

    def head(self, backbone: Backbone, method: Method) -> nn.Module:
        read, num_classes = levels(backbone), len(self.classes)
        normed = not backbone.family.batch_norms
        finest = Pyramid(read).reduction if self.decoder == "upernet" else read[0].reduction
        cells = self.cells or max(finest // FINEST, 1)
        width = self.width or WIDTHS[self.decoder]
        if self.decoder == "linear":
            return LinearMaps(read, num_classes, cells=cells, normed=normed)
        build = SegFormerHead if self.decoder == "segformer" else UperNetHead
        return build(read, num_classes, width=width, cells=cells, norm=self.norm, normed=normed)

    def begin(self, targets: Sequence[Any]) -> Segmentation:
        return self

    def losses(
        self, outputs: Tensor | tuple[Tensor, Tensor], targets: Integer[Tensor, "batch row column"]
    ) -> dict[str, Tensor]:
        """The mean over all pixels, of which ignored ones give 0, so that images of a batch count the same."""
        scores, *further = outputs if isinstance(outputs, tuple) else (outputs,)
        terms = {"cross entropy": over_pixels(scores, targets)}
        if further:
            terms["auxiliary"] = AUXILIARY * over_pixels(further[0], targets)
        return terms

    def meter(self) -> SegmentationMeter:
        return SegmentationMeter(self.classes)

    def predict(self, outputs: Float[Tensor, "batch label row column"], top: int = 5) -> list[Segments]:
        """Of the outputs' own size; `Segments.at` brings them to the pictures'."""
        scores = outputs.float().cpu()
        return [Segments(scores=s, classes=self.classes, size=tuple(s.shape[1:])) for s in scores]

    def final(self, head: nn.Module) -> nn.Module:
        return head

    def stand_in(self, num_images: int, image_size: tuple[int, int]) -> Tensor:
        places = torch.arange(num_images * image_size[0] * image_size[1]) % len(self.classes)
        return places.reshape(num_images, *image_size).to(torch.int16)

    def truth(self, target: Any) -> str:
        return str(target)

    def is_right(self, answer: Segments, target: Any) -> None:
        return None

    def drawn(self, picture: Image.Image, target: np.ndarray) -> Image.Image:
        return blended(picture, target, self.classes)


def labelled(scores: Float[Tensor, "batch label row column"], size: tuple[int, ...]) -> Integer[Tensor, "batch _ _"]:
    """The class of the highest score at every pixel of images of this size."""
    return resized(scores.float(), size).argmax(dim=1)


def over_pixels(scores: Float[Tensor, "batch label _ _"], targets: Integer[Tensor, "batch row column"]) -> Tensor:
    """Cross entropy, a mean over all pixels of all images."""
    full = resized(scores.float(), targets.shape[1:])
    return F.cross_entropy(full, targets.long(), ignore_index=IGNORED, reduction="sum") / targets.numel()


def mean_of(values: Sequence[float | None]) -> float:
    return fmean(known) if (known := [v for v in values if v is not None]) else 0.0
