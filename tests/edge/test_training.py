"""Training on the device: PyTorch's numbers, a folder that PyTorch loads, the same parameters after power cuts."""

import json
import random
import re
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import tiny_backbone
from flaky import tiny_service
from safetensors.numpy import load_file

import sidetune
from sidetune.edge import artefact
from sidetune.edge.adamw import AdamW
from sidetune.edge.artefact import Choices
from sidetune.edge.choose import choose_k
from sidetune.edge.cli import main
from sidetune.edge.client import Client
from sidetune.edge.enroll import enroll
from sidetune.edge.features import REFUSED, FeatureFile
from sidetune.edge.predict import Predictor, predict
from sidetune.edge.trainer import fit
from sidetune.errors import DataError, InUse, NonFiniteLoss, RunExists, WeightsMismatch
from sidetune.locked import worked_on
from sidetune.recipe import Recipe
from sidetune.seam.features import Features
from sidetune.seam.taps import sum_of_taps

RECIPE = Recipe(epochs=6, batch_size=8, seed=1, lr_update="step")
CHOICES = Choices(rank=8, layers=2, lr=1e-2)


@pytest.fixture
def file(folder, tmp_path):
    enroll(Client(tiny_service(), "tiny"), folder, tmp_path / "f", ks=[2, 4])
    return tmp_path / "f"


def parameters(folder):
    return load_file(folder / "model.safetensors")


def same(a, b):
    return a.keys() == b.keys() and all(np.array_equal(a[name], b[name]) for name in a)


def test_it_learns_the_squares(file, tmp_path):
    done = fit(file, tmp_path / "m", choices=CHOICES, recipe=RECIPE)
    assert done.history[-1].loss < 0.5 * done.history[0].loss
    assert done.accuracy["test"] == 1 and done.history[-1].val_accuracy == 1
    assert json.loads((tmp_path / "m" / "run" / "history.json").read_text()) == [asdict(e) for e in done.history]


def test_adamw_is_pytorchs():
    rng = np.random.default_rng(0)
    p = rng.standard_normal(1000).astype(np.float32)
    theirs = [torch.tensor(p[:600], requires_grad=True), torch.tensor(p[600:], requires_grad=True)]
    groups = [{"params": [theirs[0]], "weight_decay": 0.05}, {"params": [theirs[1]], "weight_decay": 0.0}]
    optimizer, ours = torch.optim.AdamW(groups, lr=1e-2), AdamW.of(1000)
    for _ in range(20):
        gradient = rng.standard_normal(1000).astype(np.float32)
        theirs[0].grad, theirs[1].grad = torch.tensor(gradient[:600]), torch.tensor(gradient[600:])
        optimizer.step()
        ours.step(p, gradient, lr=1e-2, weight_decay=0.05, num_decayed=600, betas=(0.9, 0.999))
    expected = torch.cat(theirs).detach().numpy()
    assert np.abs(p - expected).max() < 1e-6


def test_a_run_is_that_of_pytorch_from_the_same_start(file, tmp_path):
    """Same features, start, order, rates and decay: after 24 steps the parameters are still the same."""
    fit(file, tmp_path / "m", choices=CHOICES, recipe=RECIPE)
    from sidetune.edge.parameters import Shape, start
    from sidetune.train.optimizer import make_optimizer
    from sidetune.train.schedule import learning_rate

    model = sidetune.adapt(tiny_backbone("vit"), "mist", num_classes=3, rank=8, layers=2).train()
    begun = start(Shape(width=48, num_classes=3, rank=8, layers=2), seed=1)
    model.load_trained({name: torch.tensor(t) for name, t in begun.tensors.items()})
    optimizer = make_optimizer(model, RECIPE, 1e-2)
    with FeatureFile(file) as opened:
        images, labels = opened.part("train"), torch.tensor(opened.labels())
        x = torch.tensor(opened.batch(np.arange(48), 4, np.empty((48, 17, 48), np.float32)))
    steps = len(images) // 8
    for epoch in range(6):
        order = images[np.random.default_rng([1, epoch]).permutation(len(images))]
        for step in range(steps):
            for group in optimizer.param_groups:
                group["lr"] = learning_rate(RECIPE, 1e-2, epoch + step / steps)
            batch = torch.tensor(order[step * 8 : step * 8 + 8])
            logits = model.head(model.suffix(Features({sum_of_taps(4): x[batch]})))
            torch.nn.functional.cross_entropy(logits, labels[batch]).backward()
            optimizer.step()
            optimizer.zero_grad()
    found = parameters(tmp_path / "m")
    for name, t in model.trained().items():
        assert np.linalg.norm(found[name] - t.numpy()) < 1e-3 * np.linalg.norm(t.numpy()) + 1e-4, name


def test_pieces_of_any_size_train_the_same(file, tmp_path):
    for size in (1, 8):
        recipe = Recipe(**{**asdict(RECIPE), "micro_batch": size})
        fit(file, tmp_path / str(size), choices=CHOICES, recipe=recipe)
    a, b = parameters(tmp_path / "1"), parameters(tmp_path / "8")
    assert all(np.allclose(a[name], b[name], atol=1e-4) for name in a)


def test_any_number_of_threads_gives_the_same_parameters_to_the_last_bit(file, tmp_path):
    for threads in (1, 2, 5):
        fit(file, tmp_path / str(threads), choices=CHOICES, recipe=RECIPE, threads=threads)
    assert all(same(parameters(tmp_path / "1"), parameters(tmp_path / n)) for n in ("2", "5"))


def test_pytorch_loads_what_the_device_trained_and_the_logits_are_the_same(file, tmp_path):
    fit(file, tmp_path / "m", choices=CHOICES, recipe=RECIPE)
    model = sidetune.load(tmp_path / "m", backbone=tiny_backbone("vit"))
    assert model.method.k == 4 and model.task.classes == ("dark", "grey", "light")
    assert model.recipe.epochs == 6 and model.transform.preset == "vtab"
    card = tiny_service().card
    ours = Predictor(artefact.load(tmp_path / "m", card))
    x = np.random.default_rng(0).standard_normal((17, 48)).astype(np.float32)
    with torch.no_grad():
        theirs = model(Features({sum_of_taps(4): torch.from_numpy(x[None])})).numpy()
    assert np.abs(ours.logits(x) - theirs[0]).max() < 1e-4


def test_the_device_loads_what_pytorch_trained_and_labels_images_as_it_does(folder, tmp_path):
    choices = {"rank": 8, "layers": 2, "k": 2}
    model = sidetune.adapt(tiny_backbone("vit"), "mist", num_classes=3, transform="vtab", **choices)
    sidetune.fit(model, folder / "train", recipe=Recipe(epochs=2, batch_size=8, precision="fp32"))
    model.save_pretrained(tmp_path / "m")
    client = Client(tiny_service(), "tiny")
    loaded = artefact.load(tmp_path / "m", client.card())
    images = sorted((folder / "test").rglob("*.png"))
    for ours, theirs in zip(
        predict(client, loaded, images, top=3, precision="fp32"), model.predict(images, top=3), strict=True
    ):
        assert [label for label, _ in ours.top] == [label for label, _ in theirs.top]
        assert np.allclose([p for _, p in ours.top], [p for _, p in theirs.top], atol=1e-4)


def test_a_service_or_a_method_that_does_not_fit_is_refused(file, tmp_path):
    from sidetune.serve.local import Local

    fit(file, tmp_path / "m", choices=CHOICES, recipe=RECIPE)
    other = Local(tiny_backbone("vit", seed=1), transform="photo").card
    with pytest.raises(WeightsMismatch, match="weights .*; transform vtab, the service has photo"):
        artefact.load(tmp_path / "m", other)
    for method, choices in (("mist", {"block": "mlp"}), ("linear", {})):
        sidetune.adapt(tiny_backbone("vit"), method, num_classes=3, **choices).save_pretrained(tmp_path / method)
        with pytest.raises(ValueError, match="the device computes"):
            artefact.load(tmp_path / method, tiny_service().card)


RUN = """
import os, signal, sys
from pathlib import Path
from sidetune.edge import trainer
from sidetune.edge.artefact import Choices
from sidetune.recipe import Recipe
file, out, resume, left = sys.argv[1:]
left = int(left)

def counted(call):
    def instead(*given, **named):
        global left
        left -= 1
        if left < 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return call(*given, **named)
    return instead

for name in ("mkdir", "fsync", "replace"):
    setattr(os, name, counted(getattr(os, name)))
recipe = Recipe(epochs=6, batch_size=8, seed=1, lr_update="step")
trainer.fit(Path(file), Path(out), choices=Choices(rank=8, layers=2, lr=1e-2), recipe=recipe, resume=resume == "True",
            checkpoint_seconds=0)
"""


def killed_run(file, out, resume, calls):
    """A run that is killed before it changes the disk once more than so often; its status and what it said."""
    words = [sys.executable, "-c", RUN, *map(str, (file, out, resume, calls))]
    run = subprocess.run(words, stderr=subprocess.PIPE, text=True)
    return run.returncode, run.stderr


def test_a_run_killed_at_any_moment_ends_with_the_same_parameters(file, tmp_path):
    fit(file, tmp_path / "whole", choices=CHOICES, recipe=RECIPE)
    moments, statuses = iter((3, 14, 21, 25, 40, 10**6)), []  # of mkdir, fsync and replace each
    for calls in moments:
        status, said = killed_run(file, tmp_path / "killed", bool(statuses), calls)
        assert status in (0, -signal.SIGKILL), said
        statuses.append(status)
    assert statuses == [-signal.SIGKILL] * 5 + [0]
    assert same(parameters(tmp_path / "killed"), parameters(tmp_path / "whole"))
    assert not list((tmp_path / "killed" / "run").glob(".*"))


def test_a_folder_with_a_run_is_not_written_over(file, tmp_path):
    fit(file, tmp_path / "m", choices=CHOICES, recipe=RECIPE)
    with pytest.raises(RunExists, match="--resume"):
        fit(file, tmp_path / "m", choices=CHOICES, recipe=RECIPE)
    with pytest.raises(RunExists, match="other choices: method"):
        fit(file, tmp_path / "m", choices=Choices(rank=4), recipe=RECIPE, resume=True)
    before = parameters(tmp_path / "m")
    fit(file, tmp_path / "m", choices=CHOICES, recipe=RECIPE, resume=True)
    assert same(parameters(tmp_path / "m"), before)
    fit(file, tmp_path / "m", choices=Choices(rank=4), recipe=RECIPE, overwrite=True)
    assert parameters(tmp_path / "m")["suffix.side.layers.0.out.weight"].shape == (48, 4)


def test_a_run_goes_on_with_the_same_features_alone(file, tmp_path):
    fit(file, tmp_path / "m", choices=CHOICES, recipe=RECIPE)
    with FeatureFile(file, writable=True) as opened:
        images = opened.part("train")
        for a, b in zip(images, reversed(images), strict=True):
            opened.put(int(a), {k: opened.record(int(b), k).tobytes() for k in (2, 4)})
    with pytest.raises(RunExists, match="the training images or their labels were changed"):
        fit(file, tmp_path / "m", choices=CHOICES, recipe=RECIPE, resume=True)
    fit(file, tmp_path / "m", choices=CHOICES, recipe=RECIPE, overwrite=True)


def test_a_folder_that_is_worked_on_is_left_alone(file, tmp_path):
    fit(file, tmp_path / "m", choices=CHOICES, recipe=replace(RECIPE, epochs=2))
    before = parameters(tmp_path / "m")
    with ThreadPoolExecutor(1) as other, worked_on(tmp_path / "m"):
        again = other.submit(fit, file, tmp_path / "m", choices=CHOICES, recipe=RECIPE, overwrite=True)
        with pytest.raises(InUse, match="is being worked on by another process"):
            again.result()
    assert same(parameters(tmp_path / "m"), before)


def test_what_others_left_in_the_folder_stays(file, tmp_path):
    out = tmp_path / "m"
    (out / "run").mkdir(parents=True)
    (out / "README.md").write_text("mine")
    (out / "run" / "notes.txt").write_text("mine")
    for _ in range(2):
        fit(file, out, choices=CHOICES, recipe=replace(RECIPE, epochs=1), overwrite=True)
    assert (out / "README.md").read_text() == (out / "run" / "notes.txt").read_text() == "mine"
    (other := tmp_path / "other").mkdir()
    (other / "model.safetensors").write_bytes(b"mine")
    with pytest.raises(RunExists, match="weights that sidetune did not write"):
        fit(file, other, choices=CHOICES, recipe=RECIPE, overwrite=True)
    assert (other / "model.safetensors").read_bytes() == b"mine"


def test_a_checkpoint_that_was_damaged_or_exchanged_is_not_trusted(file, tmp_path):
    short = replace(RECIPE, epochs=2)
    for name, seed in (("m", 1), ("n", 2)):
        fit(file, tmp_path / name, choices=CHOICES, recipe=replace(short, seed=seed))
    state = tmp_path / "m" / "run" / "checkpoint.safetensors"
    whole, rng = state.read_bytes(), random.Random(0)

    def refused(data, message):
        state.write_bytes(data)
        with pytest.raises(DataError, match=message):
            fit(file, tmp_path / "m", choices=CHOICES, recipe=short, resume=True)

    header = 8 + int.from_bytes(whole[:8], "little")
    for place in [rng.randrange(8) for _ in range(4)] + [rng.randrange(header) for _ in range(40)]:
        refused(whole[:place] + bytes([whole[place] ^ 1 << rng.randrange(8)]) + whole[place + 1 :], "is damaged")
    for place in [rng.randrange(header, len(whole)) for _ in range(10)]:
        refused(whole[:place] + bytes([whole[place] ^ 1 << rng.randrange(8)]) + whole[place + 1 :], "not as it was")
    refused(whole[: len(whole) // 2], "is damaged")
    refused((tmp_path / "n" / "run" / state.name).read_bytes(), "belongs to another run")
    state.write_bytes(whole)
    fit(file, tmp_path / "m", choices=CHOICES, recipe=short, resume=True)


def test_the_verb_goes_on_by_the_runs_own_choices(file, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    words = ["fit", "--out", str(tmp_path / "m")]
    main([*words, str(file), "--epochs", "2", "--rank", "8", "--layers", "2", "--k", "2", "--batch-size", "8"])
    before = parameters(tmp_path / "m")
    (tmp_path / "m" / "model.safetensors").unlink()
    main([*words, "--resume", "--micro-batch", "4"])
    assert same(parameters(tmp_path / "m"), before)
    capsys.readouterr()
    with pytest.raises(SystemExit):
        main([*words, "--resume", "--rank", "4"])
    assert "other choices: method.rank: 8 -> 4" in capsys.readouterr().err
    main(["fit", str(file), "--out", str(tmp_path / "new"), "--resume", "--epochs", "1", "--rank", "8"])
    assert "nothing to resume in" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["fit", "--out", str(tmp_path / "none")])
    assert "name the file of features to train on" in capsys.readouterr().err


def test_a_k_must_have_been_enrolled(file, tmp_path):
    with pytest.raises(ValueError, match="holds the sums up to k = 2, 4, not 3; enrol with --k 3"):
        fit(file, tmp_path / "m", choices=Choices(k=3))
    fit(file, tmp_path / "m", choices=Choices(rank=8, layers=1, k=2), recipe=RECIPE)
    assert json.loads((tmp_path / "m" / "sidetune.json").read_text())["method"]["k"] == 2


def test_incomplete_and_damaged_files_are_not_trained_on(file, tmp_path):
    with FeatureFile(file, writable=True) as opened:
        opened.mark(0, REFUSED, [0, 0])
        train = int(opened.part("train")[0])
        place = opened.place(train, 4)
    fit(file, tmp_path / "m", choices=CHOICES, recipe=RECIPE)
    with file.open("r+b") as raw:
        raw.seek(place + 9)
        raw.write(b"!!!!")
    with pytest.raises(DataError, match="features of 1 images .* are damaged"):
        fit(file, tmp_path / "n", choices=CHOICES, recipe=RECIPE)
    with FeatureFile(file, writable=True) as opened:
        opened.mark(train, 1 | 1 << 17, [0, 0])
    with pytest.raises(DataError, match="lacks 1 of 48 images"):
        fit(file, tmp_path / "n", choices=CHOICES, recipe=RECIPE)


def test_a_loss_that_is_not_finite_stops_the_run(file, tmp_path):
    with pytest.raises(NonFiniteLoss, match="try a lower --lr"):
        recipe = Recipe(**{**asdict(RECIPE), "lr": 1e30, "warmup_epochs": 0})
        fit(file, tmp_path / "m", choices=CHOICES, recipe=recipe)


def test_choices_the_device_does_not_follow_are_refused(file, tmp_path):
    with pytest.raises(ValueError, match="does not follow clip_grad, drop_path"):
        fit(file, tmp_path / "m", recipe=Recipe(clip_grad=1.0, drop_path=0.1))
    with pytest.raises(ValueError, match="pool must be mean or token"):
        Choices(pool="max")


def test_the_class_token_can_be_pooled(file, tmp_path):
    done = fit(file, tmp_path / "m", choices=Choices(rank=8, layers=2, lr=1e-2, pool="token"), recipe=RECIPE)
    assert done.history[-1].loss < done.history[0].loss
    assert sidetune.load(tmp_path / "m", backbone=tiny_backbone("vit")).method.pool == "token"


def test_the_python_of_edge_md_runs(folder, tmp_path, monkeypatch):
    page = (Path(__file__).parents[2] / "docs" / "edge.md").read_text()
    (code,) = re.findall(r"```python\n(.*?)```", page, flags=re.S)
    monkeypatch.chdir(tmp_path)
    folder.rename("photos")
    monkeypatch.setattr("sidetune.open_backbone", lambda _: tiny_backbone("vit"), raising=False)
    monkeypatch.setattr("builtins.print", lambda scores: shown.append(scores))
    shown = []
    exec(code.replace("epochs=20", "epochs=2"), {})
    assert shown[0].keys() == {"val", "test"}


def test_validation_images_choose_k(file, tmp_path):
    heard, out = {}, tmp_path / "m"
    with FeatureFile(file, writable=True) as opened:  # under k = 4 all images look the same
        blank = opened.record(0, 4).tobytes()
        for image in range(len(opened.header.images)):
            opened.put(image, {2: opened.record(image, 2).tobytes(), 4: blank})
    recipe = replace(RECIPE, epochs=16)
    assert choose_k(file, out, choices=CHOICES, recipe=recipe, report=heard.__setitem__) == 2
    assert heard[2] > heard[4] and list(heard) == [2, 4]
    alone = fit(file, tmp_path / "alone", choices=replace(CHOICES, k=2), recipe=replace(RECIPE, epochs=4))
    assert alone.accuracy["val"] == heard[2]
    state = out / "trials" / "k-2" / "run" / "checkpoint.safetensors"
    before = state.stat().st_mtime_ns
    assert choose_k(file, out, choices=CHOICES, recipe=recipe) == 2 and state.stat().st_mtime_ns == before
    fit(file, out, choices=replace(CHOICES, k=2), recipe=recipe)
    with pytest.raises(RunExists, match="--resume"):
        choose_k(file, out, choices=CHOICES, recipe=recipe)


def test_k_cannot_be_chosen_without_validation_images(file, tmp_path):
    with FeatureFile(file, writable=True) as opened:
        for image in opened.part("val"):
            opened.mark(int(image), REFUSED, [0, 0])
    with pytest.raises(DataError, match="no validation images"):
        choose_k(file, tmp_path / "m", choices=CHOICES, recipe=RECIPE)
    assert not (tmp_path / "m").exists()
