"""The whole adapted model as an ONNX graph, compared with the original before it counts."""

from __future__ import annotations

import logging
import warnings
from pathlib import Path

import numpy as np
import torch

from sidetune.atomic import replacing
from sidetune.errors import MissingExtra
from sidetune.model import AdaptedModel

TOLERANCE = 1e-4


def export_onnx(model: AdaptedModel, path: str | Path) -> float:
    """Write `model` with a free batch axis: input `images` (batch, 3, height, width), normalised; output `logits`.

    Returns the largest difference between onnxruntime's logits and the model's on random images; raises
    ArithmeticError, and writes nothing, if that is not below 1e-4. Raises MissingExtra without the extra `export`.
    """
    try:
        import onnxruntime
        import onnxscript  # noqa: F401  (the exporter needs it)
    except ImportError as e:
        raise MissingExtra("exporting to ONNX", "export") from e
    model = model.cpu().eval()
    images = torch.randn(2, 3, *model.card.image_size, generator=torch.Generator().manual_seed(0))
    with replacing(Path(path)) as beside:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the exporter's remarks about its own insides
            logging.getLogger("torch.onnx").setLevel(logging.ERROR)
            program = torch.onnx.export(
                model,
                (images,),
                dynamo=True,
                input_names=["images"],
                output_names=["logits"],
                dynamic_shapes=({0: torch.export.Dim("batch")},),
                verbose=False,
            )
        assert program is not None
        program.save(str(beside))
        session = onnxruntime.InferenceSession(str(beside), providers=["CPUExecutionProvider"])
        (found,) = session.run(None, {"images": images[:1].numpy()})
        with torch.no_grad():
            difference = float(np.abs(found - model(images[:1]).numpy()).max())
        if not difference < TOLERANCE:
            raise ArithmeticError(f"the exported graph's logits differ by {difference:.1e}, more than {TOLERANCE:.0e}")
    return difference
