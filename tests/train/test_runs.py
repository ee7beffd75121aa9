"""A run's folder: whose it is, who works on it, what it goes on with, and that what it holds is what was written."""

import json
import os
import platform
import random
import subprocess
import sys

import pytest
import torch
from conftest import tiny_backbone
from safetensors.torch import load_file, save_file

import sidetune
from sidetune.errors import DataError, DataWarning, InUse, NonFiniteLoss, RunExists
from sidetune.locked import held, leave_to_parent, worked_on
from sidetune.memo import Memo
from sidetune.recipe import Recipe
from sidetune.sealed import is_sealed, parsed, sealed_json
from sidetune.train.checkpoint import RunFolder
from sidetune.train.folder import FORMAT, REQUEST, TRIALS, comparable, differences
from sidetune.train.loop import Silent

RECIPE = Recipe(epochs=2, batch_size=16, precision="fp32", num_workers=0)


def fitted(samples, out, recipe=RECIPE, method="linear", seed=0, **how):
    model = sidetune.adapt(tiny_backbone("vit"), method, classes=samples.classes, transform="vtab", seed=seed)
    return model, sidetune.fit(model, samples, recipe=recipe, out=out, **how)


@pytest.fixture
def stopped(samples, tmp_path):
    """A run of two epochs, stopped after the first."""

    class Stop(Silent):
        def epoch(self, epoch, num_epochs):
            raise NonFiniteLoss("stopped here")

    with pytest.raises(NonFiniteLoss, match="stopped here"):
        fitted(samples, tmp_path / "run", report=Stop())
    return tmp_path / "run"


def flipped(path, rng):
    data = bytearray(path.read_bytes())
    data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    path.write_bytes(data)


def test_weights_of_others_are_never_replaced(samples, tmp_path):
    for name, weights in (("pretrained", {"format": "pt"}), ("merged", {"sidetune": "merged"}), ("bare", None)):
        folder = tmp_path / name
        folder.mkdir()
        save_file({"a": torch.zeros(2)}, folder / "model.safetensors", metadata=weights)
        before = (folder / "model.safetensors").read_bytes()
        for how in ({}, {"overwrite": True}, {"resume": True}):
            with pytest.raises(RunExists, match="model.safetensors holds .*weights.* choose another folder"):
                fitted(samples, folder, **how)
        with pytest.raises(RunExists, match="choose another folder"):
            sidetune.adapt(tiny_backbone("vit"), "linear", num_classes=2).save_pretrained(folder)
        assert {p.name: p.read_bytes() for p in folder.iterdir()} == {"model.safetensors": before}


def test_a_folder_that_is_called_run_is_left_alone_unless_it_is_one(samples, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run/result.json").write_text("mine")
    with pytest.raises(RunExists, match="run holds what is no run of sidetune's"):
        fitted(samples, tmp_path, overwrite=True)
    assert (tmp_path / "run/result.json").read_text() == "mine"


def test_overwriting_takes_away_what_is_ours_and_nothing_else(samples, tmp_path):
    fitted(samples, tmp_path)
    kept = {"notes.txt": "mine", "run/notes.txt": "mine", "run/tensorboard/mine": "mine", "README.md": "edited by me"}
    for name, text in kept.items():
        (tmp_path / name).write_text(text)
    fitted(samples, tmp_path, Recipe(**{**vars(RECIPE), "epochs": 1}), overwrite=True)
    assert {name: (tmp_path / name).read_text() for name in kept} == kept
    assert len(json.loads((tmp_path / "run/history.json").read_text())) == 1


def test_cards_of_ours_are_renewed_until_somebody_edits_them(samples, tmp_path):
    fitted(samples, tmp_path)
    first = (tmp_path / "README.md").read_text()
    fitted(samples, tmp_path, method="lora", overwrite=True)
    assert "adapted by Linear" in first and "adapted by LoRA" in (tmp_path / "README.md").read_text()
    (tmp_path / "README.md").write_text(first.replace("# ", "# Mine: ", 1))
    fitted(samples, tmp_path, overwrite=True)
    assert (tmp_path / "README.md").read_text().startswith("# Mine: ")


HOLD = """
import sys
from pathlib import Path
from sidetune.locked import held, leave_to_parent, worked_on
with worked_on(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_one_process_works_on_a_folder_at_a_time(samples, tmp_path):
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, tmp_path], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as other:
        assert other.stdout.readline() == b"held\n"
        for how in ({}, {"resume": True}, {"overwrite": True}):
            with pytest.raises(InUse, match="is being worked on by another process"):
                fitted(samples, tmp_path, **how)
        other.kill()
    fitted(samples, tmp_path)
    assert not [p.name for p in tmp_path.rglob("*") if p.name.startswith(".")]


def test_a_thread_enters_its_folder_again_and_children_do_not_keep_it(tmp_path):
    with worked_on(tmp_path), worked_on(tmp_path):
        (place,) = held.values()
        inherited = os.dup(place)
        held_before = dict(held)
        leave_to_parent()  # what a process that was forked does first
        assert not held
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(place)
        held.update({mine: inherited for mine in held_before})
    with worked_on(tmp_path):
        pass


def test_other_pictures_or_labels_are_not_gone_on_with(samples, stopped):
    changed = samples.images.copy()
    changed[0, 0, 0] ^= 1
    for other in (
        type(samples)(images=changed, labels=samples.labels, classes=samples.classes),
        type(samples)(images=samples.images, labels=[0, *samples.labels[1:-1], 1], classes=samples.classes),
    ):
        with pytest.raises(RunExists, match="other choices: the training images or their labels were changed"):
            fitted(other, stopped, resume=True)
    assert fitted(samples, stopped, resume=True)[1].num_found == 1


def test_validation_images_decide_only_where_the_best_epoch_is_kept(samples, tmp_path):
    best = Recipe(**{**vars(RECIPE), "keep": "best"})
    fitted(samples, tmp_path, best, val=samples.subset(range(9)))
    with pytest.raises(RunExists, match="other choices: the validation images or their labels were changed"):
        fitted(samples, tmp_path, best, val=samples.subset(range(8)), resume=True)


def test_a_run_goes_on_by_other_means(samples, stopped, tmp_path):
    whole, _ = fitted(samples, tmp_path / "whole")
    means = {"num_workers": 1, "micro_batch": 16, "features": "off", "features_limit": 1}
    model, done = fitted(samples, stopped, Recipe(**{**vars(RECIPE), **means}), resume=True)
    assert done.num_found == 1 and len(done.history) == 2
    assert all(torch.allclose(t, whole.trained()[name], atol=1e-6) for name, t in model.trained().items())


def test_every_flipped_bit_of_a_checkpoint_or_a_request_is_noticed(samples, stopped):
    rng = random.Random(3)
    for name, count in (("checkpoint.pt", 20), ("run.json", 20)):
        path = stopped / "run" / name
        whole = path.read_bytes()
        for _ in range(count):
            flipped(path, rng)
            with pytest.raises(
                (DataError, RunExists, DataWarning), match="damaged|other choices|changed|no run|another"
            ):
                fitted(samples, stopped, resume=True)
            path.write_bytes(whole)
    assert fitted(samples, stopped, resume=True)[1].num_found == 1


def test_half_a_checkpoint_says_so(samples, stopped):
    path = stopped / "run/checkpoint.pt"
    whole = path.read_bytes()
    for part in (whole[: len(whole) // 2], whole[:40], b"", b"PK" + whole[200:400]):
        path.write_bytes(part)
        with pytest.raises(DataError, match="checkpoint.pt is damaged.*begin again with --overwrite"):
            fitted(samples, stopped, resume=True)


def test_a_checkpoint_of_another_run_is_not_taken(samples, stopped, tmp_path):
    fitted(samples, tmp_path / "other", Recipe(**{**vars(RECIPE), "lr": 0.5}))
    (stopped / "run/checkpoint.pt").write_bytes((tmp_path / "other/run/checkpoint.pt").read_bytes())
    with pytest.raises(DataError, match="belongs to another run than run.json tells of"):
        fitted(samples, stopped, resume=True)


def test_a_run_whose_epochs_were_edited_goes_on_and_says_so(samples, stopped):
    asked = stopped / "run/run.json"
    asked.write_text(asked.read_text().replace('"epochs": 2', '"epochs": 3'))
    with pytest.warns(DataWarning, match="run.json was changed since the run began; it is now one of 3 epochs"):
        _, done = fitted(samples, stopped, Recipe(**{**vars(RECIPE), "epochs": 3}), resume=True)
    assert len(done.history) == 3


def test_every_flipped_bit_of_a_saved_model_is_noticed(samples, tmp_path):
    model, _ = fitted(samples, tmp_path)
    rng, backbone = random.Random(5), tiny_backbone("vit")
    for name, count in (("model.safetensors", 30), ("sidetune.json", 60)):
        whole = (tmp_path / name).read_bytes()
        for _ in range(count):
            flipped(tmp_path / name, rng)
            with pytest.raises(DataError, match=rf"{name} (is damaged|has format)"):
                sidetune.load(tmp_path, backbone=backbone)
            (tmp_path / name).write_bytes(whole)
    assert torch.equal(sidetune.load(tmp_path, backbone=backbone).head.weight, model.head.weight)


def test_weights_that_are_no_numbers_are_not_loaded(samples, tmp_path):
    fitted(samples, tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    tensors["head.bias"][1] = float("nan")
    save_file(tensors, tmp_path / "model.safetensors")
    for force, message in (
        (False, "belongs to another model than sidetune.json"),
        (True, r"no numbers \(in head.bias\)"),
    ):
        with pytest.raises(DataError, match=message):
            sidetune.load(tmp_path, backbone=tiny_backbone("vit"), force=force)


def test_a_description_that_was_edited_is_taken_by_force(samples, tmp_path):
    fitted(samples, tmp_path)
    told = tmp_path / "sidetune.json"
    told.write_text(told.read_text().replace('"dark"', '"night"'))
    with pytest.raises(DataError, match="sidetune.json is damaged or was edited: .*by --force"):
        sidetune.load(tmp_path, backbone=tiny_backbone("vit"))
    assert sidetune.load(tmp_path, backbone=tiny_backbone("vit"), force=True).classes[0] == "night"


def test_parameters_that_became_infinite_are_not_kept(samples, tmp_path):
    model = sidetune.adapt(tiny_backbone("vit"), "linear", classes=samples.classes, transform="vtab")

    class Poison(Silent):
        def step(self, epoch, num_epochs, step, num_steps):
            if step == num_steps:
                model.head.bias.data[0] = float("inf")

    with pytest.raises(NonFiniteLoss, match="trained parameters became NaN or infinite in epoch 1 "):
        sidetune.fit(model, samples, recipe=RECIPE, out=tmp_path, report=Poison())
    assert RunFolder(tmp_path).load() is None


def test_sealed_json_is_known_by_its_text(tmp_path):
    path = tmp_path / "a.json"
    path.write_text(sealed_json({"a": 1e-5, "name": "Zürich"}), encoding="utf-8")
    assert is_sealed(path, parsed(path, "")) and parsed(path, "")["name"] == "Zürich"
    path.write_text(path.read_text(encoding="utf-8").replace("1e-05", "1E-05"), encoding="utf-8")
    assert not is_sealed(path, parsed(path, ""))
    for text in ("[1]", "{", ""):
        path.write_text(text)
        with pytest.raises(DataError, match="a.json is damaged.*; do this"):
            parsed(path, "do this")


def test_a_request_that_was_changed_before_the_first_epoch_ended_is_damaged(tmp_path):
    asked = {"recipe": {"lr": 1.0}, "backbone": {}}
    RunFolder(tmp_path).start(asked, resume=False, overwrite=False)
    path = tmp_path / "run" / REQUEST
    path.write_text(path.read_text().replace("1.0", "2.0"))
    with pytest.raises(DataError, match="is damaged: it is not as it was written"):
        RunFolder(tmp_path).start({"recipe": {"lr": 2.0}, "backbone": {}}, resume=True, overwrite=False)


@pytest.mark.parametrize("how", ["resume", "overwrite"])
def test_what_killed_writers_left_in_a_runs_folder_is_taken_away(tmp_path, how):
    asked = {"recipe": {"lr": 1.0}, "backbone": {}}
    RunFolder(tmp_path).start(asked, resume=False, overwrite=False)
    left = tmp_path / f"run/.checkpoint.pt.{platform.node()}~{2**22 + 1}~x"
    left.mkdir()
    trials = Memo(tmp_path / "run" / TRIALS)
    trials.put("a question", 1)
    (tmp_path / "run/tensorboard").mkdir()
    curves = [tmp_path / "run/tensorboard" / name for name in ("events.out.tfevents.1.host", "mine")]
    [path.touch() for path in curves]
    RunFolder(tmp_path).start(asked, resume=how == "resume", overwrite=how == "overwrite")
    assert not left.exists()
    assert (tmp_path / "run" / TRIALS).exists() == (how == "resume")
    assert [path.exists() for path in curves] == [how == "resume", True]


def test_a_run_that_may_be_resumed_or_replaced_is_resumed(samples, stopped):
    assert fitted(samples, stopped, resume=True, overwrite=True)[1].num_found == 1


def test_a_run_that_is_begun_again_leaves_nothing_of_the_model_before_it(samples, tmp_path):
    class Stop(Silent):
        def epoch(self, epoch, num_epochs):
            raise NonFiniteLoss("stopped here")

    fitted(samples, tmp_path)
    assert {"model.safetensors", "sidetune.json"} <= {p.name for p in tmp_path.iterdir()}
    assert json.loads((tmp_path / "run" / REQUEST).read_text())["format"] == FORMAT
    with pytest.raises(NonFiniteLoss, match="stopped here"):
        fitted(samples, tmp_path, overwrite=True, report=Stop())
    assert not {"model.safetensors", "sidetune.json"} & {p.name for p in tmp_path.iterdir()}


def test_what_an_earlier_version_did_not_tell_of_is_compared_only_where_it_was_asked_for():
    before = {"recipe": {"lr": 1}, "method": {"rank": 2, "alpha": None}, "seed": 0}
    now = {"recipe": {"lr": 1}, "method": {"rank": 2, "alpha": 3, "beta": None, "gamma": 1}, "other": 1}
    assert comparable(before, now) == {"recipe": {"lr": 1}, "method": {"rank": 2, "alpha": None}}
    assert comparable(now, before) == {"recipe": {"lr": 1}, "method": {"rank": 2, "alpha": 3, "gamma": 1}}


def test_differences_are_named_one_by_one_down_to_what_has_no_parts():
    before = {"recipe": {"lr": 1, "epochs": 2}, "data": {"train": "a"}, "method": {"rank": 1}}
    assert not differences(before, before)
    told = differences(before, {"recipe": {"lr": 1, "epochs": 3}, "data": None, "method": {"rank": 1}})
    assert "epochs" in told and "lr" not in told and "rank" not in told and "data" in told
