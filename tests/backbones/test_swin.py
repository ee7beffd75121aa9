"""Swin at any size: timm's where nothing is padded, transformers' everywhere, and no leak from border to border."""

import pytest
import timm
import torch
from conftest import tiny_network
from transformers import SwinConfig, SwinModel

import sidetune
from sidetune.backbones import open_backbone
from sidetune.backbones.swin import NUM_SIZES, SwinBlock
from sidetune.contract import disturb
from sidetune.errors import CannotMerge, WeightsMismatch
from sidetune.seam.prefix import Prefix
from sidetune.seam.taps import block_output, pooled

SMALL = {"depths": (2, 2), "embed_dim": 16, "num_heads": (1, 2), "img_size": 56, "window_size": 7}
RESAMPLES = pytest.mark.filterwarnings("ignore:Using a non-tuple sequence")  # of timm, for tables of other windows
DEEP = {"depths": (2, 2, 2, 2), "embed_dim": 8, "num_heads": (1, 1, 2, 2)}


def network(**changes):
    """A timm Swin whose biases, of position too, are large enough to matter."""
    torch.manual_seed(0)
    net = timm.create_model("swin_tiny_patch4_window7_224", num_classes=0, **changes).eval().requires_grad_(False)
    for name, parameter in net.named_parameters():
        if parameter.ndim == 1 or "table" in name:
            parameter.add_(torch.randn_like(parameter), alpha=0.5)
    return net


def last_map(net, images, **choices):
    backbone = open_backbone(net, **choices)
    last = block_output(backbone.num_blocks)
    return Prefix(backbone, frozenset({last}))(images, frozenset({last}))[last]


THEIRS = {
    "patch_embed.proj": "embeddings.patch_embeddings.projection",
    "patch_embed.norm": "embeddings.norm",
    "attn.proj": "attention.o_proj",
    "attn.relative_position_bias_table": "attention.relative_position_bias.relative_position_bias_table",
    "norm1": "layernorm_before",
    "norm2": "layernorm_after",
}


def transformers_swin(net):
    """The same weights in transformers' network, whose patch merging ends a stage where timm's begins the next."""
    stages = net.layers
    config = SwinConfig(
        image_size=net.patch_embed.img_size[0],
        embed_dim=net.embed_dim,
        depths=[len(stage.blocks) for stage in stages],
        num_heads=[stage.blocks[0].attn.num_heads for stage in stages],
        window_size=stages[0].blocks[0].window_size[0],
    )
    state = {}
    for name, t in net.state_dict().items():
        if name.startswith("layers."):
            stage, rest = name.removeprefix("layers.").split(".", 1)
            name = f"encoder.layers.{int(stage) - rest.startswith('downsample')}.{rest}"
        elif name.startswith("norm."):
            name = f"layernorm.{name.removeprefix('norm.')}"
        for ours, theirs in THEIRS.items():
            name = name.replace(ours, theirs)
        if "attn.qkv" in name:
            state |= {
                name.replace("attn.qkv", f"attention.{n}_proj"): part for n, part in zip("qkv", t.chunk(3), strict=True)
            }
        else:
            state[name] = t
    theirs = SwinModel(config, add_pooling_layer=False).eval()
    missing, unexpected = theirs.load_state_dict(state, strict=False)
    assert not unexpected and all("index" in name for name in missing)
    return theirs


@pytest.mark.parametrize("size", [56, 112, (56, 168), (112, 56)])
def test_where_windows_fill_the_maps_it_is_timms_bit_for_bit(size):
    net = network(**SMALL)
    images = torch.randn(2, 3, *((size, size) if isinstance(size, int) else size))
    found = last_map(net, images, image_size=size)
    net.set_input_size(img_size=images.shape[2:], window_size=7)
    assert torch.equal(net.norm(found), net.forward_features(images))


def test_at_224_it_is_timms_bit_for_bit():
    net = network(**DEEP)
    images = torch.randn(1, 3, 224, 224)
    assert torch.equal(net.norm(last_map(net, images)), net.forward_features(images))


@pytest.mark.parametrize("size", [(512, 512), (600, 1000), (236, 404), (224, 260), (300, 224)])
def test_at_every_size_it_is_the_swin_of_transformers(size):
    net = network(**DEEP)
    images = torch.randn(1, 3, *size)
    found = net.norm(last_map(net, images, image_size=size))
    expected = transformers_swin(net)(images).last_hidden_state
    assert torch.allclose(found.flatten(1, 2), expected, atol=1e-4)


@pytest.mark.parametrize("size", [(60, 92), (116, 84), (148, 64)])
def test_maps_that_windows_do_not_fill_are_those_of_transformers(size):
    net = network(**SMALL)
    images = torch.randn(2, 3, *size)
    found = net.norm(last_map(net, images, image_size=size))
    assert torch.allclose(found.flatten(1, 2), transformers_swin(net)(images).last_hidden_state, atol=1e-4)


@pytest.mark.parametrize("rows", [12, 16, 13])
def test_what_changes_at_one_border_is_not_seen_at_the_opposite_one(rows):
    block = SwinBlock(network(**SMALL).layers[0].blocks[1], (14, 14))
    x = torch.randn(1, rows, 23, 16)
    changed = x.clone()
    changed[:, 0] += 1
    moved = (block(changed) != block(x)).any(-1)[0]
    assert moved[0].all() and not moved[7:].any(), "row 0 is in one window with rows up to 3, or up to 6"
    changed = x.clone()
    changed[:, :, 0] += 1
    moved = (block(changed) != block(x)).any(-1)[0]
    assert moved[:, 0].all() and not moved[:, 7:].any()


def test_windows_stay_what_they_were_trained_as_whatever_the_size():
    net = network(**SMALL)
    for size in (28, 60, 112, (600, 1000)):
        backbone = open_backbone(net, image_size=size)
        tables = [block.attn.relative_position_bias_table for block in backbone.blocks.values()]
        assert {block.window for block in backbone.blocks.values()} == {(7, 7)}
        assert tables[0].data_ptr() == net.layers[0].blocks[0].attn.relative_position_bias_table.data_ptr()


def test_what_lies_beyond_a_map_smaller_than_a_window_is_not_seen():
    block = SwinBlock(network(**SMALL).layers[1].blocks[1], (7, 7))
    x = torch.randn(1, 5, 6, 32)
    found = block._attn(x)
    q, k, v = block.attn.qkv(x.flatten(1, 2)).view(1, 30, 3, 2, 16).permute(2, 0, 3, 1, 4)
    at = torch.tensor([row * 7 + column for row in range(5) for column in range(6)])
    table, index = block.attn.relative_position_bias_table, block.attn.relative_position_index
    scores = q @ k.transpose(-2, -1) * block.attn.scale + table[index[at][:, at]].permute(2, 0, 1)
    expected = block.attn.proj((scores.softmax(-1) @ v).transpose(1, 2).reshape(1, 30, 32))
    assert torch.allclose(found.flatten(1, 2), expected, atol=1e-5)


def test_masks_are_made_once_for_a_size_and_only_the_last_few_are_kept():
    block = SwinBlock(network(**SMALL).layers[0].blocks[1], (14, 14))
    with torch.inference_mode():
        first = block(torch.randn(1, 15, 15, 16))
    mask = block.mask_at((15, 15), first)
    assert block.mask_at((15, 15), first) is mask and not mask.is_inference()
    x = torch.randn(1, 15, 15, 16, requires_grad=True)
    block(x).sum().backward()
    assert x.grad.isfinite().all()
    for rows in range(16, 30):
        block(torch.randn(1, rows, 15, 16))
    assert len(block.masks) <= NUM_SIZES


def test_networks_that_always_shift_do_so_on_one_window_too():
    net = network(**{**SMALL, "img_size": 28}, always_partition=True)
    images = torch.randn(1, 3, 56, 56)
    net.set_input_size(img_size=(56, 56), window_size=7)
    assert torch.equal(net.norm(last_map(net, images)), net.forward_features(images))


@RESAMPLES
def test_what_0_1_computed_otherwise_is_known_by_another_name():
    net = tiny_network("swin").eval()
    native, larger = open_backbone(net), open_backbone(net, image_size=96)
    as_0_1 = open_backbone(net, image_size=96, as_0_1=True)
    assert native.card.identity == native.card.digest == larger.card.digest == as_0_1.card.identity
    assert larger.card.identity != larger.card.digest
    assert "revised" not in native.card.described(), "folders at the network's own size are 0.1's"
    images = torch.randn(1, 3, 96, 96)
    net.set_input_size(img_size=(96, 96))
    need = frozenset({pooled("mean")})
    assert torch.equal(Prefix(as_0_1, need)(images, need)[pooled("mean")], net(images))


@RESAMPLES
def test_a_folder_of_0_1_loads_as_what_it_was_trained_on_and_a_new_one_as_it_is(tmp_path):
    images = torch.randn(2, 3, 96, 96)
    for as_0_1 in (True, False):
        backbone = open_backbone(tiny_network("swin"), image_size=96, as_0_1=as_0_1)
        model = sidetune.adapt(backbone, "full", num_classes=3)
        model.save_pretrained(tmp_path / str(as_0_1))
        loaded = sidetune.load(tmp_path / str(as_0_1), backbone=tiny_network("swin"))
        assert torch.equal(loaded(images), model(images))
        loaded.save_pretrained(tmp_path / "again")
        assert torch.equal(sidetune.load(tmp_path / "again", backbone=tiny_network("swin"))(images), model(images))
    with pytest.raises(WeightsMismatch, match="is of version 0.1, which made something else of this swin"):
        sidetune.load(tmp_path / "True", backbone=open_backbone(tiny_network("swin"), image_size=96))


def test_a_size_that_windows_fill_merges_into_timms_network_and_another_says_why_not():
    model = sidetune.adapt(open_backbone(network(**SMALL), image_size=112), "lora", num_classes=3)
    disturb(model)
    images = torch.randn(2, 3, 112, 112)
    merged = model.merge(into=network(**SMALL))
    assert merged.layers[0].blocks[0].window_size == (7, 7)
    assert torch.allclose(merged(images), model(images), atol=1e-5)
    model = sidetune.adapt(open_backbone(network(**SMALL), image_size=(112, 84)), "lora", num_classes=3)
    with pytest.raises(CannotMerge, match="stage 2 has 14 x 11 places, which windows of 7 x 7 do not fill"):
        model.merge(into=network(**SMALL))
