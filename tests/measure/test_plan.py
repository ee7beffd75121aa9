"""What is planned is what is tracked, and a budget is kept."""

from dataclasses import replace

import pytest
import timm
import torch
from conftest import tiny_backbone, tiny_network
from torch import nn

import sidetune
from sidetune.errors import OverBudget
from sidetune.measure.memory import training_memory, training_peak
from sidetune.measure.plan import cheapest_first, fit_budget, largest_batch, plan, told, without_values
from sidetune.recipe import Recipe
from sidetune.train.precision import TYPES


def tracked(model, recipe):
    """The peak with values, counted while computing."""
    images = torch.randn(recipe.batch_size, 3, *model.card.image_size)
    labels = torch.arange(recipe.batch_size) % 3
    return training_peak(model.hold(TYPES[recipe.precision], "cpu", weights=recipe.weights), images, labels, recipe)


@pytest.mark.parametrize("kind", ["vit", "dinov2", "swin", "convnext", "resnet", "efficientnet"])
@pytest.mark.parametrize("method", ["linear", "dtl+", "bitfit", "full"])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_plan_is_the_tracked_peak(kind, method, precision):
    recipe = Recipe(batch_size=8, precision=precision)
    with torch.device("meta"):
        planned = plan(sidetune.adapt(tiny_backbone_on_meta(kind), method, num_classes=3), recipe)
    found = tracked(sidetune.adapt(tiny_backbone(kind), method, num_classes=3), recipe)
    assert planned.memory.peak == pytest.approx(found, rel=0.05)


def tiny_backbone_on_meta(kind):
    size = 32 if kind in ("convnext", "resnet", "efficientnet") else None
    return sidetune.open_backbone(tiny_network(kind).to("meta"), image_size=size)


SAVING = [
    {"micro_batch": 2},
    {"checkpoint": True},
    {"checkpoint": True, "micro_batch": 2},
    {"checkpoint": True, "checkpoint_blocks": 1},
    {"weights": "int8"},
]


@pytest.mark.parametrize("choices", SAVING)
@pytest.mark.parametrize("method", ["dtl+", "lora"])
def test_the_plan_of_saving_memory_is_tracked_too(vit, method, choices):
    recipe = Recipe(batch_size=8, precision="fp32", **choices)
    model = sidetune.adapt(vit, method, num_classes=3)
    assert plan(model, recipe).memory.peak == pytest.approx(tracked(model, recipe), rel=0.02)


def test_memory_is_told_apart(vit):
    recipe = Recipe(batch_size=8, precision="fp32")
    model = sidetune.adapt(vit, "dtl+", num_classes=3).hold(torch.float32)
    memory = plan(model, recipe).memory
    trained = sum(p.nbytes for p in model.parameters() if p.requires_grad)
    assert memory.trained == trained and 2 * trained <= memory.optimizer <= 2 * trained + 1000
    assert memory.frozen == sum(p.nbytes for p in model.parameters() if not p.requires_grad)
    assert memory.batch == 8 * 3 * 32 * 32 * 4 + 8 * 8
    images, labels = torch.randn(8, 3, 32, 32), torch.arange(8) % 3
    assert training_memory(model, images, labels, recipe) == memory
    assert memory.peak == training_peak(model, images, labels, recipe)
    full = plan(sidetune.adapt(vit, "full", num_classes=3), recipe).memory
    assert full.frozen == 0 and full.activations > memory.activations > 0


def test_operations_are_those_of_paper_and_pencil():
    """ViT-B/16 at 224 px takes 17.6 billion multiply-adds; backward to the input takes as many as forward."""
    with torch.device("meta"):
        backbone = sidetune.open_backbone(timm.create_model("vit_base_patch16_224", num_classes=0))
        counts = {
            name: plan(sidetune.adapt(backbone, name, num_classes=10), Recipe(batch_size=1)).operations
            for name in ("linear", "dtl", "full")
        }
    assert counts["linear"].prefix == pytest.approx(17.58e9, rel=0.01)
    assert counts["full"].suffix == pytest.approx(17.58e9, rel=0.01)
    assert counts["full"].backward == pytest.approx(2 * 17.58e9, rel=0.03)
    assert counts["dtl"].prefix == pytest.approx(17.58e9 * 7 / 12, rel=0.02)
    assert counts["dtl"].backward == pytest.approx(counts["dtl"].suffix, rel=0.1)


def test_planning_changes_nothing_in_the_model(vit):
    model = sidetune.adapt(vit, "dtl+", num_classes=3)
    before = {name: t.clone() for name, t in model.state_dict().items()}
    images = torch.randn(2, 3, 32, 32)
    logits = model(images)
    plan(model, Recipe(batch_size=4, precision="bf16"))
    assert torch.equal(model(images), logits) and model.dtype == torch.float32
    assert all(torch.equal(before[n], t) and t.dtype == before[n].dtype for n, t in model.state_dict().items())


def test_a_budget_takes_the_fastest_way_that_fits(vit):
    model, recipe = sidetune.adapt(vit, "dtl+", num_classes=3), Recipe(precision="fp32")
    roomy = plan(model, recipe).memory.peak
    assert fit_budget(model, recipe, roomy)[0] == recipe
    chosen, memory = fit_budget(model, recipe, roomy - 1)
    assert (chosen.micro_batch, chosen.checkpoint) == (16, False) and memory.peak < roomy
    least = plan(model, Recipe(precision="fp32", micro_batch=1, checkpoint=True)).memory.peak
    assert fit_budget(model, recipe, least)[0].micro_batch == 1
    with pytest.raises(OverBudget, match="does not fit 0 MiB: the least that this model takes is"):
        fit_budget(model, recipe, 1000)


def test_a_budget_computes_no_more_blocks_again_than_it_must(vit):
    model = sidetune.adapt(vit, "lora", num_classes=3)

    def peak(**choices):
        return plan(model, Recipe(precision="fp32", batch_size=8, **choices)).memory.peak

    by_count = [peak(micro_batch=8 if n else None, checkpoint=n > 0, checkpoint_blocks=n or None) for n in range(5)]
    assert by_count == sorted(by_count, reverse=True) and by_count[3] < by_count[0]
    chosen, memory = fit_budget(model, Recipe(precision="fp32", batch_size=8), by_count[2])
    assert (chosen.micro_batch, chosen.checkpoint, chosen.checkpoint_blocks) == (None, True, 2)
    assert memory.peak <= by_count[2] and told(chosen) == "2 blocks computed again for the gradient"


def test_taps_in_host_memory_are_not_counted_and_are_tried_where_there_is_a_gpu(vit):
    model, recipe = sidetune.adapt(vit, "dtl+", num_classes=3), Recipe(precision="fp32", batch_size=8)
    here, away = (plan(model, replace(recipe, offload=offload)).memory.peak for offload in (False, True))
    assert away < here
    with without_values(model, recipe) as fake:
        for may_offload in (False, True):
            assert any(c.offload for c in cheapest_first(fake, recipe, may_offload)) is may_offload


def test_weights_of_eight_bits_take_a_quarter_of_full_precision(vit):
    model = sidetune.adapt(vit, "dtl+", num_classes=3)
    full, eight = (plan(model, Recipe(precision="fp32", weights=w)).memory.frozen for w in ("same", "int8"))
    linear = sum(m.weight.numel() for block in vit.blocks.values() for m in block.modules() if isinstance(m, nn.Linear))
    assert full - eight > 2.9 * linear


def test_trained_batchnorms_are_never_cut(samples):
    model, recipe = sidetune.adapt(tiny_backbone("resnet"), "full", num_classes=3), Recipe(precision="fp32")
    with pytest.raises(OverBudget):
        fit_budget(model, recipe, plan(model, recipe).memory.peak // 2)
    with pytest.raises(ValueError, match="micro_batch does not go with trained BatchNorms"):
        sidetune.fit(model, samples, recipe=Recipe(epochs=1, micro_batch=4))


def test_the_largest_batch_fits_and_one_more_image_does_not(vit):
    model, recipe = sidetune.adapt(vit, "dtl+", num_classes=3), Recipe(precision="fp32")
    budget = 8 * 2**20
    largest = largest_batch(model, recipe, budget)
    peaks = [plan(model, Recipe(precision="fp32", batch_size=largest + more)).memory.peak for more in (0, 2)]
    assert peaks[0] <= budget < peaks[1]
    assert largest_batch(model, recipe, 1000) == 0
