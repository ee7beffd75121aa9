"""Average precision of boxes: COCO's by faster-coco-eval, and Pascal VOC's of 2007."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from types import ModuleType
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torchvision.ops import box_iou

from sidetune.errors import MissingExtra
from sidetune.tasks.detections import Detections

UNITS = 1000.0
"""Width and height of every image where COCO's evaluator counts; an IoU does not depend on it."""
DETECTIONS = 100
"""The most answers of a class and an image that COCO counts."""
VOC_IOU = 0.5


@dataclass(frozen=True, kw_only=True, eq=False)
class CocoPrecision:
    """By class, nan of one that is nowhere."""

    precision: np.ndarray
    """(IoU of .50, .55, .., .95; class): the mean of the highest precision at each of 101 recalls."""
    recall: np.ndarray
    """(IoU, class), among 100 answers an image."""


def coco_precision(
    found: Sequence[Detections], truth: Sequence[Float[Tensor, "_ 6"]], num_classes: int
) -> CocoPrecision:
    """As pycocotools counts; objects that are kept aside are crowds. AP of small, medium and large objects, which COCO
    has too, is of pixels and left out. Raises MissingExtra without faster-coco-eval."""
    api = evaluators()
    given, results = as_coco(found, truth, num_classes)
    annotated = api.COCO(given)
    evaluator = api.COCOeval_faster(annotated, annotated.loadRes(results), iouType="bbox")
    evaluator.params.areaRng, evaluator.params.areaRngLbl = [[0, 1e10]], ["all"]
    evaluator.params.maxDets = [DETECTIONS]
    evaluator.evaluate()
    evaluator.accumulate()
    precision, recall = evaluator.eval["precision"][:, :, :, 0, 0], evaluator.eval["recall"][:, :, 0, 0]
    known = recall >= 0
    return CocoPrecision(
        precision=np.where(known, precision.mean(axis=1), np.nan), recall=np.where(known, recall, np.nan)
    )


def evaluators() -> ModuleType:
    """COCO's. Raises MissingExtra where they are not installed."""
    try:
        return import_module("faster_coco_eval")
    except ImportError as e:
        raise MissingExtra("scoring boxes (faster-coco-eval)", "dense") from e


def as_coco(
    found: Sequence[Detections], truth: Sequence[Float[Tensor, "_ 6"]], num_classes: int
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Truth as a COCO file has it, and answers as its results: classes and images by number, annotations from 1."""
    annotations: list[dict[str, Any]] = []
    results: list[dict[str, Any]] = []
    for image, (said, rows) in enumerate(zip(found, truth, strict=True)):
        for (x, y, across, down), row in zip(left_top(rows[:, :4]), rows.tolist(), strict=True):
            about = {"id": len(annotations) + 1, "image_id": image, "category_id": int(row[4]), "iscrowd": int(row[5])}
            annotations.append({**about, "bbox": [x, y, across, down], "area": across * down})
        for box, label, score in zip(left_top(said.boxes), said.labels.tolist(), said.scores.tolist(), strict=True):
            results.append({"image_id": image, "category_id": label, "score": score, "bbox": box})
    sides = {"width": int(UNITS), "height": int(UNITS)}
    given = {
        "info": {},
        "images": [{"id": i, **sides} for i in range(len(truth))],
        "categories": [{"id": c, "name": str(c)} for c in range(num_classes)],
        "annotations": annotations,
    }
    return given, results


def left_top(boxes: Float[Tensor, "object 4"]) -> list[list[float]]:
    """Left, top, width and height in units."""
    corners = UNITS * boxes.double()
    return torch.cat([corners[:, :2], corners[:, 2:] - corners[:, :2]], dim=1).tolist()


def voc07(found: Sequence[Detections], truth: Sequence[Float[Tensor, "_ 6"]], num_classes: int) -> np.ndarray:
    """AP of each class as Pascal VOC counted until 2009: the mean of the highest precision from each of 11 recalls on;
    nan of a class that is nowhere.

    Of an image's answers of a class the highest takes the object with which its IoU is highest, from .5 on; a second
    one of an object is wrong, and what lies on one that is kept aside (difficult) does not count. The devkit takes
    corners as pixels that belong to the box, which fractions do not know.
    """
    rows = np.concatenate([np.empty((0, 4)), *(judged(*each) for each in zip(found, truth, strict=True))])
    labels, _, right, counts = rows[np.argsort(-rows[:, 1], kind="stable")].T
    objects = torch.cat([torch.empty(0, 6), *truth])
    wanted = objects[objects[:, 5] == 0, 4].long().bincount(minlength=num_classes).tolist()
    mine = [right[(labels == c) & (counts > 0)] for c in range(num_classes)]
    return np.array([eleven_points(m, num) if num else np.nan for m, num in zip(mine, wanted, strict=True)])


def eleven_points(right: Float[np.ndarray, " answer"], wanted: int) -> float:
    """AP of answers that are right (1) or wrong (0), the highest score first."""
    hits = right.cumsum()
    recall, precision = hits / wanted, hits / np.arange(1, len(hits) + 1)
    return float(np.mean([precision[recall >= point / 10].max(initial=0) for point in range(11)]))


def judged(said: Detections, rows: Float[Tensor, "_ 6"]) -> Float[np.ndarray, "answer 4"]:
    """Of an image's answers the class, the score, whether it is right and whether it counts."""
    right, counts = np.zeros(len(said)), np.ones(len(said))
    if len(said) and len(rows):
        iou = box_iou(said.boxes.double(), rows[:, :4].double()).where(said.labels[:, None] == rows[:, 4], -1)
        highest, nearest, aside, taken = *map(Tensor.tolist, iou.max(dim=1)), rows[:, 5].tolist(), set()
        for i in said.scores.argsort(descending=True, stable=True).tolist():
            if highest[i] < VOC_IOU:
                continue
            counts[i] = not aside[nearest[i]]
            right[i] = counts[i] and nearest[i] not in taken
            taken.add(nearest[i])
    return np.stack([said.labels.numpy(), said.scores.double().numpy(), right, counts], axis=1)
