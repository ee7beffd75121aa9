"""ViTs with rotary positions are timm's bit for bit, at any size, however their biases and MLPs are held."""

import copy

import pytest
import timm
import torch

import sidetune
from sidetune.contract import disturb
from sidetune.errors import CannotMerge

TINY = {"num_classes": 0, "depth": 3, "embed_dim": 48, "num_heads": 3}


def network(name, **changes):
    torch.manual_seed(0)
    made = timm.create_model(name, **{**TINY, **changes}).eval()
    for p in made.parameters():  # LayerScale and zero starts would hide what blocks do
        if p.ndim <= 3:
            p.data.add_(torch.randn_like(p), alpha=0.1)
    return made


@pytest.mark.parametrize(
    ("name", "changes", "sizes"),
    [
        ("vit_small_patch16_dinov3", {}, (64, (48, 80))),
        ("vit_tiny_patch16_dinov3_qkvb", {"global_pool": "token"}, (64,)),
        ("eva02_tiny_patch14_224", {"img_size": 42}, (None, (56, 42))),  # biases of q and v beside qkv, SwiGLU
        ("eva02_base_patch14_224", {"img_size": 42}, (None,)),  # q, k and v apart
        ("eva02_base_patch16_clip_224", {"img_size": 48}, (None,)),
        ("eva02_enormous_patch14_clip_224", {"img_size": 42}, (None,)),  # norms behind
        ("eva_giant_patch14_224", {"img_size": 42}, (None,)),  # no rotary positions
        ("vit_base_patch16_rope_mixed_ape_224", {"img_size": 48}, (None, 64)),  # each block its own
        ("vit_base_patch16_rope_reg1_gap_256", {"img_size": 48}, (None,)),
        ("vit_pe_spatial_base_patch16_512", {"img_size": 48}, (None,)),
    ],
)
def test_features_are_timms_at_every_size(name, changes, sizes):
    plain = network(name, **changes)
    before = {key: t.clone() for key, t in plain.state_dict().items()}
    for size in sizes:
        backbone = sidetune.open_backbone(plain, image_size=size)
        model = sidetune.adapt(backbone, "linear", num_classes=2)
        images = torch.randn(2, 3, *backbone.card.image_size)
        theirs = copy.deepcopy(plain)
        if size is not None:
            theirs.set_input_size(img_size=backbone.card.image_size)
        (ours,) = model.features(images).tensors()
        with torch.no_grad():
            assert torch.equal(ours, theirs(images))
    assert all(torch.equal(t, before[key]) for key, t in plain.state_dict().items())


def test_an_attention_pooling_is_timms_to_rounding():
    plain = network("vit_pe_core_base_patch16_224", img_size=48)
    model = sidetune.adapt(plain, "linear", num_classes=2)
    images = torch.randn(2, 3, 48, 48)
    with torch.no_grad():
        torch.testing.assert_close(model.features(images).tensors()[0], plain(images), rtol=1e-5, atol=1e-6)


def test_pooling_by_class_token_or_mean_goes_by_its_name():
    plain = network("vit_tiny_patch16_dinov3_qkvb", img_size=64)
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        z = plain.forward_features(images)
    for pool, expected in (("token", z[:, 0]), ("mean", z[:, 5:].mean(dim=1)), ("native", z[:, 5:].mean(dim=1))):
        model = sidetune.adapt(plain, "linear", num_classes=2, pool=pool)
        torch.testing.assert_close(model.features(images).tensors()[0], expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("name", ["vit_tiny_patch16_dinov3_qkvb", "eva02_tiny_patch14_224", "eva02_base_patch14_224"])
def test_updates_fold_into_the_plain_network(name):
    patch = 14 if "14" in name else 16
    model = sidetune.adapt(network(name, img_size=3 * patch), "lora", num_classes=3)
    disturb(model)
    plain = model.merge(network(name, img_size=3 * patch))
    images = torch.randn(2, 3, 3 * patch, 3 * patch)
    torch.testing.assert_close(plain(images), model(images), rtol=1e-4, atol=1e-4)


def test_biases_beside_qkv_are_folded_back_but_for_one_that_is_not_there():
    model = sidetune.adapt(network("eva02_tiny_patch14_224", img_size=42), "bitfit", num_classes=3)
    into = network("eva02_tiny_patch14_224", img_size=42)
    for name, p in model.named_parameters():
        if name.endswith("attn.qkv.bias"):
            p.data[:48] += 1
            p.data[96:] += 2
    before = into.blocks[1].attn.q_bias.detach().clone()
    assert torch.equal(model.merge(into).blocks[1].attn.q_bias, before + 1)
    model.get_parameter("suffix.blocks.2.attn.qkv.bias").data[50] = 1
    with pytest.raises(CannotMerge, match="a bias of k was trained"):
        model.merge(network("eva02_tiny_patch14_224", img_size=42))


def test_a_model_is_saved_and_loaded_with_its_positions(tmp_path):
    plain = network("vit_tiny_patch16_dinov3_qkvb", img_size=64)
    model = sidetune.adapt(sidetune.open_backbone(plain, image_size=(48, 80)), "dtl+", num_classes=3)
    disturb(model)
    model.save_pretrained(tmp_path)
    again = sidetune.load(tmp_path, backbone=plain)
    images = torch.randn(2, 3, 48, 80)
    assert torch.equal(again(images), model(images))
