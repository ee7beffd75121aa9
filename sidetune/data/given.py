"""Targets as torch data sets of PIL pictures give them, torchvision's among them, in the form that our own have."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torchvision.transforms.v2.functional import convert_bounding_box_format
from torchvision.tv_tensors import BoundingBoxes, BoundingBoxFormat

from sidetune.data.masks import IGNORED
from sidetune.data.objects import Objects
from sidetune.errors import DataError, shown

UNSAID = 255
"""What masks of public data sets have at the edges of objects."""
EXPECTED = (
    "expected {'boxes': (object, 4) as x1, y1, x2, y2 in pixels, 'labels': (object,) from 0}, and 'iscrowd' if some "
    "are, as torchvision's detectors are trained on (of its data sets, wrap_dataset_for_transforms_v2 makes it)"
)


def mask_of(target: Any) -> np.ndarray:
    """From a PIL picture or an array of class numbers, of which 255 and -1 say nothing."""
    mask = np.asarray(target).astype(np.int64)
    return np.where(mask == UNSAID, IGNORED, mask)


def objects_of(target: Any, size: tuple[int, int], num_classes: int | None = None) -> Objects:
    """From a dict of tensors or arrays, beside a picture of this width and height; boxes are cut to it. Raises
    DataError for anything else."""
    if isinstance(target, Objects):
        return target
    if not isinstance(target, Mapping) or not {"boxes", "labels"} <= target.keys():
        raise DataError(f"{EXPECTED}; got {shown(sorted(target) if isinstance(target, Mapping) else target)}")
    boxes = corners(target["boxes"]).clip(0, [*size, *size])
    labels = as_array(target["labels"])
    aside = as_array(target.get("iscrowd", np.zeros(len(labels)))).astype(bool)
    if len(labels) and (labels.dtype.kind not in "iu" or labels.min() < 0 or labels.max() >= (num_classes or np.inf)):
        told = f"whole numbers from 0 to {num_classes - 1}" if num_classes else "whole numbers from 0"
        raise DataError(
            f"expected classes as {told} (where 0 is called the background, it is a class here), got {labels}"
        )
    try:
        return Objects(
            boxes=boxes.astype(np.float32), labels=labels.astype(np.int64), aside=aside, outlines=None, size=size[::-1]
        )
    except ValueError as e:
        raise DataError(str(e)) from None


def corners(given: Any) -> np.ndarray:
    """(object, 4), from tv_tensors of any format."""
    if isinstance(given, BoundingBoxes):
        given = convert_bounding_box_format(given, new_format=BoundingBoxFormat.XYXY)
    boxes = as_array(given).astype(np.float64)
    if boxes.size == 0:
        return boxes.reshape(0, 4)
    if boxes.ndim != 2 or boxes.shape[1] != 4:
        raise DataError(f"{EXPECTED}; got boxes of shape {boxes.shape}")
    if boxes.max() <= 1:
        raise DataError(f"{EXPECTED}; these look like fractions of the picture: {boxes[0].tolist()}")
    return boxes


def as_array(given: Any) -> np.ndarray:
    return np.asarray(given.cpu() if isinstance(given, torch.Tensor) else given)
