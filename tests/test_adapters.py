"""Adapters: small, named, told apart by a digest, any number of them on one open backbone."""

from dataclasses import replace

import pytest
import torch

import sidetune
from sidetune.contract import disturb
from sidetune.errors import DataError, WeightsMismatch


@pytest.fixture
def made(vit):
    model = sidetune.adapt(vit, "lora", classes=("sun", "rain"), seed=1)
    disturb(model)
    return model


def tensors_of(module):
    return {t.untyped_storage().data_ptr(): t.nbytes for t in (*module.parameters(), *module.buffers())}


def test_an_adapter_is_the_small_part_and_comes_back_from_its_folder(vit, made, tmp_path):
    adapter = made.adapter("weather")
    adapter.save(tmp_path / "weather")
    again = sidetune.Adapter.read(tmp_path / "weather")
    assert again.name == adapter.name == "weather" and again.digest == adapter.digest
    assert again.tensors.keys() == made.trained().keys() and again.method == made.method and again.task == made.task
    images = torch.randn(2, 3, 32, 32)
    for source in (adapter, again, tmp_path / "weather"):
        assert torch.equal(sidetune.load(source, backbone=vit)(images), made(images))


def test_an_adapter_does_not_change_with_the_model_it_was_taken_from(made):
    adapter = made.adapter("weather")
    digest, before = adapter.digest, {name: t.clone() for name, t in adapter.tensors.items()}
    disturb(made)
    assert all(t.equal(before[name]) for name, t in adapter.tensors.items())
    assert made.adapter("weather").digest != digest
    made.take(adapter)
    assert made.adapter("again").digest == digest


def test_the_digest_tells_whatever_answers_depend_on_and_nothing_else(made):
    adapter = made.adapter("weather")
    name = next(iter(adapter.tensors))
    tensor = adapter.tensors[name].clone()
    tensor.view(-1)[0] += 1e-3
    others = (
        replace(adapter, tensors={**adapter.tensors, name: tensor}),
        replace(adapter, method=replace(adapter.method, rank=adapter.method.rank + 1 if adapter.method.rank else 3)),
        replace(adapter, task=replace(adapter.task, classes=("rain", "sun"))),
        replace(adapter, transform=replace(adapter.transform, preset="vtab")),
        replace(adapter, backbone={**adapter.backbone, "digest": "0" * 64}),
        replace(adapter, backbone={**adapter.backbone, "image_size": (64, 64)}),
    )
    same = (
        replace(adapter, name="other"),
        replace(adapter, recipe=sidetune.Recipe(seed=9)),
        replace(adapter, backbone={**adapter.backbone, "name": "elsewhere"}),
    )
    assert len({a.digest for a in (adapter, *others)}) == 1 + len(others)
    assert {a.digest for a in (adapter, *same)} == {adapter.digest}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("weights", ["same", "int8"])
@pytest.mark.parametrize("method", ["dtl+", "lora", "bitfit", "linear"])
def test_on_a_backbone_that_is_open_only_the_adapter_takes_memory(vit, method, dtype, weights):
    first = sidetune.adapt(vit, method, num_classes=3).hold(dtype, weights=weights)
    adapter = first.adapter("a")
    second = sidetune.load(adapter, backbone=vit).hold(dtype, weights=weights)
    own = {place: n for place, n in tensors_of(second).items() if place not in tensors_of(first)}
    trained = {t.untyped_storage().data_ptr(): t.nbytes for t in second.parameters() if t.requires_grad}
    assert own == trained


def test_what_models_share_is_gone_with_the_last_of_them(vit):
    model = sidetune.adapt(vit, "dtl+", num_classes=3).hold(torch.bfloat16)
    copies = [copy for by_kind in vit.copies.tensors.values() for copy in by_kind.values()]
    assert copies and all(copy() is not None for copy in copies)
    del model
    assert all(copy() is None for copy in copies)


def test_an_adapter_of_something_else_is_refused_and_the_model_stays(vit, made):
    other = sidetune.adapt(vit, "dtl+", num_classes=2).adapter("other")
    before = made.adapter("before").digest
    with pytest.raises(DataError, match="other is damaged or belongs to another model: these tensors belong"):
        made.take(other)
    assert made.adapter("after").digest == before
    foreign = replace(made.adapter("weather"), backbone={**made.adapter("weather").backbone, "digest": "0" * 64})
    with pytest.raises(WeightsMismatch, match="weather was trained on weights 000000000000"):
        sidetune.load(foreign, backbone=vit)
