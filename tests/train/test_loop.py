"""What the loop itself decides: rates, orders and seeds by epoch, which parameters are left at the end, clipping."""

import math
from dataclasses import dataclass, replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from accelerate.utils import set_seed
from torch.nn import functional as F
from torch.utils.data import Dataset, TensorDataset

import sidetune
from sidetune.backbones.eight_bit import EightBitLinear
from sidetune.errors import Interrupted, RunExists
from sidetune.recipe import Recipe
from sidetune.tasks.classification import ClassificationScore
from sidetune.train import loop
from sidetune.train.batches import Shuffled, training_batches
from sidetune.train.loop import Silent, Training
from sidetune.train.optimizer import make_optimizer
from sidetune.train.schedule import learning_rate

PLAIN = Recipe(epochs=3, batch_size=4, precision="fp32", lr=1e-2, num_workers=0)


class Listed(Dataset):
    """Tensors of random images; notes down which were taken, with a random number drawn beside each."""

    def __init__(self, count=12):
        self.images = torch.randn(count, 3, 32, 32, generator=torch.Generator().manual_seed(0))
        self.taken, self.drawn = [], []

    def __len__(self):
        return len(self.images)

    def __getitem__(self, index):
        if len(self.taken) < 10_000:
            self.taken.append(index)
            self.drawn.append(torch.rand(()).item())
        return self.images[index], index % 3

    def by_epoch(self, what):
        return [what[i : i + len(self)] for i in range(0, len(what), len(self))]


def fitted(vit, data, recipe=PLAIN, **how):
    model = sidetune.adapt(vit, "linear", num_classes=3)
    listed = len(data.taken)
    done = sidetune.fit(model, data, recipe=recipe, **how)
    if listed != len(data.taken):
        assert data.taken[listed] == 0, "it is looked at once before it is trained on"
        del data.taken[listed], data.drawn[listed]
    return model, done


def test_every_epoch_takes_all_images_in_an_order_of_its_own_that_the_seed_decides(vit):
    first, again, other = Listed(), Listed(), Listed()
    fitted(vit, first)
    fitted(vit, again)
    fitted(vit, other, replace(PLAIN, seed=1))
    epochs = first.by_epoch(first.taken)
    assert len(epochs) == 3 and all(sorted(epoch) == list(range(12)) for epoch in epochs)
    assert epochs[0] != epochs[1] != epochs[2] != epochs[0] and list(range(12)) not in epochs
    assert again.taken == first.taken and other.by_epoch(other.taken)[0] != epochs[0]


def test_a_run_that_is_gone_on_with_takes_the_orders_and_draws_of_one_that_was_not_stopped(vit, tmp_path):
    class Stop(Silent):
        def step(self, epoch, num_epochs, step, num_steps):
            if (epoch, step) == (2, 2):
                raise KeyboardInterrupt

    whole, stopped, gone_on = Listed(), Listed(), Listed()
    fitted(vit, whole)
    with pytest.raises(Interrupted, match="keeps the last finished epoch"):
        fitted(vit, stopped, out=tmp_path, report=Stop())
    fitted(vit, gone_on, out=tmp_path, resume=True)
    assert gone_on.by_epoch(gone_on.taken) == whole.by_epoch(whole.taken)[1:]
    assert gone_on.by_epoch(gone_on.drawn) == whole.by_epoch(whole.drawn)[1:]


def test_random_numbers_differ_from_epoch_to_epoch_and_seed_to_seed(vit):
    first, again, other = Listed(), Listed(), Listed()
    fitted(vit, first)
    fitted(vit, again)
    fitted(vit, other, replace(PLAIN, seed=1))
    assert len({epoch[0] for epoch in first.by_epoch(first.drawn)}) == 3
    assert first.drawn == again.drawn and first.drawn[0] != other.drawn[0]


def test_random_numbers_differ_from_process_to_process(vit):
    def drawn(index):
        accelerator = SimpleNamespace(
            device=torch.device("cpu"), process_index=index, reduce=lambda total, how: total, num_processes=2
        )
        run = Training(sidetune.adapt(vit, "linear", num_classes=3), PLAIN, "fp32", accelerator, Silent(), None, None)
        found = []

        class Batches(list):
            def __iter__(self):
                found.append(torch.rand(()).item())
                yield from super().__iter__()

        run.train_epoch(run.model, Batches([(torch.zeros(2, 3, 32, 32), torch.tensor([0, 1]))]), 0)
        return found[0]

    assert drawn(0) != drawn(1) and drawn(1) == drawn(1)


@pytest.mark.parametrize(
    "choices, rates",
    [
        ({"epochs": 2, "cooldown_epochs": 2}, [1e-2, 5e-3, 1e-8, 1e-8]),
        ({"epochs": 4, "warmup_epochs": 2}, [1e-7, 5e-3, 5e-3, 1e-2 * (1 - math.sqrt(0.5)) / 2]),
        ({"epochs": 2, "lr_update": "step"}, [0.0075, 1e-2 * (1 - math.sin(math.pi / 3)) / 2]),
    ],
)  # fmt: skip
def test_each_epoch_has_its_rate_and_the_cool_down_its_epochs(vit, choices, rates):
    _, done = fitted(vit, Listed(), replace(PLAIN, **choices))
    assert [e.lr for e in done.history] == pytest.approx(rates, rel=1e-4)
    assert [e.epoch for e in done.history] == list(range(1, len(rates) + 1))


class Noting(Silent):
    """Keeps a copy of the trained parameters behind each epoch."""

    def __init__(self, model):
        self.model, self.trained = model, []

    def epoch(self, epoch, num_epochs):
        self.trained.append({name: t.clone() for name, t in self.model.trained().items()})


@pytest.mark.parametrize("keep, kept", [("best", 2), ("last", 4)])
def test_the_parameters_that_are_left_are_those_of_the_epoch_that_is_kept(
    vit, samples, monkeypatch, tmp_path, keep, kept
):
    accuracies = iter([0, 3, 2, 3])
    monkeypatch.setattr(loop, "score", lambda *_: ClassificationScore(by_class=((4, next(accuracies)), (0, 0), (0, 0))))
    model = sidetune.adapt(vit, "linear", classes=samples.classes, transform="vtab")
    noting = Noting(model)
    recipe = Recipe(epochs=4, batch_size=8, lr=3e-2, keep=keep)
    done = sidetune.fit(model, samples, val=samples, recipe=recipe, report=noting, out=tmp_path)
    assert [e.val_accuracy for e in done.history] == [0, 0.75, 0.5, 0.75] and done.kept_epoch == kept
    others = [number for number in range(4) if number != kept - 1]
    for name, now in sidetune.load(tmp_path, backbone=vit).trained().items():
        assert torch.equal(now, model.trained()[name]) and torch.equal(now, noting.trained[kept - 1][name])
        assert not any(torch.equal(now, noting.trained[number][name]) for number in others)


def test_the_gradient_over_all_parameters_is_brought_to_the_largest_norm_allowed(vit, samples):
    def moved(clip):
        model = sidetune.adapt(vit, "linear", classes=samples.classes, transform="vtab")
        before = {name: t.clone() for name, t in model.trained().items()}
        recipe = Recipe(
            epochs=1, batch_size=48, lr=1.0, optimizer="sgd", weight_decay=0, clip_grad=clip, precision="fp32"
        )
        sidetune.fit(model, samples, recipe=recipe)
        return torch.cat([(t - before[name]).flatten() for name, t in model.trained().items()])

    free = moved(None)
    norm = free.norm().item()
    assert norm > 0.01
    torch.testing.assert_close(moved(norm / 5), free / 5, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(moved(2 * norm), free)


def test_the_first_epoch_is_kept_where_all_score_nothing(vit, samples, monkeypatch):
    monkeypatch.setattr(loop, "score", lambda *_: ClassificationScore(by_class=((4, 0), (0, 0), (0, 0))))
    model = sidetune.adapt(vit, "linear", classes=samples.classes, transform="vtab")
    noting = Noting(model)
    done = sidetune.fit(model, samples, val=samples, recipe=replace(PLAIN, keep="best"), report=noting)
    assert done.kept_epoch == 1 and torch.equal(model.head.weight, noting.trained[0]["head.weight"])


def test_a_batch_is_taken_in_pieces_no_larger_than_asked_for_and_scaled_as_its_precision_needs(vit, monkeypatch):
    real, seen = loop.backward, []

    def noted(model, x, targets, **given):
        seen.append((given["micro_batch"], given["scaler"]))
        return real(model, x, targets, **given)

    def sizes(micro_batch):
        model = sidetune.adapt(vit, "linear", num_classes=3)
        found = []
        model.head.register_forward_pre_hook(lambda _, taken: found.append(len(taken[0])))
        recipe = replace(PLAIN, epochs=1, micro_batch=micro_batch, features="off")
        sidetune.fit(model, TensorDataset(Listed().images, torch.arange(12) % 3), recipe=recipe)
        assert found[0] == 2, "a look at the metric"
        return found[1:]

    monkeypatch.setattr(loop, "backward", noted)
    assert sizes(None) == [4] * 3 and sizes(3) == [3, 1] * 3
    assert [size for size, _ in seen] == [None] * 3 + [3] * 3
    assert all(scaler is not None and not scaler.is_enabled() for _, scaler in seen)


def test_a_loss_of_one_term_is_not_told_twice(vit):
    _, done = fitted(vit, Listed())
    assert all(epoch.losses is None for epoch in done.history)


def test_an_epochs_loss_is_the_mean_over_its_steps(vit, monkeypatch):
    told = iter([1.0, 2.0, 6.0])
    monkeypatch.setattr(loop, "backward", lambda *_, **__: torch.tensor(next(told)))
    assert fitted(vit, Listed(), replace(PLAIN, epochs=1))[1].history[0].loss == pytest.approx(3.0)


@pytest.mark.parametrize("count, processes, sizes", [(12, 1, [4, 4, 4]), (14, 1, [4, 4, 4]), (3, 1, [3]), (4, 1, [4]),
                                                     (12, 2, [2] * 6), (3, 2, [2, 1]), (2, 8, [1, 1])])  # fmt: skip
def test_a_short_batch_is_left_out_unless_it_is_the_only_one(count, processes, sizes):
    batches, _ = training_batches(Listed(count), PLAIN, processes)
    assert [len(labels) for _, labels in batches] == sizes


def test_views_are_taken_one_after_the_other(samples):
    order = Shuffled(5, seed=3, num_views=2)
    for epoch, offset in enumerate([0, 5, 0, 5]):
        order.epoch = epoch
        assert sorted(order) == [offset + i for i in range(5)]
    assert len(order) == 5
    order.epoch = 1
    expected = np.random.default_rng([3, 1]).permutation(5) + 5
    assert list(order) == expected.tolist(), "features that were kept in an order would not be found in another"


@dataclass(frozen=True, kw_only=True)
class Small(sidetune.Classification):
    """Large outputs cost something too."""

    def losses(self, outputs, targets):
        return {**super().losses(outputs, targets), "size": 0.1 * outputs.float().square().mean()}


@pytest.mark.parametrize("micro_batch", [None, 5])
def test_terms_of_a_loss_are_told_one_by_one(vit, samples, monkeypatch, tmp_path, micro_batch):
    monkeypatch.setitem(sidetune.TASKS, "small", Small)
    model = sidetune.adapt(vit, "linear", task=Small(classes=samples.classes), transform="vtab")
    recipe = Recipe(epochs=2, batch_size=16, precision="fp32", micro_batch=micro_batch, num_workers=0)
    for epoch in sidetune.fit(model, samples, recipe=recipe, out=tmp_path / "run").history:
        assert list(epoch.losses) == ["cross entropy", "size"] and all(term > 0 for term in epoch.losses.values())
        assert epoch.loss == pytest.approx(sum(epoch.losses.values()), rel=1e-6)
    assert isinstance(sidetune.load(tmp_path / "run", backbone=vit).task, Small)


def test_a_run_is_the_loop_one_would_write(vit):
    """Orders, seeds and rates by epoch, dropout at work, gradients of one batch at a time."""
    recipe = replace(PLAIN, lr=3e-2, weight_decay=0.1, warmup_epochs=1)
    data = TensorDataset(Listed().images, torch.arange(12) % 3)
    ours, theirs = (sidetune.adapt(vit, "lora", num_classes=3, dropout=0.3) for _ in range(2))
    done = sidetune.fit(ours.eval(), data, recipe=recipe)
    optimizer = make_optimizer(theirs, recipe, 0.0)
    theirs.train()
    for epoch in range(3):
        set_seed(hash((recipe.seed, epoch, 0)) % 2**32)
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(recipe, 3e-2, epoch)
        batches, order = training_batches(data, recipe, 1)
        order.epoch = epoch
        losses = []
        for images, labels in batches:
            loss = F.cross_entropy(theirs(images), labels)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            losses.append(loss.item())
        assert done.history[epoch].loss == pytest.approx(sum(losses) / 3, rel=1e-5)
    expected = theirs.trained()
    for name, p in ours.trained().items():
        torch.testing.assert_close(p, expected[name], rtol=1e-4, atol=1e-6)
    assert not ours.training


def test_a_folder_that_holds_a_run_is_not_taken_without_being_asked_to(vit, tmp_path):
    fitted(vit, Listed(), out=tmp_path)
    with pytest.raises(RunExists, match="already holds a run"):
        fitted(vit, Listed(), out=tmp_path)


def test_frozen_weights_are_held_as_the_recipe_says(vit):
    model, _ = fitted(vit, Listed(), replace(PLAIN, epochs=1, weights="int8"))
    assert any(isinstance(m, EightBitLinear) for m in model.prefix.modules())


def test_a_method_looks_at_images_when_a_run_begins_and_not_when_it_goes_on(vit, tmp_path, monkeypatch):
    class Stop(Silent):
        def epoch(self, epoch, num_epochs):
            raise KeyboardInterrupt

    begun = []
    monkeypatch.setattr(loop, "begin", lambda model, data, seed: begun.append(seed))
    with pytest.raises(Interrupted):
        fitted(vit, Listed(), replace(PLAIN, seed=7), out=tmp_path, report=Stop())
    assert begun == [7]
    fitted(vit, Listed(), replace(PLAIN, seed=7), out=tmp_path, resume=True)
    assert begun == [7]


def test_training_images_are_augmented_and_validation_images_are_not(vit, samples, monkeypatch):
    used = []
    for name in ("training", "evaluation"):
        plain = getattr(sidetune.Transform, name)
        monkeypatch.setattr(sidetune.Transform, name, lambda self, n=name, p=plain: used.append(n) or p(self))
    model = sidetune.adapt(vit, "linear", classes=samples.classes, transform="photo")
    sidetune.fit(model, samples.subset(range(8)), val=samples.subset(range(8, 12)), recipe=replace(PLAIN, epochs=1))
    assert used == ["training", "evaluation"]


def test_losses_are_looked_at_every_sixteen_steps_and_behind_the_last(vit, monkeypatch):
    looked = []
    monkeypatch.setattr(Training, "check", lambda self, total, number, step, num_steps: looked.append((number, step)))
    fitted(vit, Listed(36), replace(PLAIN, epochs=2, batch_size=2))
    assert looked == [(epoch, step) for epoch in (0, 1) for step in (0, 16, 17)]
