"""Frozen weights of 8 bits: how far off they are, what they keep, and that models share them."""

import pytest
import torch
from conftest import tiny_backbone, tiny_network
from torch import nn
from torch.utils.weak import WeakTensorKeyDictionary

import sidetune
from sidetune.backbones.eight_bit import EightBitLinear, codes_of, hold_in_eight_bits
from sidetune.contract import disturb


def eight_bit(layer):
    box = nn.Sequential(layer.requires_grad_(False))
    hold_in_eight_bits(box, WeakTensorKeyDictionary())
    return box[0]


def test_each_weight_is_off_by_at_most_half_a_step_of_its_output():
    layer = nn.Linear(40, 30)
    rounded = eight_bit(layer).merge()
    step = layer.weight.abs().amax(dim=1, keepdim=True) / 127
    assert ((rounded.weight - layer.weight).abs() <= step / 2 + 1e-8).all()
    assert torch.equal(rounded.bias, layer.bias)


def test_outputs_and_gradients_are_those_of_the_rounded_weights():
    rounded = eight_bit(nn.Linear(40, 30))
    x = torch.randn(5, 40, requires_grad=True)
    plain = rounded.merge()
    assert torch.allclose(rounded(x), plain(x), atol=1e-5)
    found, expected = (torch.autograd.grad(layer(x).square().sum(), x)[0] for layer in (rounded, plain))
    assert torch.allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_nothing_but_the_codes_is_kept_for_the_gradient():
    rounded = eight_bit(nn.Linear(40, 30, bias=False))
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: (kept.append(t), t)[1], lambda t: t):
        rounded(torch.randn(5, 40, requires_grad=True))
    assert {id(t) for t in kept} == {id(rounded.codes), id(rounded.scale)}


def test_an_output_of_zero_weights_stays_zero():
    layer = nn.Linear(4, 2, bias=False)
    nn.init.zeros_(layer.weight)
    assert eight_bit(layer)(torch.ones(1, 4)).abs().max() == 0


@pytest.mark.parametrize("method", ["dtl+", "lora", "bitfit", "linear"])
@pytest.mark.parametrize("kind", ["vit", "swin", "convnext"])
def test_models_hold_frozen_linear_layers_in_eight_bits_and_compute_nearly_the_same(kind, method):
    backbone = tiny_backbone(kind)
    model, exact = (sidetune.adapt(backbone, method, num_classes=3) for _ in range(2))
    images = torch.randn(2, 3, *backbone.card.image_size)
    model.hold(torch.float32, weights="int8")
    assert any(isinstance(m, EightBitLinear) for m in model.modules())
    assert not any(type(m) is nn.Linear and not m.weight.requires_grad for m in model.modules())
    assert torch.allclose(model(images), exact(images), atol=0.05)
    assert {n for n in model.trained()} == {n for n in exact.trained()}, "what is trained has the same names"


@pytest.mark.parametrize("method", ["lora", "bitfit"])
def test_a_model_of_eight_bits_merges_into_what_it_computes(method):
    model = sidetune.adapt(tiny_backbone("vit"), method, num_classes=3)
    disturb(model)
    model.hold(torch.float32, weights="int8")
    images = torch.randn(2, 3, 32, 32)
    assert torch.allclose(model.merge(into=tiny_network("vit", seed=7))(images), model(images), atol=1e-4)


def test_models_of_one_backbone_share_codes(vit):
    first, second = (sidetune.adapt(vit, "dtl", num_classes=3).hold(torch.bfloat16, weights="int8") for _ in range(2))
    assert first.prefix.blocks["1"].mlp.fc1.codes is second.prefix.blocks["1"].mlp.fc1.codes
    assert first.prefix.blocks["1"].mlp.fc1.scale.dtype == torch.float32
    assert codes_of(vit.blocks[1].mlp.fc1.weight, vit.copies.codes)[0] is first.prefix.blocks["1"].mlp.fc1.codes
