"""Several labels, numbers and weighted classes through the verbs, from a table to answers and graphs."""

import json
import sys

import numpy as np
import pytest
import timm
import torch
from PIL import Image

import sidetune
from sidetune.cli.main import main
from sidetune.errors import DataError


@pytest.fixture
def here(tmp_path, monkeypatch, fetched):
    """48 grey pictures, some with a stripe, and a small network in place of one that has to be fetched."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    (tmp_path / "sky/images").mkdir(parents=True)
    rows = []
    for i in range(48):
        grey, stripe, bright = int(rng.integers(40, 100) + 120 * (i % 2)), i % 3 == 0, i % 2 == 1
        pixels = np.full((32, 32, 3), grey, np.uint8)
        pixels[10:14] = 0 if stripe else grey
        Image.fromarray(pixels).save(tmp_path / "sky/images" / f"{i}.png")
        rows.append((f"{i}.png", "|".join(n for n, has in (("stripe", stripe), ("bright", bright)) if has), grey))
    return tmp_path, rows


def run(monkeypatch, *words):
    monkeypatch.setattr(sys, "argv", ["sidetune", *map(str, words)])
    with pytest.raises(SystemExit) as stopped:
        main()
    return stopped.value.code


def test_several_labels_from_a_table_to_answers(here, monkeypatch, capsys):
    root, rows = here
    (root / "sky/labels.csv").write_text("image,labels\n" + "\n".join(f"{name},{labels}" for name, labels, _ in rows))
    words = ["--epochs", 8, "--set", "transform=vtab", "--set", "recipe.keep=best", "--set", "recipe.batch_size=8"]
    assert not run(monkeypatch, "fit", "sky", "--out", "m", *words, "--set", "task.weights=balanced")
    told = capsys.readouterr()
    assert "images of 2 labels" in told.err and "val mAP" in told.err and "test mAP" in told.out
    model = sidetune.load("m")
    assert model.task.classes == ("bright", "stripe") and model.task.weights == pytest.approx((1.0, 2.0), rel=0.4)
    assert not run(monkeypatch, "evaluate", "m", "--json")
    score = json.loads(capsys.readouterr().out)
    assert score["average_precision"]["bright"] == 1 and score["num_images"] == 10
    (root / "sky").rename(root / "moved")
    assert not run(monkeypatch, "evaluate", "m", "moved", "--json")
    assert json.loads(capsys.readouterr().out)["num_images"] == 48, "a table of its own is taken whole"
    (root / "moved").rename(root / "sky")
    assert not run(monkeypatch, "predict", "m", "sky/images/1.png", "--json")
    (answer,) = json.loads(capsys.readouterr().out)
    assert "bright" in answer["labels"] and answer["top"][0][0] == "bright"
    assert not run(monkeypatch, "fit", "--resume", "--out", "m")
    assert "was finished" in capsys.readouterr().err
    with pytest.raises(DataError, match="the data is for regression, but the model was made for multilabel"):
        sidetune.evaluate(
            model,
            sidetune.Samples(images=np.zeros((1, 9, 9), np.uint8), labels=[(1.0,)], classes=("a",), task="regression"),
        )


def test_numbers_from_a_table_to_answers_and_graphs(here, monkeypatch, capsys):
    root, rows = here
    (root / "sky/labels.csv").write_text("image,grey\n" + "\n".join(f"{name},{grey}" for name, _, grey in rows))
    words = ["--epochs", 12, "--method", "partial", "--set", "transform=vtab", "--set", "recipe.batch_size=8"]
    assert run(monkeypatch, "fit", "sky", "--out", "m", *words), "whole numbers could be classes"
    assert "say --task classification" in capsys.readouterr().err
    assert not run(monkeypatch, "fit", "sky", "--out", "m", *words, "--task", "regression", "--lr", "1e-3")
    assert "test grey: MAE" in capsys.readouterr().out
    assert not run(monkeypatch, "evaluate", "m", "--json")
    score = json.loads(capsys.readouterr().out)
    assert score["r2"] > 0.8 and score["mae"] < 30
    model = sidetune.load("m")
    pictures = [f"sky/images/{i}.png" for i in range(4)]
    answers = [dict(answer.values)["grey"] for answer in model.predict(pictures)]
    assert answers == pytest.approx([grey for *_, grey in rows[:4]], abs=60)
    plain = model.merge(
        timm.create_model("vit_tiny_patch16_224", num_classes=1, img_size=32, depth=3, embed_dim=48, num_heads=3)
    )
    images = torch.stack([model.prepare(p) for p in pictures])
    assert plain(images).flatten().tolist() == pytest.approx(answers, rel=1e-3)
    assert not run(monkeypatch, "export", "m", "m.onnx")
    import onnxruntime

    session = onnxruntime.InferenceSession("m.onnx")
    (found,) = session.run(None, {"images": images.numpy()})
    assert found.ravel().tolist() == pytest.approx(answers, rel=1e-3)
    assert json.loads(session.get_modelmeta().custom_metadata_map["task"])["name"] == "regression"


def test_methods_are_compared_by_the_tasks_metric(here, monkeypatch, capsys):
    root, rows = here
    (root / "sky/labels.csv").write_text("image,grey,half\n" + "\n".join(f"{n},{g},{g / 2}" for n, _, g in rows))
    words = ["--methods", "linear,dtl+", "--epochs", 1, "--set", "transform=vtab", "--set", "task.metric=mae"]
    assert not run(monkeypatch, "compare", "sky", "--out", "c", *words)
    assert "MAE" in capsys.readouterr().out
    result = json.loads((root / "c/results-sky.json").read_text())
    assert result["metric"] == "mae" and all(1 < row["accuracies"][0] < 300 for row in result["rows"])
    assert "| method | MAE |" in (root / "c/report.md").read_text()
    assert not run(monkeypatch, "ablate", "sky", "dtl+:rank=1,2", "--out", "a", *words[2:])
    assert "R2" not in capsys.readouterr().out and json.loads((root / "a/results.json").read_text())["metric"] == "mae"
    assert not run(monkeypatch, "extract", "sky", "--store", "kept", "--methods", "linear", "--set", "transform=vtab")
    monkeypatch.setattr("sidetune.store.disk.write_shard", None)  # nothing is left to be written
    assert not run(monkeypatch, "fit", "sky", "--out", "s", "--method", "linear", "--store", "kept", *words[2:])


def test_weights_of_classes_are_found_and_saved(here, monkeypatch, capsys):
    root, rows = here
    kinds = [f"{name},{'rare' if i % 4 == 0 else 'often'}" for i, (name, *_) in enumerate(rows)]
    (root / "sky/labels.csv").write_text("image,kind\n" + "\n".join(kinds))
    words = ["--epochs", 1, "--set", "transform=vtab", "--set", "task.metric=macro_f1", "--set", "recipe.keep=best"]
    assert not run(monkeypatch, "fit", "sky", "--out", "m", *words, "--set", "task.weights=balanced", "--json")
    result = json.loads(capsys.readouterr().out)
    assert set(result["scores"]["test"]["precision"]) == {"often", "rare"}
    task = sidetune.load("m").task
    assert task.classes == ("often", "rare") and task.weights == pytest.approx((2 / 3, 2), rel=0.1)
    assert task.metric == "macro_f1"


def test_methods_that_look_at_classes_first_are_refused_for_other_tasks(here, monkeypatch, capsys):
    root, rows = here
    (root / "sky/labels.csv").write_text("image,a,b\n" + "\n".join(f"{n},1,{i % 2}" for i, (n, *_) in enumerate(rows)))
    assert run(monkeypatch, "fit", "sky", "--method", "spt-lora", "--out", "m", "--epochs", 1)
    assert "looks at training images by their classes" in capsys.readouterr().err
