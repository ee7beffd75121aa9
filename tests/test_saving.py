"""Saved models: small, whole, tied to their backbone, never pickled."""

import itertools
import json

import numpy as np
import pytest
import timm
import torch
from conftest import TINY, tiny_backbone, tiny_network
from PIL import Image

import sidetune
from sidetune.contract import disturb
from sidetune.errors import DataError, WeightsMismatch
from sidetune.export import export_onnx
from sidetune.methods import DTL


@pytest.fixture
def saved(vit, tmp_path):
    model = sidetune.adapt(vit, DTL(fusion="depthwise", reads=(1, 2, 3)), classes=("a", "b"), transform="vtab")
    disturb(model)
    model.save_pretrained(tmp_path / "model")
    return model, tmp_path / "model"


def test_what_is_saved_comes_back(saved, vit):
    model, folder = saved
    loaded = sidetune.load(folder, backbone=tiny_network("vit"))
    images = torch.randn(2, 3, 32, 32)
    assert torch.equal(loaded(images), model(images))
    assert (loaded.method, loaded.task, loaded.transform) == (model.method, model.task, model.transform)


def test_only_the_small_part_is_written_and_nothing_is_pickled(saved):
    model, folder = saved
    assert {p.name for p in folder.iterdir()} == {"model.safetensors", "sidetune.json", "README.md"}
    trained = sum(t.nbytes for t in model.trained().values())
    assert (folder / "model.safetensors").stat().st_size < trained + 4000
    config = json.loads((folder / "sidetune.json").read_text())
    assert config["backbone"]["digest"] == model.card.digest and config["versions"]["torch"]
    assert config["backbone"]["digest"] in (folder / "README.md").read_text()


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        *itertools.product(("linear", "full", "partial", "bitfit", "dtl+*"), TINY),
        *itertools.product(("lora",), ("vit", "swin", "convnext")),
        ("vpt-deep", "dinov2"),
    ],
)
def test_every_method_survives_the_round_trip(name, kind, tmp_path):
    backbone = tiny_backbone(kind)
    model = sidetune.adapt(backbone, name, num_classes=3)
    images = torch.randn(4, 3, *backbone.card.image_size)
    model.train()
    model.task.loss(model(images), torch.tensor([0, 1, 2, 0])).backward()  # moves trained BatchNorm statistics
    disturb(model)
    model.eval()
    model.save_pretrained(tmp_path)
    assert torch.equal(sidetune.load(tmp_path, backbone=tiny_backbone(kind))(images), model(images))


def test_other_weights_are_refused_unless_forced(saved):
    _, folder = saved
    with pytest.raises(WeightsMismatch, match="was trained on weights .* but these are"):
        sidetune.load(folder, backbone=tiny_network("vit", seed=1))
    assert sidetune.load(folder, backbone=tiny_network("vit", seed=1), force=True).task.classes == ("a", "b")


def test_a_backbone_without_a_name_has_to_be_given(saved):
    with pytest.raises(ValueError, match="pass it as backbone="):
        sidetune.load(saved[1])


def test_a_model_on_a_weights_file_finds_it_again(tmp_path):
    network = timm.create_model("vit_tiny_patch16_224", num_classes=0)
    from safetensors.torch import save_file

    save_file(network.state_dict(), tmp_path / "net.safetensors")
    model = sidetune.adapt(
        str(tmp_path / "net.safetensors"), "dtl", num_classes=2, image_size=32, architecture="vit_tiny_patch16_224"
    )
    model.save_pretrained(tmp_path / "model")
    loaded = sidetune.load(tmp_path / "model")
    images = torch.randn(1, 3, 32, 32)
    assert torch.equal(loaded(images), model(images))


def test_folders_that_hold_no_whole_model_say_so(saved, tmp_path):
    _, folder = saved
    with pytest.raises(FileNotFoundError, match="expected sidetune.json and model.safetensors"):
        sidetune.load(tmp_path / "nowhere")
    (tmp_path / "stopped/run").mkdir(parents=True)
    with pytest.raises(FileNotFoundError, match="unfinished run; go on with it by --resume"):
        sidetune.load(tmp_path / "stopped")
    weights = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(weights[: len(weights) // 2])
    with pytest.raises(DataError, match="model.safetensors is damaged"):
        sidetune.load(folder, backbone=tiny_network("vit"))
    (folder / "sidetune.json").write_text("{")
    with pytest.raises(DataError, match="sidetune.json is damaged"):
        sidetune.load(folder, backbone=tiny_network("vit"))
    (folder / "sidetune.json").write_text('{"format": 99}')
    with pytest.raises(DataError, match="this version reads formats 1 and 2"):
        sidetune.load(folder, backbone=tiny_network("vit"))


def test_models_of_one_backbone_share_its_weights(vit):
    first, second = (sidetune.adapt(vit, name, num_classes=2) for name in ("dtl+", "lora"))
    shared = first.prefix.blocks["1"].mlp.fc1.weight
    assert shared is second.suffix.blocks["1"].mlp.fc1.weight
    full = sidetune.adapt(vit, "full", num_classes=2)
    assert full.suffix.blocks["1"].mlp.fc1.weight.data_ptr() != shared.data_ptr()


def test_predictions_are_labels_with_probabilities(saved, tmp_path):
    model, _ = saved
    picture = Image.new("L", (50, 20), 200)
    picture.save(tmp_path / "one.png")
    prediction = model.predict(tmp_path / "one.png")
    assert prediction.label in ("a", "b") and prediction.probability >= 0.5
    assert sum(p for _, p in prediction.top) == pytest.approx(1)
    several = model.predict([picture, str(tmp_path / "one.png")])
    assert [p.label for p in several] == [prediction.label] * 2
    assert [p.probability for p in several] == pytest.approx([prediction.probability] * 2)
    assert model.predict(picture, top=1).top == prediction.top[:1]
    with pytest.raises(DataError, match="no image at"):
        model.predict("none.png")
    pixels = np.asarray(Image.open(tmp_path / "one.png").convert("RGB"))
    batch = torch.from_numpy(np.stack([pixels, pixels])).movedim(-1, 1)
    for form in (pixels, batch[0], batch[0] / 255):
        assert model.predict(form) == model.predict(tmp_path / "one.png")
    assert model.predict(batch) == model.predict([pixels, pixels]) and len(model.predict(batch)) == 2


def test_a_model_remembers_the_levels_of_deep_pictures_it_was_trained_on(vit, tmp_path):
    for label in range(2):
        for i in range(3):
            path = tmp_path / f"data/{label}/{i}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(np.full((16, 16), 29_000 + 1000 * label + i, np.uint16)).save(path)
    reading = sidetune.Reading(levels=(29_000, 31_000))
    splits = sidetune.read_data(tmp_path / "data", reading=reading)
    model = sidetune.adapt(vit, "linear", classes=("0", "1"))
    sidetune.fit(model, splits.train, recipe=sidetune.Recipe(epochs=1))
    model.save_pretrained(tmp_path / "model")
    loaded = sidetune.load(tmp_path / "model", backbone=vit)
    assert loaded.transform.levels == model.transform.levels == (29_000, 31_000)
    tensor = loaded.prepare(tmp_path / "data/1/0.png")
    mean, std = (torch.tensor(v)[:, None, None] for v in (model.card.mean, model.card.std))
    assert torch.allclose(tensor * std + mean, torch.tensor(128 / 255), atol=1e-3)
    images, _ = sidetune.datasets.as_dataset(tmp_path / "data", loaded, training=False)[3]
    assert torch.equal(images, tensor)


@pytest.mark.parametrize("kind", ["dinov2", "swin", "convnext", "resnet"])
def test_the_exported_graph_computes_the_same(kind, tmp_path):
    import onnxruntime

    model = sidetune.adapt(tiny_backbone(kind), "dtl+", num_classes=3, kernel=4)
    disturb(model)
    assert export_onnx(model, tmp_path / "model.onnx") < 1e-4
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx", providers=["CPUExecutionProvider"])
    images = torch.randn(5, 3, *model.card.image_size)
    (logits,) = session.run(["logits"], {"images": images.numpy()})
    told = session.get_modelmeta().custom_metadata_map
    assert {name: json.loads(told[name]) for name in ("classes", "image_size", "mean", "transform")} == {
        "classes": ["0", "1", "2"],
        "image_size": list(model.card.image_size),
        "mean": list(model.card.mean),
        "transform": "photo",
    }
    assert json.loads(told["backbone_digest"]) == model.card.digest
    assert np.abs(logits - model(images).detach().numpy()).max() < 1e-4
