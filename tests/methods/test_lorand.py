"""LoRand: where its adapters stand, what they compute, and how many parameters they have."""

import pytest
import timm
import torch
from conftest import tiny_backbone
from torch.nn import functional as F

import sidetune
from sidetune.contract import check_method
from sidetune.measure.parameters import count
from sidetune.methods.lorand import LoRand, LowRankSum


@pytest.mark.parametrize(
    ("network", "choices", "trainable"),
    [
        ("swin_base_patch4_window7_224", {}, 1_203_456),
        ("swin_base_patch4_window7_224", {"branches": 4}, 2_370_816),
        ("swin_base_patch4_window7_224", {"branches": 4, "rank": 16}, 4_754_688),
        ("swin_large_patch4_window7_224", {}, 1_799_040),
    ],
)
def test_parameters_on_swin_are_the_tables(network, choices, trainable):
    with torch.device("meta"):
        swin = timm.create_model(network, num_classes=0)
    counted = count(sidetune.adapt(swin, "lorand", num_classes=10, **choices))
    assert (counted.trainable, counted.units) == (trainable, 48)


def test_a_layers_weight_is_the_sum_of_its_branches():
    layer = LowRankSum(12, 6, rank=3, branches=2)
    weight = sum(layer.a[b] @ layer.k[b] @ layer.c[b] for b in range(2))
    x = torch.randn(5, 12)
    assert torch.allclose(layer(x), x @ weight + layer.bias, atol=1e-6)


@pytest.mark.parametrize("kind", ["vit", "dinov2", "swin"])
def test_adapters_stand_behind_attention_and_mlp_inside_the_branch(kind):
    backbone = tiny_backbone(kind)
    model = sidetune.adapt(backbone, "lorand", num_classes=3, rank=2)
    block, plain = model.suffix.blocks["1"], backbone.blocks[1]

    def adapter(wrap, x):
        return x + wrap.up(F.gelu(wrap.down(x)))

    z = torch.randn(2, *backbone.input_shapes[1])
    if kind == "swin":
        x = z + adapter(block.attn.proj, plain._attn(plain.norm1(z)))
        expected = x + adapter(block.mlp.fc2, plain.mlp(plain.norm2(x)))
    else:
        x = z + plain.ls1(adapter(block.attn.proj, plain.attn(plain.norm1(z))))
        expected = x + plain.ls2(adapter(block.mlp.fc2, plain.mlp(plain.norm2(x))))
    assert torch.allclose(block(z), expected, atol=1e-5)


@pytest.mark.parametrize(
    ("choices", "message"),
    [
        ({"rank": 25}, "rank 25 is above half the width of block 1, 24"),
        ({"rank": 0}, "rank must be at least 1"),
        ({"branches": 0}, "branches must be at least 1"),
    ],
)
def test_choices_that_make_no_sense_are_refused(vit, choices, message):
    with pytest.raises(ValueError, match=message):
        sidetune.adapt(vit, "lorand", num_classes=3, **choices)


def test_one_branch_keeps_the_contract(vit):
    check_method(LoRand(rank=2, branches=1), vit)
