"""A run as a value: JSON both ways, named by what decides it."""

import json
from dataclasses import replace

import pytest
import timm
import torch
from safetensors.torch import save_file

import sidetune
from sidetune import saving
from sidetune.backbones import open_backbone
from sidetune.data import sources
from sidetune.data.samples import Splits
from sidetune.data.sources import Source
from sidetune.means import Means
from sidetune.recipe import Recipe
from sidetune.runs.carry_out import Ready, carry_out, ready
from sidetune.runs.run import Run
from sidetune.tasks import task_of
from sidetune.train.folder import RESULT

QUICK = Recipe(epochs=2, batch_size=8, precision="fp32", seed=3)


@pytest.fixture
def splits(samples):
    return Splits(name="squares", train=samples, val=samples.subset(range(9)), test=samples.subset(range(9, 18)))


def run_of(splits, backbone, method="dtl+", recipe=QUICK, **how):
    how = {"task": task_of(splits.train), "transform": "vtab", **how}
    return Run.of(splits, backbone, sidetune.METHODS[method], recipe, **how)


@pytest.mark.parametrize("method", ["linear", "dtl+", "mist", "noah", "spt-lora"])
def test_a_run_comes_back_from_json(vit, splits, method):
    task = sidetune.Classification(classes=splits.train.classes, weights=(1.0, 2.0, 3.0))
    source = Source(name="photos", tune=True, reading=sidetune.Reading(levels=(0.0, 9.0)), skip_bad=True)
    run = run_of(splits, vit, method, replace(QUICK, micro_batch=4), task=task, source=source)
    again = Run.from_dict(json.loads(json.dumps(run.as_dict())))
    assert again == run and again.digest == run.digest and again.as_dict() == run.as_dict()
    assert again.source == source and again.task == task and again.recipe.lr == run.method.lr


def test_a_run_is_named_by_everything_that_decides_it_and_by_nothing_else(vit, splits):
    run = run_of(splits, vit)
    same = (
        replace(run, source=Source(name="elsewhere")),
        replace(run, backbone=replace(run.backbone, name="elsewhere.safetensors")),
        run_of(splits, vit, recipe=replace(QUICK, micro_batch=2, num_workers=3, checkpoint=True)),
        run_of(splits, vit, recipe=replace(QUICK, lr=run.method.lr)),
    )
    other = (
        replace(run, images={**run.images, "train": "0" * 64}),
        replace(run, images={**run.images, "test": "0" * 64}),
        replace(run, backbone=replace(run.backbone, digest="0" * 64)),
        replace(run, backbone=replace(run.backbone, image_size=(48, 48))),
        replace(run, backbone=replace(run.backbone, mean=(0.1, 0.2, 0.3))),
        replace(run, method=replace(run.method, rank=3)),
        replace(run, method=sidetune.METHODS["lora"]),
        replace(run, task=replace(run.task, weights="balanced")),
        replace(run, transform="photo"),
        run.with_seed(4),
        *(
            replace(run, recipe=replace(run.recipe, **change))
            for change in ({"epochs": 3}, {"lr": 0.1}, {"keep": "best"})
        ),
    )
    assert {r.digest for r in same} == {run.digest}
    assert len({run.digest, *(r.digest for r in other)}) == 1 + len(other)


def test_a_run_carried_out_is_what_adapt_fit_and_evaluate_do(vit, splits, tmp_path):
    model = sidetune.adapt(vit, "dtl+", classes=splits.train.classes, transform="vtab", seed=3)
    by_hand = sidetune.fit(model, splits.train, val=splits.val, recipe=QUICK)
    score = sidetune.evaluate(model, splits.test, precision="fp32")
    run = run_of(splits, vit)
    having = Ready(splits=splits, model=run.adapted(vit))
    done = carry_out(run, Means(micro_batch=8, num_workers=0), having=having, out=tmp_path)
    assert [e.loss for e in done.history] == [e.loss for e in by_hand.history]
    assert all(t.equal(model.trained()[name]) for name, t in done.model.trained().items())
    assert done.scores["test"] == score and done.scores.keys() == {"val", "test"} and done.model is having.model
    told = json.loads((tmp_path / "run" / RESULT).read_text())
    assert Run.from_dict(told["run"]) == run and told["digest"] == run.digest
    assert told["means"]["micro_batch"] == 8 and told["losses"] == [e.loss for e in by_hand.history]
    assert told["scores"]["test"]["accuracy"] == score.accuracy and len(told["trained"]) == 64


def test_features_stand_for_images_where_a_model_has_a_frozen_half(vit, splits):
    full, dtl = (run_of(splits, vit, name).adapted(vit) for name in ("full", "dtl+"))
    kept = {"train": object()}
    assert Ready(splits=splits, model=dtl, features=kept).part("train") is kept["train"]
    assert Ready(splits=splits, model=full, features=kept).part("train") is splits.train
    assert Ready(splits=splits, model=dtl, features=kept).part("val") is splits.val
    assert Ready(splits=replace(splits, test=None), model=dtl).part("test") is None


def test_samples_in_memory_are_not_found_again(vit, splits):
    with pytest.raises(ValueError, match="was trained on samples in memory, which nobody finds again"):
        ready(run_of(splits, vit))


@pytest.fixture
def tiny_weights(tmp_path):
    torch.manual_seed(0)
    path = tmp_path / "tiny.safetensors"
    save_file(timm.create_model("test_vit", num_classes=0).state_dict(), path)
    return path


def test_a_run_opens_what_it_names_and_nothing_that_was_changed(folder, tiny_weights):
    source = Source(name=str(folder))
    network = open_backbone(str(tiny_weights), architecture="test_vit", image_size=32)
    run = run_of(source.read(), network, "linear", source=source)
    having = ready(run)
    assert having.model.card == run.backbone and having.splits.train.digest() == run.images["train"]
    next((folder / "test").rglob("*.png")).unlink()
    with pytest.raises(sidetune.errors.DataError, match=r"squares: the test images or their labels were changed$"):
        ready(run)
    ready(run, force=True)
    tiny_weights.unlink()
    with pytest.raises(FileNotFoundError, match="weights file .*tiny.safetensors, which is not there"):
        ready(run, force=True)


def test_folders_and_files_are_placed_and_names_stay_names_whatever_stands_here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("photos", "fashion-1k", "vit_tiny_patch16_224"):
        (tmp_path / name).mkdir()
    (tmp_path / "mine.safetensors").touch()
    assert [sources.placed(n) for n in ("photos", "fashion-1k", "gone")] == [f"{tmp_path}/photos", "fashion-1k", "gone"]
    assert saving.placed("mine.safetensors") == f"{tmp_path}/mine.safetensors"
    assert [saving.placed(n) for n in ("vit_tiny_patch16_224", "gone.safetensors")] == [
        "vit_tiny_patch16_224",
        "gone.safetensors",
    ]
