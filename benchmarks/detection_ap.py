"""Average precision of boxes: what a meter counts beside pycocotools, values and time, on made-up answers.

python benchmarks/detection_ap.py [--images 5000]       # writes benchmarks/results/detection-ap-cpu.json
"""

import argparse
import contextlib
import io
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from sidetune.measure.machine import birth_certificate
from sidetune.tasks.average_precision import as_coco, coco_precision, voc07
from sidetune.tasks.detections import Detections

RESULTS = Path(__file__).parent / "results"
CLASSES = 80


def simulated(images: int, seed: int = 0) -> tuple[list[Detections], list[torch.Tensor]]:
    """About 7 objects an image, a twentieth of them crowds, and about 20 answers: near objects, doubled, of wrong
    classes, anywhere."""
    rng, found, truth = np.random.default_rng(seed), [], []
    names = tuple(map(str, range(CLASSES)))
    for _ in range(images):
        few, several = int(rng.poisson(7)), int(rng.poisson(20))
        boxes, free = placed(rng, few), placed(rng, several)
        labels = rng.integers(0, CLASSES, few)
        truth.append(table(boxes, labels, rng.random(few) < 0.05))
        near = rng.integers(0, few, several) if few else np.zeros(several, int)
        is_near = (rng.random(several) < 0.7) & (few > 0)
        said = np.where(is_near[:, None], boxes[near] + rng.normal(0, 0.02, free.shape), free) if few else free
        said[:, 2:] = np.maximum(said[:, 2:], said[:, :2] + 0.01)
        right = is_near & (rng.random(several) < 0.8)
        chosen = np.where(right, labels[near], rng.integers(0, CLASSES, several)) if few else np.zeros(several, int)
        rows = table(said.clip(0, 1), chosen, rng.random(several))
        rows = rows[rows[:, 5].argsort(descending=True, stable=True)]
        found.append(
            Detections(boxes=rows[:, :4], labels=rows[:, 4].long(), scores=rows[:, 5], classes=names, size=(1, 1))
        )
    return found, truth


def placed(rng: np.random.Generator, count: int) -> np.ndarray:
    first = rng.uniform(0, 0.7, (count, 2))
    return np.concatenate([first, first + rng.uniform(0.03, 0.3, (count, 2))], axis=1)


def table(boxes: np.ndarray, labels: np.ndarray, last: np.ndarray) -> torch.Tensor:
    return torch.tensor(np.column_stack([boxes, labels, last]), dtype=torch.float32).reshape(-1, 6)


def theirs(found: list[Detections], truth: list[torch.Tensor]) -> np.ndarray:
    """pycocotools' AP of every IoU and class, of objects of all sizes alone."""
    given, results = as_coco(found, truth, CLASSES)
    with contextlib.redirect_stdout(io.StringIO()):
        annotated = COCO()
        annotated.dataset = given
        annotated.createIndex()
        evaluator = COCOeval(annotated, annotated.loadRes(results), "bbox")
        evaluator.params.areaRng, evaluator.params.areaRngLbl = [[0, 1e10]], ["all"]
        evaluator.params.maxDets = [100]
        evaluator.evaluate()
        evaluator.accumulate()
    return evaluator.eval["precision"][:, :, :, 0, 0].mean(axis=1)


def timed(run: Callable[[], Any]) -> tuple[Any, float]:
    """What it gives, and the seconds of a processor that it took: on a busy machine others' time is not counted."""
    start = time.process_time()
    result = run()
    return result, time.process_time() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=5000)
    images = parser.parse_args().images
    found, truth = simulated(images)
    ours, our_seconds = timed(lambda: coco_precision(found, truth, CLASSES).precision)
    _, list_seconds = timed(lambda: as_coco(found, truth, CLASSES))
    reference, their_seconds = timed(lambda: theirs(found, truth))
    points, voc_seconds = timed(lambda: voc07(found, truth, CLASSES))
    row = {
        "images": images,
        "classes": CLASSES,
        "objects": sum(map(len, truth)),
        "answers": sum(map(len, found)),
        "ap": float(ours.mean()),
        "voc07": float(np.mean(points)),
        "largest_difference": float(np.abs(ours - reference).max()),
        "processor_seconds": {
            "faster_coco_eval": our_seconds,
            "pycocotools": their_seconds,
            "of_these_for_the_lists_that_both_take": list_seconds,
            "voc07": voc_seconds,
        },
    }
    print(json.dumps(row, indent=1))
    path = RESULTS / "detection-ap-cpu.json"
    path.write_text(json.dumps({"kind": "detection-ap", **birth_certificate(), **row}, indent=1) + "\n")
    print(f"wrote {path}")


if __name__ == "__main__":
    main()
