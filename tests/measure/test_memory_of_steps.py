"""Which bytes are alive at the peak of a step and what they are made of, on steps whose tensors are counted by hand."""

from contextlib import nullcontext
from dataclasses import FrozenInstanceError
from types import SimpleNamespace

import pytest
import torch
from torch.autograd import Function

import sidetune
from sidetune.measure.memory import Census, Memory, TensorBytes, out_of_sight, training_memory, training_peak, trial
from sidetune.measure.plan import fit_budget
from sidetune.recipe import Recipe
from sidetune.train.step import in_host_memory

KIB = 1024


def block(kib):
    """A tensor of so many KiB."""
    return torch.zeros(256 * kib)


class Step(Function):
    """w -> one number. In the forward pass `passing` KiB come and go and `kept` stay for the gradient; in the backward
    pass `again` come and go. A gradient is as large as w."""

    @staticmethod
    def forward(ctx, w, passing, kept, again):
        ctx.save_for_backward(block(kept))
        ctx.again = again
        block(passing)
        return w.sum()

    @staticmethod
    def backward(ctx, grad):
        block(ctx.again)
        return grad.expand(256 * 7).clone(), None, None, None


def counted(passing, kept, again):
    """KiB of each kind at the peak of a step on 7 KiB of weights and a batch of 3, and at the peak in all."""
    w, batch = block(7).requires_grad_(), block(3)

    def step():
        Step.apply(w, passing, kept, again).backward()
        w.grad = None

    with TensorBytes([w, batch]) as tracker:
        step()
        tracker.reset_peak()
        step()
        tracker.census = Census(tracker.peak, {"trained": [w], "batch": [batch]}, [w])
        step()
    counts = {name: round(size / KIB, 1) for name, size in tracker.census.counts.items() if size >= 64}
    assert sum(tracker.census.counts.values()) == tracker.peak
    return counts, round(tracker.peak / KIB)


def test_at_a_peak_in_the_forward_pass_what_is_kept_for_the_gradient_is_told_from_what_passes():
    counts, peak = counted(passing=100, kept=20, again=1)
    assert counts == {"trained": 7, "batch": 3, "activations": 20, "workspace": 100} and peak == 130


def test_at_a_peak_in_the_backward_pass_what_was_kept_is_told_from_what_comes_and_goes():
    counts, peak = counted(passing=1, kept=20, again=100)
    assert counts == {"trained": 7, "batch": 3, "activations": 20, "workspace": 100} and peak == 130


def test_at_a_peak_in_the_optimizer_gradients_are_there_and_what_it_makes_passes():
    w = block(7).requires_grad_()

    def step():
        Step.apply(w, 1, 2, 1).backward()
        block(50)
        w.grad = None

    with TensorBytes([w]) as tracker:
        step()
        tracker.reset_peak()
        step()
        tracker.census = Census(tracker.peak, {"trained": [w]}, [w])
        step()
        tracker.census.settle()
    counts = {name: size // KIB for name, size in tracker.census.counts.items() if size >= KIB}
    assert counts == {"trained": 7, "gradients": 7, "workspace": 50}


def test_the_first_of_several_peaks_is_the_one_that_is_counted():
    w = block(7).requires_grad_()
    with TensorBytes([w]) as tracker:
        for census in (None, lambda: Census(tracker.peak, {"trained": [w]}, [w])):
            tracker.census = census and census()
            for _ in range(2):
                Step.apply(w, 1, 20, 100).backward()
                w.grad = None
                block(60)
    assert tracker.census.counts["workspace"] // KIB == 100


def test_what_the_census_was_not_told_of_and_was_there_before_is_workspace():
    w, strange = block(7).requires_grad_(), block(11)
    with TensorBytes([w, strange]) as tracker:
        Step.apply(w, 1, 20, 100).backward()
        w.grad = None
        tracker.census = Census(tracker.peak, {"trained": [w]}, [w])
        Step.apply(w, 1, 20, 100).backward()
    assert tracker.census.counts["workspace"] // KIB == 111


def test_the_peak_is_the_sum_of_its_parts():
    memory = Memory(frozen=1, trained=2, optimizer=4, gradients=8, batch=16, activations=32, workspace=64)
    assert memory.peak == 127
    with pytest.raises(FrozenInstanceError, match="frozen"):
        memory.frozen = 2
    with pytest.raises(TypeError, match="positional"):
        Memory(1, 2, 4, 8, 16, 32, 64)


def test_storages_are_watched_once_and_counted_whole():
    storage = block(8)
    with TensorBytes([storage, storage[:5], storage.view(2, -1)]) as tracker:
        assert tracker.alive == tracker.peak == 8 * KIB
        half = storage[:10]
        assert half.numel() == 10 and tracker.alive == 8 * KIB
        other = storage + 1
        assert tracker.alive == tracker.peak == 16 * KIB and other.numel() == 2048


def test_several_results_of_one_operation_are_all_counted():
    with TensorBytes() as tracker:
        assert tracker.alive == tracker.peak == 0
        values, places = block(8).max(0, keepdim=True)
        parts = torch.split(block(4), 256)
        assert tracker.alive == 4 + 8 + 4 * KIB and len(parts) == 4 and (values, places) is not None


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
@pytest.mark.parametrize(("name", "num_images"), [("dtl+", 8), ("full", 8), ("full", 1), ("linear", 8)])
def test_a_steps_memory_is_taken_apart_and_sums_to_its_peak(vit, name, num_images, optimizer):
    """With one image the peak is where SGD decays weights, which makes copies of gradients."""
    model = sidetune.adapt(vit, name, num_classes=3).hold(torch.float32)
    images, labels = torch.randn(num_images, 3, 32, 32), torch.arange(num_images) % 3
    recipe = Recipe(precision="fp32", optimizer=optimizer)
    memory = training_memory(model, images, labels, recipe)
    trained = [p for p in model.parameters() if p.requires_grad]
    assert memory.peak == training_peak(model, images, labels, recipe)
    assert memory.batch == images.nbytes + labels.nbytes
    assert memory.trained == sum(p.nbytes for p in trained)
    moments = {"adamw": sum(2 * p.nbytes + 4 for p in trained), "sgd": sum(p.nbytes for p in trained)}
    assert memory.optimizer == moments[optimizer], "AdamW's two and a count of steps, SGD's one"
    assert memory.frozen == sum(p.nbytes for p in model.parameters() if not p.requires_grad)
    assert memory.activations >= 0 and memory.workspace > 0


def test_what_is_taken_out_of_sight_comes_back_as_something_of_its_shape_and_type():
    x = torch.randn(3, 4, dtype=torch.bfloat16, requires_grad=True)
    with out_of_sight():
        y = x * x
    saved = y.grad_fn._saved_self
    assert saved.shape == (3, 4) and saved.dtype == torch.bfloat16 and saved.data_ptr() != x.data_ptr()


@pytest.mark.parametrize("choices", [{}, {"offload": True}, {"checkpoint": True, "checkpoint_blocks": 2}], ids=str)
def test_a_trial_trains_by_the_recipe_and_puts_everything_back(vit, choices):
    """Values are real here, so that what is offloaded comes back: `out_of_sight` is for tensors that have none."""
    model = sidetune.adapt(vit, "lora", num_classes=3)
    before = {name: t.clone() for name, t in model.trained().items()}
    images, labels = torch.randn(4, 3, 32, 32), torch.arange(4) % 3
    seen = []
    model.head.register_forward_hook(
        lambda *_: seen.append((model.training, model.suffix.num_recomputed, model.suffix.keep_taps))
    )
    with trial(model, images, labels, Recipe(precision="fp32", **choices)) as (step, optimizer):
        step()
    keep_taps = in_host_memory if choices.get("offload") else nullcontext
    assert seen == [(True, 2 if "checkpoint" in choices else 0, keep_taps)]
    assert optimizer.param_groups[0]["lr"] == 1e-3, "the method's own, where the recipe names none"
    assert {len(state) for state in optimizer.state.values()} == {3}
    assert all(torch.equal(before[name], t) for name, t in model.trained().items())
    assert model.suffix.num_recomputed == 0 and model.suffix.keep_taps is nullcontext and not model.training
    with trial(model, images, labels, Recipe(precision="fp32", lr=0.25)) as (_, optimizer):
        assert optimizer.param_groups[0]["lr"] == 0.25


def test_recomputation_shrinks_activations_and_leaves_the_model_as_it_was(vit):
    model = sidetune.adapt(vit, "lora", num_classes=3).hold(torch.float32)
    images, labels = torch.randn(8, 3, 32, 32), torch.arange(8) % 3
    suffix = model.suffix
    suffix.num_recomputed, before = 1, suffix.keep_taps
    state = torch.get_rng_state()
    plain = training_memory(model, images, labels, Recipe(precision="fp32"))
    again = training_memory(model, images, labels, Recipe(precision="fp32", checkpoint=True))
    pieces = training_memory(model, images, labels, Recipe(precision="fp32", micro_batch=2))
    assert again.activations < plain.activations / 2 and again.peak < plain.peak
    assert pieces.activations < plain.activations / 2
    assert suffix.num_recomputed == 1 and suffix.keep_taps is before and not model.training
    assert torch.equal(torch.get_rng_state(), state)
    assert all(p.grad is None for p in model.parameters())
    model.train()
    training_peak(model, images, labels, Recipe(precision="fp32"))
    assert model.training


def test_a_plan_for_a_gpu_counts_what_its_libraries_work_in(vit, monkeypatch):
    model = sidetune.adapt(vit, "dtl+", num_classes=3)
    recipe = sidetune.Recipe(batch_size=2)
    without = sidetune.plan(model, recipe).memory
    monkeypatch.setattr("sidetune.measure.plan.library_bytes", lambda: 2**26)
    planned = sidetune.plan(model, recipe).memory
    assert planned.workspace == without.workspace + 2**26
    assert planned.peak == without.peak + 2**26
    _, within = fit_budget(model, recipe, planned.peak)
    assert within == planned  # and a byte less has to save something
    frugal, _ = fit_budget(model, recipe, planned.peak - 1)
    assert frugal != recipe


def test_on_a_gpu_the_allocators_peak_of_the_second_step_is_told(monkeypatch):
    done = []
    images = SimpleNamespace(is_cuda=True, device="cuda:3")
    monkeypatch.setattr("sidetune.measure.memory.trial", lambda *_: nullcontext((lambda: done.append("step"), None)))
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", lambda device: done.append(f"reset {device}"))
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda device: done.append(f"peak {device}") or 7)
    assert training_peak(None, images, None, Recipe()) == 7
    assert done == ["step", "reset cuda:3", "step", "peak cuda:3"]
