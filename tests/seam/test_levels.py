"""Levels: which outputs a task that says something of every place reads, and that they are the backbone's own."""

import pytest
import torch
from conftest import TINY, tiny_backbone, tiny_network

import sidetune
from sidetune.backbones import open_backbone
from sidetune.seam.levels import levels
from sidetune.seam.taps import block_output
from sidetune.tasks import Segmentation

STAGED = {
    "swin": [(1, 16, 4), (2, 32, 8), (4, 64, 16), (5, 128, 32)],
    "convnext": [(1, 8, 4), (2, 16, 8), (4, 24, 16), (5, 32, 32)],
    "resnet": [(2, 8, 4), (4, 16, 8), (6, 24, 16), (8, 32, 32)],
    "efficientnet": [(3, 24, 4), (5, 40, 8), (11, 112, 16), (16, 320, 32)],
    "mit": [(1, 16, 4), (2, 16, 8), (4, 24, 16), (5, 32, 32)],
}
"""Blocks, channels and reductions that the papers' pyramids have: strides 4, 8, 16, 32."""


@pytest.mark.parametrize("kind", STAGED)
def test_levels_of_stages_are_the_last_output_at_every_stride_from_4_on(kind):
    found = [(level.tap, level.width, level.reduction) for level in levels(tiny_backbone(kind))]
    assert found == [(block_output(i), width, stride) for i, width, stride in STAGED[kind]]


def test_levels_of_a_plain_transformer_are_the_outputs_after_each_quarter_of_its_blocks():
    network = tiny_network("vit")
    network.blocks.extend([tiny_network("vit", seed=i).blocks[0] for i in range(3)])
    found = levels(open_backbone(network))
    assert [level.tap for level in found] == [block_output(i) for i in (2, 4, 6, 7)]
    assert {(level.width, level.reduction) for level in found} == {(48, 8)}


def test_one_of_fewer_blocks_than_levels_gives_each_block_once():
    assert [level.tap.at for level in levels(tiny_backbone("gap"))] == [1, 2, 3]


@pytest.mark.parametrize("kind", [kind for kind in TINY if hasattr(tiny_network(kind), "forward_intermediates")])
def test_maps_of_an_unadapted_model_are_timms_own_intermediate_maps(kind):
    """Whichever half a level comes from: `dtl+` starts as the identity and takes some from the suffix."""
    network, backbone = tiny_network(kind), tiny_backbone(kind)
    images = torch.randn(2, 3, *backbone.card.image_size)
    plain = [level.tap.at - 1 for level in levels(backbone)]
    last_four = 4
    with torch.no_grad():
        expected = network.eval().forward_intermediates(
            images,
            indices=last_four if backbone.family.staged else plain,
            norm=False,
            output_fmt="NCHW",
            intermediates_only=True,
        )
    for method in ("linear", "dtl+"):
        model = sidetune.adapt(backbone, method, task=Segmentation(classes=("a", "b"), width=8))
        with torch.no_grad():
            given = model.suffix(model.features(images))
        found = [level.maps(given[level.tap]) for level in levels(backbone)]
        for own, timms in zip(found, expected, strict=True):
            assert torch.equal(own, timms)


def test_prompts_class_tokens_and_registers_are_no_places(vit):
    model = sidetune.adapt(vit, "vpt-deep", task=Segmentation(classes=("a", "b"), width=8))
    given = model.suffix(model.features(torch.randn(1, 3, 32, 32)))
    for level in levels(vit):
        z = given[level.tap]
        assert torch.equal(level.maps(z).flatten(2).mT, z[:, -16:])
    assert given[block_output(2)].shape[1] == 1 + 10 + 16  # the class token, the prompts, the patches


def test_levels_before_the_frozen_depth_are_the_prefixs_and_later_ones_carry_a_gradient():
    backbone = tiny_backbone("swin")
    model = sidetune.adapt(backbone, "dtlv2", task=Segmentation(classes=("a", "b"), width=8), first_write=4)
    given = model.suffix(model.features(torch.randn(1, 3, 64, 64)))
    assert model.frozen_depth == 4 and model.need >= {block_output(1), block_output(2)}
    assert [given[level.tap].requires_grad for level in levels(backbone)] == [False, False, True, True]
