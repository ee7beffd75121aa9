"""Pictures with masks through the verbs, from a folder to drawn answers and graphs."""

import json
import sys

import numpy as np
import pytest
from PIL import Image

import sidetune
from sidetune.cli.main import main


@pytest.fixture
def here(tmp_path, monkeypatch, fetched):
    """24 pictures of bright squares on a dim ground, and a small network in place of one that has to be fetched."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    for folder in ("images", "masks"):
        (tmp_path / "yard" / folder).mkdir(parents=True)
    for i in range(24):
        row, column = rng.integers(0, 2, size=2) * 20
        pixels, mask = rng.integers(40, 90, (40, 40, 3)).astype(np.uint8), np.zeros((40, 40), np.uint8)
        pixels[row : row + 20, column : column + 20], mask[row : row + 20, column : column + 20] = 240, 1
        Image.fromarray(pixels).save(tmp_path / f"yard/images/{i:02}.png")
        Image.fromarray(mask).save(tmp_path / f"yard/masks/{i:02}.png")
    (tmp_path / "yard/classes.txt").write_text("ground\nsquare\n")
    return tmp_path


def read(path):
    with Image.open(path) as picture:
        picture.load()
        return picture


def run(monkeypatch, *words):
    monkeypatch.setattr(sys, "argv", ["sidetune", *map(str, words)])
    with pytest.raises(SystemExit) as stopped:
        main()
    return stopped.value.code


def test_from_a_folder_to_drawn_answers_and_graphs(here, monkeypatch, capsys):
    words = ["--epochs", 20, "--lr", "1e-2", "--set", "transform=vtab", "--set", "recipe.batch_size=8"]
    assert not run(monkeypatch, "fit", "yard", "--method", "linear", "--out", "m", *words)
    told = capsys.readouterr()
    assert "images of 2 classes" in told.err and "val mIoU" in told.err and "test mIoU" in told.out
    assert not run(monkeypatch, "evaluate", "m", "--json")
    score = json.loads(capsys.readouterr().out)
    assert score["miou"] > 0.8 and set(score["iou"]) == {"ground", "square"} and score["num_images"] == 5
    asked = ("predict", "m", "yard/images", "--draw", "drawn", "--masks", "said")
    assert not run(monkeypatch, *asked, "--json")
    answers = json.loads(capsys.readouterr().out)
    assert len(answers) == 24 and answers[3]["mask"] == "said/03.png" and answers[3]["size"] == [40, 40]
    said, truth = read(here / "said/03.png"), read(here / "yard/masks/03.png")
    assert (np.asarray(said) == np.asarray(truth)).mean() > 0.85 and said.mode == "P"
    drawn = read(here / "drawn/03.png")
    assert drawn.height >= 40 and drawn.width > 40
    assert not run(monkeypatch, *asked), "what this wrote it may replace"
    Image.new("L", (4, 4)).save(here / "said/03.png")
    assert run(monkeypatch, *asked) and "said/03.png is there already, and not from this" in capsys.readouterr().err
    assert run(monkeypatch, "predict", "m", "yard/images", "--draw", "one", "--masks", "one")
    assert "folder of its own" in capsys.readouterr().err
    assert not run(monkeypatch, "export", "m", "m.onnx")
    model = sidetune.load("m")
    assert model.task.classes == ("ground", "square") and model.transform.preset == "vtab"


def test_methods_are_compared_with_pictures_of_truth_and_answers(here, monkeypatch, capsys):
    words = ["--epochs", 1, "--set", "image_size=32", "--set", "recipe.batch_size=8"]
    assert not run(monkeypatch, "compare", "yard", "--methods", "linear,bitfit", "--out", "c", *words)
    assert "mIoU" in capsys.readouterr().out
    rows = json.loads((here / "c/results-yard.json").read_text())["rows"]
    assert [row["method"] for row in rows] == ["linear", "bitfit"] and all(row["peak_bytes"] > 0 for row in rows)
    assert read(here / "c/predictions-yard.png").width > 500


def test_drawing_is_refused_where_answers_are_of_whole_pictures(here, monkeypatch, capsys):
    for name in ("a", "b"):
        (here / "photos" / name).mkdir(parents=True)
        for i in range(6):
            read(here / f"yard/images/{i:02}.png").save(here / f"photos/{name}/{i}.png")
    assert not run(monkeypatch, "fit", "photos", "--out", "k", "--epochs", 1, "--set", "recipe.batch_size=8")
    capsys.readouterr()
    assert run(monkeypatch, "predict", "k", "photos/a/0.png", "--draw", "drawn")
    assert "answers about places, and this model's are classification" in capsys.readouterr().err
    assert not (here / "drawn").exists()
    assert run(monkeypatch, "fit", "yard", "--out", "x", "--set", "transform=photo", "--epochs", 1)
    assert "'photo' does not serve segmentation; those that do: vtab, vtab-flip, scene" in capsys.readouterr().err
