"""An adapted model, or its edge half alone, as an ONNX graph; compared with the original before it counts."""

from __future__ import annotations

import copy
import json
import logging
import warnings
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from sidetune.atomic import replacing
from sidetune.errors import MissingExtra
from sidetune.model import AdaptedModel
from sidetune.outputs import check_replaceable, is_exported
from sidetune.saved import MARK
from sidetune.seam.features import Features
from sidetune.seam.taps import Tap
from sidetune.tasks import described

TOLERANCE = 1e-4


class EdgeHalf(nn.Module):
    """Features as they cross the wire, (batch, token, channel), -> logits."""

    def __init__(self, model: AdaptedModel, tap: Tap, shape: torch.Size) -> None:
        super().__init__()
        self.suffix, self.head, self.tap, self.shape = model.suffix, model.head, tap, shape

    def forward(self, features: Tensor) -> Tensor:
        z = features.unflatten(1, self.shape[:-1])
        return self.head(self.suffix(Features({self.tap: z.movedim(-1, 1) if self.suffix.channels_first else z})))


def export_onnx(model: AdaptedModel, path: str | Path, *, edge: bool = False) -> float:
    """Write `model` with a free batch axis: input `images` (batch, 3, height, width), normalised; output `logits`.

    With `edge`, write what a device runs instead: input `features` (batch, token, channel), as a feature service sends
    them and decoded to float32. Raises ValueError for a method whose frozen half gives anything but one such matrix,
    and RunExists for a file that this did not write.

    The file's metadata say what a device has to know besides: `classes` in the order of the logits, the `task`, how
    pictures become the input (`image_size` as height and width, `mean`, `std`, `transform`), the backbone and the
    method, as JSON.

    Returns the largest difference between onnxruntime's logits and the model's on random input; raises ArithmeticError,
    and writes nothing, if that is not below 1e-4. Raises MissingExtra without the extra `export`.
    """
    try:
        import onnxruntime
        import onnxscript  # noqa: F401  (the exporter needs it)
    except ImportError as e:
        raise MissingExtra("exporting to ONNX", "export") from e
    check_replaceable(Path(path), is_exported)
    model = copy.deepcopy(model).hold(torch.float32, "cpu").eval()
    model.head = model.task.final(model.head)
    given = torch.randn(2, 3, *model.card.image_size, generator=torch.Generator().manual_seed(0))
    graph: nn.Module = model
    name = "images"
    if edge:
        graph, given = edge_half(model, given)
        name = "features"
    with replacing(Path(path)) as beside:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the exporter's remarks about its own insides
            logging.getLogger("torch.onnx").setLevel(logging.ERROR)
            program = torch.onnx.export(
                graph,
                (given,),
                dynamo=True,
                input_names=[name],
                output_names=["logits"],
                dynamic_shapes=({0: torch.export.Dim("batch")},),
                verbose=False,
            )
        assert program is not None
        program.model.metadata_props.update(told(model, edge=edge))
        program.save(str(beside))
        session = onnxruntime.InferenceSession(str(beside), providers=["CPUExecutionProvider"])
        (found,) = session.run(None, {name: given[:1].numpy()})
        with torch.no_grad():
            difference = float(np.abs(found - graph(given[:1]).numpy()).max())
        if not difference < TOLERANCE:
            raise ArithmeticError(f"the exported graph's logits differ by {difference:.1e}, more than {TOLERANCE:.0e}")
    return difference


def told(model: AdaptedModel, *, edge: bool) -> dict[str, str]:
    """What goes into the file's metadata."""
    t, card = model.transform, model.card
    about: dict[str, Any] = {
        **described(model.task),
        "image_size": t.image_size,
        "mean": t.mean,
        "std": t.std,
        "transform": t.preset,
        "backbone": card.name or card.architecture,
        "backbone_digest": card.digest,
        "method": {"type": type(model.method).__name__, **asdict(model.method)},
    }
    if edge:
        about["features"] = sorted(map(str, model.need))
    return {MARK: "exported", **{name: json.dumps(value, ensure_ascii=False) for name, value in about.items()}}


def edge_half(model: AdaptedModel, images: Tensor) -> tuple[EdgeHalf, Tensor]:
    """The edge half, and features of these images for it."""
    taps = list(model.need)
    if model.frozen_depth < model.num_blocks or len(taps) != 1 or taps[0].kind == "pool":
        raise ValueError(
            f"{type(model.method).__name__} has no edge half that goes on from one matrix of tokens; MIST has"
        )
    with torch.no_grad():
        features = model.features(images)
    assert isinstance(features, Features)
    (z,) = features.tensors()
    z = z.movedim(1, -1) if model.suffix.channels_first else z
    return EdgeHalf(model, taps[0], z.shape[1:]), z.flatten(1, -2)
