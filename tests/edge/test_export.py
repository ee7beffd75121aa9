"""The edge half as an ONNX graph, for devices without Python."""

import numpy as np
import onnxruntime
import pytest
import torch
from conftest import tiny_backbone
from flaky import tiny_service

import sidetune
from sidetune.contract import disturb
from sidetune.edge import artefact
from sidetune.edge.predict import Predictor
from sidetune.export import export_onnx


def test_it_takes_features_as_the_service_sends_them_and_gives_the_devices_logits(tmp_path):
    model = sidetune.adapt(tiny_backbone("vit"), "mist", num_classes=3, transform="vtab", rank=8, layers=2)
    disturb(model)
    model.save_pretrained(tmp_path / "m")
    assert export_onnx(model, tmp_path / "edge.onnx", edge=True) < 1e-4
    session = onnxruntime.InferenceSession(tmp_path / "edge.onnx", providers=["CPUExecutionProvider"])
    assert [i.name for i in session.get_inputs()] == ["features"]
    x = np.random.default_rng(0).standard_normal((5, 17, 48)).astype(np.float32)
    (found,) = session.run(["logits"], {"features": x})
    device = Predictor(artefact.load(tmp_path / "m", tiny_service().card))
    assert np.abs(found - np.stack([device.logits(one) for one in x])).max() < 1e-4
    whole = tmp_path / "whole.onnx"
    export_onnx(model, whole)
    assert (tmp_path / "edge.onnx").stat().st_size < whole.stat().st_size / 2


@pytest.mark.parametrize("kind", ["swin", "convnext"])
def test_backbones_with_maps_give_rows_of_tokens_too(tmp_path, kind):
    model = sidetune.adapt(tiny_backbone(kind), "mist", num_classes=3, rank=4, layers=1, gather=False)
    disturb(model)
    assert export_onnx(model, tmp_path / "edge.onnx", edge=True) < 1e-4
    session = onnxruntime.InferenceSession(tmp_path / "edge.onnx", providers=["CPUExecutionProvider"])
    with torch.no_grad():
        images = torch.randn(2, 3, *model.card.image_size)
        (z,) = model.features(images).tensors()
        rows = (z.movedim(1, -1) if model.suffix.channels_first else z).flatten(1, 2)
        (found,) = session.run(None, {"features": rows.numpy()})
        assert np.abs(found - model(images).numpy()).max() < 1e-4


def test_methods_without_an_edge_half_are_refused(tmp_path):
    for method in ("dtl+", "linear"):
        model = sidetune.adapt(tiny_backbone("vit"), method, num_classes=3)
        with pytest.raises(ValueError, match="no edge half"):
            export_onnx(model, tmp_path / "x.onnx", edge=True)
    assert not (tmp_path / "x.onnx").exists()
