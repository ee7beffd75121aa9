"""Opened networks compute what timm's own forward computes, and stay frozen."""

import pytest
import timm
import torch
from conftest import TINY, taps, tiny_backbone, tiny_network, tiny_size

from sidetune.backbones import open_backbone
from sidetune.backbones.weights import digest_of
from sidetune.seam.prefix import Prefix
from sidetune.seam.taps import Need, block_input, block_output, pooled, sum_of_taps


def everything(backbone):
    inputs, outputs = map(block_input, backbone.blocks), map(block_output, backbone.output_shapes)
    return Need([*inputs, *outputs, *map(pooled, backbone.pools)])


@pytest.mark.parametrize("kind", TINY)
def test_stepping_through_blocks_is_bit_for_bit_timms_own_forward(kind):
    network = tiny_network(kind).eval().requires_grad_(False)
    backbone = open_backbone(network, image_size=tiny_size(network))
    images = torch.randn(2, 3, *backbone.card.image_size)
    features = Prefix(backbone, everything(backbone))(images, everything(backbone))
    expected = network.forward_head(network.forward_features(images), pre_logits=True)
    assert torch.equal(features[pooled(backbone.native_pool)], expected)
    assert {i: tuple(features[block_input(i)].shape[1:]) for i in backbone.blocks} == dict(backbone.input_shapes)
    outputs = {i: tuple(features[block_output(i)].shape[1:]) for i in range(backbone.num_blocks + 1)}
    assert outputs == dict(backbone.output_shapes)


@pytest.mark.parametrize(
    ("name", "changes", "size"),
    [
        ("vit_tiny_patch16_224", {"depth": 2, "embed_dim": 24, "num_heads": 3}, (48, 80)),
        ("vit_small_patch14_dinov2", {"depth": 2, "embed_dim": 24, "num_heads": 3}, 56),
        ("vit_base_patch16_clip_224", {"depth": 2, "embed_dim": 24, "num_heads": 3}, 64),
        ("vit_base_patch16_siglip_224", {"depth": 2, "embed_dim": 24, "num_heads": 3}, 64),
        ("deit3_small_patch16_224", {"depth": 2, "embed_dim": 24, "num_heads": 3}, 64),
        ("swin_tiny_patch4_window7_224", {"depths": (1, 1), "embed_dim": 16, "num_heads": (1, 2)}, 112),
        ("convnext_atto", {"depths": (1, 1, 1, 1), "dims": (8, 8, 16, 16), "head_norm_first": True}, 64),
        ("resnet26d", {"channels": (8, 8, 16, 16)}, 64),
    ],
)
def test_other_sizes_and_variants_are_bit_for_bit_too(name, changes, size):
    network = timm.create_model(name, num_classes=0, **changes).eval().requires_grad_(False)
    before = digest_of(network.state_dict())
    backbone = open_backbone(network, image_size=size)
    assert digest_of(network.state_dict()) == before, "the caller's module is left untouched"
    images = torch.randn(2, 3, *backbone.card.image_size)
    tap = pooled(backbone.native_pool)
    found = Prefix(backbone, Need({tap}))(images, Need({tap}))[tap]
    if hasattr(network, "set_input_size"):
        network.set_input_size(img_size=backbone.card.image_size, **({"window_size": 7} if "swin" in name else {}))
    expected = network.forward_head(network.forward_features(images), pre_logits=True)
    assert torch.equal(found, expected)


def test_opening_shares_the_callers_weights_and_asks_for_no_gradient():
    network = tiny_network("vit")
    backbone = open_backbone(network)
    assert backbone.blocks[1].attn.qkv.weight.data_ptr() == network.blocks[0].attn.qkv.weight.data_ptr()
    assert not backbone.blocks[1].attn.qkv.weight.requires_grad
    assert network.blocks[0].attn.qkv.weight.requires_grad


def test_the_digest_knows_the_weights_but_not_the_image_size():
    network = tiny_network("vit")
    digest = open_backbone(network).card.digest
    assert open_backbone(network, image_size=48).card.digest == digest
    network.blocks[2].mlp.fc1.bias.data[3] += 1e-3
    assert open_backbone(network).card.digest != digest


def test_the_prefix_stays_asleep_whatever_train_is_called(backbone):
    need = everything(backbone)
    prefix = Prefix(backbone, need)
    before = digest_of(prefix.state_dict())
    images = torch.randn(3, 3, *backbone.card.image_size)
    first = Prefix(backbone, need)(images, need)
    prefix.train()
    assert not any(module.training for module in prefix.modules())
    outputs = Need(tap for tap in need if tap.kind == "output")
    second = prefix(images, outputs)
    assert second.taps.keys() == outputs and all(torch.equal(first[tap], second[tap]) for tap in outputs)
    assert not any(t.requires_grad for t in second.tensors())
    assert digest_of(prefix.state_dict()) == before


def test_gathered_sums_are_the_taps_added_up(vit):
    need = taps("output.0 output.1 output.2 output.3 output.4 sum.0 sum.2 sum.4")
    features = Prefix(vit, need)(torch.randn(2, 3, 32, 32), need)
    for k in (0, 2, 4):
        assert torch.allclose(features[sum_of_taps(k)], sum(features[block_output(i)] for i in range(k + 1)), atol=1e-5)


@pytest.mark.parametrize("kind", ["swin", "convnext"])
def test_gathered_sums_go_down_a_staged_network_through_its_own_transitions(kind):
    backbone = tiny_backbone(kind)
    num_blocks = backbone.num_blocks
    need = Need(tap(i) for tap in (block_output, sum_of_taps) for i in range(num_blocks + 1))
    with torch.no_grad():
        features = Prefix(backbone, need)(torch.randn(2, 3, *backbone.card.image_size), need)
        for k in range(num_blocks + 1):
            found = features[sum_of_taps(k)]
            total = features[block_output(0)]
            for i in range(1, num_blocks + 1):
                if i in backbone.transitions:
                    total = backbone.transitions[i](total)
                total = total + features[block_output(i)] if i <= k else total
            assert found.shape == features[block_output(num_blocks)].shape
            assert torch.allclose(found, total, atol=1e-5)


def test_the_prefix_runs_no_further_than_it_must(vit):
    prefix = Prefix(vit, taps("output.4"))
    prefix.blocks["3"].register_forward_hook(lambda *_: pytest.fail("block 3 ran"))
    prefix(torch.randn(1, 3, 32, 32), taps("input.1 output.2"))


def test_features_cross_the_seam_in_the_type_of_autocast(vit):
    with torch.autocast("cpu", torch.bfloat16):
        need = taps("output.0 output.2")
        features = Prefix(vit, need)(torch.randn(1, 3, 32, 32), need)
    assert {t.dtype for t in features.tensors()} == {torch.bfloat16}


@pytest.mark.parametrize(("kind", "size"), [("vit", 33), ("vit", (32, 20)), ("swin", 66), ("dinov2", 10)])
def test_sizes_that_do_not_fit_the_patches_are_refused_with_the_nearest(kind, size):
    with pytest.raises(ValueError, match="nearest"):
        open_backbone(tiny_network(kind), image_size=size)


def test_images_too_small_for_a_network_are_refused():
    with pytest.raises(ValueError, match="image_size must be"):
        open_backbone(tiny_network("resnet"), image_size=0)


def test_images_of_another_size_are_refused_with_both_sizes(vit):
    with pytest.raises(ValueError, match=r"\(batch, 3, 32, 32\), got \(1, 3, 48, 48\)"):
        need = taps("output.0")
        Prefix(vit, need)(torch.randn(1, 3, 48, 48), need)


def test_other_families_are_refused_with_those_that_are_known():
    with pytest.raises(ValueError, match="VisionTransformer, Eva, SwinTransformer"):
        open_backbone(timm.create_model("mobilenetv3_small_050", num_classes=0))


def test_stages_and_transitions_are_where_the_paper_counts_them():
    with torch.device("meta"):
        swin = open_backbone(timm.create_model("swin_base_patch4_window7_224", num_classes=0))
    assert swin.num_blocks == 24
    assert list(swin.transitions) == [3, 5, 23]
    assert [swin.width(i) for i in (1, 3, 5, 22, 23, 24)] == [128, 256, 512, 512, 1024, 1024]
    with torch.device("meta"):
        resnet = open_backbone(timm.create_model("resnet18", num_classes=0))
    assert [i for i in resnet.blocks if not resnet.keeps_shape(i)] == [3, 5, 7]
