"""Training: repeatable, resumable, stopped cleanly, and the same from kept features as on the fly."""

import os
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import tiny_backbone
from torch.utils.data import TensorDataset

import sidetune
from sidetune.contract import disturb
from sidetune.data.samples import Samples
from sidetune.errors import DataError, DataWarning, Interrupted, NonFiniteLoss, NoSpace, RunExists
from sidetune.methods import METHODS
from sidetune.recipe import Recipe
from sidetune.train import checkpoint
from sidetune.train.kept import together
from sidetune.train.loop import Silent
from sidetune.train.optimizer import make_optimizer
from sidetune.train.step import backward, can_be_cut, save_memory

QUICK = Recipe(epochs=3, batch_size=8, precision="fp32", lr=5e-3)


def trained(backbone, samples, recipe=QUICK, method="dtl+", transform="vtab", **how):
    model = sidetune.adapt(backbone, method, classes=samples.classes, transform=transform)
    return model, sidetune.fit(model, samples, recipe=recipe, **how)


def same(a, b):
    return all(torch.equal(x, y) for x, y in zip(a.trained().values(), b.trained().values(), strict=True))


@pytest.mark.parametrize("method", ["linear", "dtl+", "lora", "full"])
def test_every_kind_of_method_learns_brightness(vit, samples, method):
    recipe = Recipe(epochs=12, batch_size=8, precision="fp32", lr=1e-2, lr_update="step")
    model, done = trained(vit, samples, recipe, method)
    assert done.history[-1].loss < done.history[0].loss
    assert sidetune.evaluate(model, samples, precision="fp32").accuracy > 0.8


@pytest.mark.parametrize("transform", ["vtab", "photo", "few-shot"])
def test_the_same_seed_gives_the_same_numbers_and_another_seed_others(vit, samples, transform):
    recipe = Recipe(epochs=2, batch_size=8, drop_path=0.2)
    first, done = trained(vit, samples, recipe, transform=transform)
    torch.rand(3), np.random.rand(3)
    again, done_again = trained(vit, samples, recipe, transform=transform)
    assert same(first, again)
    assert [e.loss for e in done.history] == [e.loss for e in done_again.history]
    other, _ = trained(vit, samples, Recipe(epochs=2, batch_size=8, drop_path=0.2, seed=1), transform=transform)
    assert not same(first, other)


@pytest.mark.parametrize("method", ["linear", "dtl+", "lora", "partial"])
def test_training_from_kept_features_is_training_on_the_fly(vit, samples, method):
    kept, done = trained(vit, samples, method=method)
    flying, done_flying = trained(vit, samples, Recipe(**{**vars(QUICK), "features": "off"}), method=method)
    assert done.features_kept and not done_flying.features_kept
    assert [e.loss for e in done.history] == pytest.approx([e.loss for e in done_flying.history], rel=1e-5)
    images = torch.randn(4, 3, 32, 32)
    assert torch.allclose(kept(images), flying(images), rtol=1e-4, atol=1e-5)


def test_features_that_change_or_do_not_fit_are_not_kept(vit, samples):
    assert not trained(vit, samples, transform="photo")[1].features_kept
    assert not trained(vit, samples, Recipe(epochs=1, features_limit=1000))[1].features_kept
    with pytest.raises(ValueError, match="their features change from epoch to epoch"):
        trained(vit, samples, Recipe(features="memory"), transform="photo")
    with pytest.raises(ValueError, match="no block of this model is frozen"):
        trained(vit, samples, Recipe(features="memory"), method="full")


def test_stochastic_depth_follows_the_linear_rule_in_the_suffix_alone(vit):
    model = sidetune.adapt(vit, "dtl+", num_classes=3, first_write=2)
    model.suffix.set_drop_path(0.3)
    assert [round(b.drop_path1.drop_prob, 6) for b in model.suffix.blocks.values()] == [0.2, 0.3]
    assert all(type(b.drop_path1) is torch.nn.Identity for b in model.prefix.blocks.values())
    model.suffix.set_drop_path(0.0)
    assert all(type(b.drop_path1) is torch.nn.Identity for b in model.suffix.blocks.values())


def test_weight_decay_spares_biases_and_norms(vit):
    model = sidetune.adapt(vit, "full", num_classes=3)
    decayed, spared = make_optimizer(model, Recipe(), 1e-3).param_groups
    assert decayed["weight_decay"] == 0.05 and spared["weight_decay"] == 0
    assert all(p.ndim > 1 for p in decayed["params"]) and all(p.ndim == 1 for p in spared["params"])
    total = sum(p.requires_grad for p in model.parameters())
    assert len(decayed["params"]) + len(spared["params"]) == total


def test_gradients_are_clipped(vit, samples):
    plain, _ = trained(vit, samples)
    clipped, _ = trained(vit, samples, Recipe(**{**vars(QUICK), "clip_grad": 1e-6}))
    assert not same(plain, clipped)


def test_the_last_epoch_is_kept_by_default_and_the_best_on_validation_when_asked(vit, samples):
    model, done = trained(vit, samples, Recipe(epochs=4, batch_size=8, lr=3e-2), val=samples)
    assert done.kept_epoch == 4 and all(e.val_accuracy is not None for e in done.history)
    best, done = trained(vit, samples, Recipe(epochs=4, batch_size=8, lr=3e-2, keep="best"), val=samples)
    scores = [e.val_accuracy for e in done.history]
    assert done.kept_epoch == scores.index(max(scores)) + 1
    assert sidetune.evaluate(best, samples).accuracy == max(scores)
    with pytest.raises(ValueError, match="pass val="):
        trained(vit, samples, Recipe(keep="best"))


def test_any_torch_data_set_will_do(vit):
    data = TensorDataset(torch.randn(20, 3, 32, 32), torch.arange(20) % 3)
    model = sidetune.adapt(vit, "dtl", num_classes=3)
    done = sidetune.fit(model, data, recipe=QUICK)
    assert len(done.history) == 3 and not done.features_kept
    assert sidetune.evaluate(model, data).num_images == 20


def test_a_torch_data_set_of_pictures_gets_the_models_transform(vit, samples):
    class Pictures(torch.utils.data.Dataset):
        classes = samples.classes

        def __len__(self):
            return len(samples)

        def __getitem__(self, index):
            return samples.image(index), samples.labels[index]

    from_samples, _ = trained(vit, samples)
    from_pictures, done = trained(vit, Pictures())
    assert same(from_samples, from_pictures) and done.features_kept


def test_a_stream_without_a_length_is_refused(vit):
    class Stream(torch.utils.data.IterableDataset):
        def __iter__(self):
            yield torch.zeros(3, 32, 32), 0

    with pytest.raises(DataError, match="a Stream has no length"):
        sidetune.fit(sidetune.adapt(vit, "dtl", num_classes=3), Stream())


def test_fewer_images_than_a_batch_are_one_batch(vit, samples):
    _, done = trained(vit, samples.subset(range(5)), Recipe(epochs=1, batch_size=32))
    assert np.isfinite(done.history[0].loss)


def test_a_folder_gives_its_class_names_to_the_model(vit, folder):
    model = sidetune.adapt(vit, "linear", num_classes=3)
    sidetune.fit(model, folder / "train", val=folder / "val", recipe=QUICK)
    assert model.task.classes == ("dark", "grey", "light")
    assert sidetune.evaluate(model, folder / "test").num_images == 6
    with pytest.raises(DataError, match="3 classes, but the model was made for 4"):
        sidetune.fit(sidetune.adapt(vit, "linear", num_classes=4), folder / "train", recipe=QUICK)
    other = sidetune.adapt(vit, "linear", classes=("a", "b", "c"))
    with pytest.raises(DataError, match="classes that the training images do not: dark"):
        sidetune.fit(other, folder / "train", recipe=QUICK)


def test_python_takes_what_the_command_line_takes(vit, folder):
    model = sidetune.adapt(vit, "linear", num_classes=3, transform="vtab")
    done = sidetune.fit(model, folder, recipe=Recipe(epochs=2, keep="best"))
    assert model.classes == ("dark", "grey", "light") and all(e.val_accuracy is not None for e in done.history)
    assert [sidetune.evaluate(model, source).num_images for source in (folder, folder / "val")] == [6, 9]
    images = [str(path.relative_to(folder)) for path in sorted((folder / "train").rglob("*.png"))]
    for name in ("train800val200.txt", "test.txt"):
        rows = [f"{path} {'dark grey light'.split().index(path.split('/')[1])}" for path in images]
        (folder / name).write_text("\n".join(rows[: 33 if "train" in name else 5]))
    model = sidetune.adapt(vit, "linear", num_classes=3, transform="vtab")
    with pytest.warns(DataWarning, match="5 identical pictures"):
        sidetune.fit(model, str(folder), recipe=Recipe(epochs=1))
    assert model.classes == ("0", "1", "2")
    model = sidetune.adapt(vit, "linear", classes=sidetune.read_data("sprites-location").train.classes)
    assert sidetune.evaluate(model, "sprites-location").num_images == 1000


def test_a_score_tells_classes_apart(vit, samples):
    model = sidetune.adapt(vit, "linear", classes=samples.classes, transform="vtab")
    torch.nn.init.zeros_(model.head.weight)
    model.head.bias.data = torch.tensor([0.0, 1.0, 0.0])  # everything is grey
    rare = samples.subset([i for i, label in enumerate(samples.labels) if label == 1] + [0, 3])
    score = sidetune.evaluate(model, rare)
    assert score.by_class == ((2, 0), (16, 16), (0, 0)) and score.recalls == (0, 1, None)
    assert score.accuracy == 16 / 18 and score.balanced_accuracy == 0.5
    assert score.described()["recall"] == {"dark": 0, "grey": 1, "light": None}


def test_a_batch_of_one_image_past_trained_batchnorms_says_what_to_do(samples):
    model = sidetune.adapt(tiny_backbone("resnet"), "full", classes=samples.classes, transform="vtab")
    with pytest.raises(ValueError, match="trained BatchNorms want at least two values a channel.*batch_size of 2"):
        sidetune.fit(model, samples.subset([0, 1, 2]), recipe=Recipe(epochs=1, batch_size=1, precision="fp32"))


def test_a_loss_that_is_not_finite_stops_the_run_and_keeps_the_last_good_epoch(vit, samples, tmp_path):
    class Poison(Silent):
        def epoch(self, epoch, num_epochs):
            if epoch.epoch == 2:
                model.head.weight.data[0, 0] = float("nan")

    model = sidetune.adapt(vit, "dtl+", classes=samples.classes, transform="vtab")
    with pytest.raises(NonFiniteLoss, match="nan in epoch 3, .*keeps epoch 2.*lower lr"):
        sidetune.fit(model, samples, recipe=QUICK, out=tmp_path / "run", report=Poison())
    kept = checkpoint.RunFolder(tmp_path / "run").load()
    assert len(kept.history) == 2 and all(t.isfinite().all() for t in kept.trained.values())


@pytest.mark.parametrize("method", ["dtl+", "full"])
def test_a_stopped_run_resumes_to_bit_identical_parameters(samples, tmp_path, method):
    backbone = tiny_backbone("resnet" if method == "full" else "vit")
    recipe = Recipe(epochs=4, batch_size=8, drop_path=0.1, keep="best")
    unbroken, done = trained(backbone, samples, recipe, method, "photo", val=samples)

    class Stop(Silent):
        def step(self, epoch, num_epochs, step, num_steps):
            if (epoch, step) == (3, 2):
                raise KeyboardInterrupt

    with pytest.raises(Interrupted, match="go on with --resume"):
        trained(backbone, samples, recipe, method, "photo", val=samples, out=tmp_path / "run", report=Stop())
    with pytest.raises(RunExists, match="already holds a run"):
        trained(backbone, samples, recipe, method, "photo", val=samples, out=tmp_path / "run")
    with pytest.raises(RunExists, match="recipe.epochs: 4 -> 5"):
        other = Recipe(epochs=5, batch_size=8, drop_path=0.1, keep="best")
        trained(backbone, samples, other, method, "photo", val=samples, out=tmp_path / "run", resume=True)
    resumed, again = trained(backbone, samples, recipe, method, "photo", val=samples, out=tmp_path / "run", resume=True)
    assert same(unbroken, resumed)
    assert [e.loss for e in done.history] == [e.loss for e in again.history]
    assert same(resumed, sidetune.load(tmp_path / "run", backbone=backbone))


SCRIPT = f"""
import sys
sys.path.insert(0, {str(Path(__file__).parents[1])!r})
from conftest import squares, tiny_backbone
import sidetune
from sidetune.train.loop import Silent
data = squares()
model = sidetune.adapt(tiny_backbone("vit"), "dtl+", classes=data.classes, transform="photo")
recipe = sidetune.Recipe(epochs=int(sys.argv[2]), batch_size=8, drop_path=0.1)

class Stuck(Silent):
    def step(self, epoch, num_epochs, step, num_steps):
        if len(sys.argv) > 3 and (epoch, step) == (4, 3):
            print("stuck", flush=True)
            sys.stdin.read()

sidetune.fit(model, data, recipe=recipe, out=sys.argv[1], resume=True, report=Stuck())
"""


def test_a_run_killed_in_the_middle_of_an_epoch_resumes_to_bit_identical_parameters(vit, samples, tmp_path):
    recipe = Recipe(epochs=8, batch_size=8, drop_path=0.1)
    whole, _ = trained(vit, samples, recipe, transform="photo")
    words = [sys.executable, "-c", SCRIPT, tmp_path / "run", "8", "stuck"]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
    with subprocess.Popen(words, **pipes, text=True) as process:
        assert process.stdout.readline() == "stuck\n"
        process.send_signal(signal.SIGKILL)
    assert not (tmp_path / "run/model.safetensors").exists(), "it was killed before its end"
    broken, done = trained(vit, samples, recipe, transform="photo", out=tmp_path / "run", resume=True)
    assert same(whole, broken) and len(done.history) == 8 and done.num_found == 3


def test_a_full_disk_is_noticed_before_writing(vit, samples, tmp_path, monkeypatch):
    monkeypatch.setattr("sidetune.atomic.shutil.disk_usage", lambda _: SimpleNamespace(free=10))
    with pytest.raises(NoSpace, match="has 0 MiB left"):
        trained(vit, samples, out=tmp_path / "run")


def test_overwriting_starts_anew(vit, samples, tmp_path):
    first, _ = trained(vit, samples, out=tmp_path / "run")

    class Stop(Silent):
        def step(self, epoch, num_epochs, step, num_steps):
            raise KeyboardInterrupt

    with pytest.raises(Interrupted):
        trained(vit, samples, out=tmp_path / "run", overwrite=True, report=Stop())
    assert not (tmp_path / "run/model.safetensors").exists(), (
        "no model of an older run is left to be taken for this one's"
    )
    second, done = trained(vit, samples, Recipe(**{**vars(QUICK), "seed": 5}), out=tmp_path / "run", overwrite=True)
    assert len(done.history) == 3 and not same(first, second)
    assert list((tmp_path / "run/run/tensorboard").iterdir())


def test_a_saved_model_is_not_written_over(vit, samples, tmp_path):
    trained(vit, samples)[0].save_pretrained(tmp_path / "model")
    with pytest.raises(RunExists, match="already holds a model"):
        trained(vit, samples, out=tmp_path / "model")


def test_an_empty_data_set_is_refused(vit):
    empty = Samples(images=np.zeros((0, 4, 4), np.uint8), labels=[], classes=("a", "b", "c"))
    with pytest.raises(DataError, match="empty"):
        trained(vit, empty)


def test_two_processes_train_together_as_one_would(vit, samples, tmp_path):
    (tmp_path / "script.py").write_text(
        SCRIPT.replace('"photo"', '"vtab"').replace("drop_path=0.1", "precision='fp32'")
    )
    env = {**os.environ, "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "1"}
    launch = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2", "--standalone"]
    done = subprocess.run(
        [*launch, tmp_path / "script.py", tmp_path / "two", "2"], env=env, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-2000:]
    two = sidetune.load(tmp_path / "two", backbone=vit)
    one, _ = trained(vit, samples, Recipe(epochs=2, batch_size=8, precision="fp32"))
    for name, value in one.trained().items():
        assert torch.allclose(two.trained()[name], value, rtol=1e-3, atol=1e-5), name


SAVING = [
    {"micro_batch": 3},
    {"checkpoint": True},
    {"checkpoint": True, "checkpoint_blocks": 1},
    {"offload": True},
    {"micro_batch": 1, "checkpoint": True},
]


@pytest.mark.parametrize("method", ["dtl+", "lora", "full"])
@pytest.mark.parametrize("choices", SAVING)
def test_saving_memory_leaves_the_gradient_of_the_whole_batch(backbone, method, choices):
    if reason := METHODS[method].refuses(backbone.family):
        pytest.skip(f"{method} is refused here: {reason}")
    if "micro_batch" in choices and not can_be_cut(sidetune.adapt(backbone, method, num_classes=3)):
        pytest.skip("trained BatchNorms are never cut; fit refuses it, which has a test")
    torch.manual_seed(0)  # an activation at a kink of ReLU6 has either slope, as rounding wants it
    images, labels = torch.randn(7, 3, *backbone.card.image_size), torch.arange(7) % 3

    def gradients(**choices):
        model = sidetune.adapt(backbone, method, num_classes=3)
        disturb(model)
        model.train()
        model.suffix.set_drop_path(0)  # timm's Swin drops by itself
        save_memory(model, Recipe(**choices))
        loss = backward(model, images, labels, micro_batch=choices.get("micro_batch"))
        return loss, {n: p.grad for n, p in model.named_parameters() if p.requires_grad}

    torch.manual_seed(0)
    loss, whole = gradients()
    torch.manual_seed(0)
    again, saved = gradients(**choices)
    assert again.item() == pytest.approx(loss.item(), rel=1e-6)
    largest = max(g.abs().max() for g in whole.values())
    for name, gradient in whole.items():
        assert (gradient - saved[name]).abs().max() <= 1e-6 * largest, name


def test_compiled_halves_compute_the_same_and_compile_no_more_at_short_batches_and_new_epochs():
    script = Path(__file__).with_name("compiled_halves.py")
    ended = subprocess.run([sys.executable, script], capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    for line in ended.stdout.splitlines():
        method, first, second = line.split()
        assert 0 < int(first) == int(second), f"{method} compiled {second} graphs, {first} of them in its first epoch"


def test_fit_compiles_where_the_recipe_says_so(vit, samples, monkeypatch):
    model = sidetune.adapt(vit, "dtl+", num_classes=3, transform="vtab")
    asked = []
    monkeypatch.setattr(type(model), "compile_halves", lambda self: asked.append(self))
    sidetune.fit(model, samples, recipe=Recipe(epochs=1, compile=True))
    assert asked == [model]


def test_what_does_not_go_together_is_refused():
    with pytest.raises(ValueError, match="compile does not go with offload"):
        Recipe(compile=True, offload=True)
    with pytest.raises(ValueError, match="checkpoint_blocks must be at least 1, got 0"):
        Recipe(checkpoint_blocks=0)


def test_a_model_can_be_trained_on_frozen_weights_of_eight_bits(vit, samples):
    model = sidetune.adapt(vit, "dtl+", num_classes=3, transform="vtab")
    recipe = Recipe(epochs=12, lr=1e-2, lr_update="step", precision="fp32", weights="int8")
    sidetune.fit(model, samples, recipe=recipe)
    assert model.prefix.blocks["1"].mlp.fc1.codes.dtype == torch.int8
    assert sidetune.evaluate(model, samples, precision="fp32").accuracy > 0.9


def test_features_of_rounded_weights_are_kept_apart_from_exact_ones(vit, samples, tmp_path):
    folders = set()
    for weights in ("same", "int8"):
        model = sidetune.adapt(vit, "dtl+", num_classes=3, transform="vtab")
        recipe = Recipe(epochs=1, precision="fp32", weights=weights)
        sidetune.fit(model, samples, recipe=recipe, store=tmp_path)
        _, compute = together(vit, [model], recipe)
        images = torch.randn(2, 3, 32, 32)
        assert all(map(torch.equal, compute(images).tensors(), model.features(images).tensors()))
        folders |= {path.name for path in tmp_path.iterdir()}
    assert len(folders) == 2


def test_blocks_that_gather_statistics_are_not_run_twice():
    model = sidetune.adapt(tiny_backbone("resnet"), "full", num_classes=3)
    model.train()
    save_memory(model, Recipe(checkpoint=True))
    backward(model, torch.randn(4, 3, 32, 32), torch.arange(4) % 3)
    norms = [m for m in model.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    assert {int(m.num_batches_tracked) for m in norms} == {1}


@pytest.mark.parametrize("kind", ["vit", "swin", "resnet"])
def test_frozen_weights_are_held_once_and_shared(kind):
    backbone = tiny_backbone(kind)
    first, second, plain = (sidetune.adapt(backbone, name, num_classes=3) for name in ("dtl+", "bitfit", "linear"))
    images = torch.randn(2, 3, *backbone.card.image_size)
    before = plain(images)
    for model in (first, second):
        model.hold(torch.bfloat16)
    held = dict(first.prefix.named_parameters())
    matrices = [p for p in held.values() if p.ndim > 1]
    assert all(p.dtype == torch.bfloat16 for p in matrices)
    assert {id(p) for p in matrices} <= {id(p) for p in second.parameters()}
    assert all(p.dtype == torch.float32 for p in first.parameters() if p.requires_grad)
    assert torch.equal(plain(images), before), "who did not ask for it keeps float32"
    features = first.features(images)
    assert all(t.dtype == torch.bfloat16 for t in features.tensors())
    assert first(images).isfinite().all()
