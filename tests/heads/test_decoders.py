"""Decoders against others' code and against plain sums: the same weights give the same scores."""

import pytest
import torch
from conftest import tiny_backbone
from torch import nn
from torch.nn import functional as F
from transformers import SegformerConfig, SwinConfig, UperNetConfig
from transformers.models.segformer.modeling_segformer import SegformerDecodeHead
from transformers.models.upernet.modeling_upernet import UperNetHead as TheirUperNet

from sidetune.heads.maps import Maps, convolved, resized
from sidetune.heads.pyramid import Pyramid
from sidetune.heads.segformer import LinearMaps, SegFormerHead
from sidetune.heads.upernet import UperNetHead
from sidetune.seam.features import Features
from sidetune.seam.levels import levels

WIDTHS = (8, 16, 24, 32)


@pytest.fixture(scope="module")
def convnext():
    return tiny_backbone("convnext")


@pytest.fixture(scope="module")
def maps():
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(2, w, 16 // 2**i, 16 // 2**i, generator=generator) for i, w in enumerate(WIDTHS)]


def features(backbone, maps):
    return Features({level.tap: m for level, m in zip(levels(backbone), maps, strict=True)})


def moved(module):
    """Statistics and scales that hide nothing."""
    for m in module.modules():
        if isinstance(m, nn.BatchNorm2d):
            m.running_mean.normal_()
            m.running_var.uniform_(0.5, 2)
            nn.init.normal_(m.weight, 1, 0.2)
            nn.init.normal_(m.bias)
        if isinstance(m, nn.Conv2d) and m.bias is not None:
            nn.init.normal_(m.bias)
    return module.eval()


@torch.no_grad()
def test_segformers_head_is_transformers_with_the_same_weights(convnext, maps):
    width, classes = 12, 5
    config = SegformerConfig(
        hidden_sizes=list(WIDTHS),
        depths=[1] * 4,
        decoder_hidden_size=width,
        num_labels=classes,
        reshape_last_stage=True,
    )
    theirs = moved(SegformerDecodeHead(config))
    ours = SegFormerHead(levels(convnext), classes, width=width, cells=1, norm="batch", normed=False).eval()
    fused = theirs.linear_fuse.weight[:, :, 0, 0].reshape(width, 4, width)  # the coarsest level's part comes first
    for i in range(4):
        ours.linear[i].weight.copy_(theirs.linear_projections[i].proj.weight[..., None, None])
        ours.linear[i].bias.copy_(theirs.linear_projections[i].proj.bias)
        ours.fuse[i].weight.copy_(fused[:, 3 - i, :, None, None])
    ours.end[0].load_state_dict(theirs.batch_norm.state_dict())
    ours.classify.scores.load_state_dict(theirs.classifier.state_dict())
    torch.testing.assert_close(ours(features(convnext, maps)), theirs(maps), rtol=0, atol=2e-5)


@torch.no_grad()
def test_upernet_is_transformers_with_the_same_weights(convnext, maps):
    width, classes = 12, 5
    config = UperNetConfig(
        backbone_config=SwinConfig(), hidden_size=width, num_labels=classes, pool_scales=[1, 2, 3, 6]
    )
    theirs = moved(TheirUperNet(config, in_channels=list(WIDTHS)))
    ours = UperNetHead(levels(convnext), classes, width=width, cells=1, norm="batch", normed=False).eval()

    def take(own, other):
        own[0].load_state_dict(other.conv.state_dict())
        own[1].load_state_dict(other.batch_norm.state_dict())

    for i in range(3):
        take(ours.lateral[i], theirs.lateral_convs[i])
        take(ours.smooth[i], theirs.fpn_convs[i])
    for i in range(4):
        take(ours.pooling.means[i], theirs.psp_modules.blocks[i].layers[1])
    take(ours.pooling.end, theirs.bottleneck)
    take(ours.fuse, theirs.fpn_bottleneck)
    ours.classify.scores.load_state_dict(theirs.classifier.state_dict())
    torch.testing.assert_close(ours(features(convnext, maps)), theirs(maps), rtol=0, atol=2e-5)


@torch.no_grad()
def test_the_linear_decoder_is_one_linear_layer_on_all_levels_side_by_side(convnext, maps):
    head = LinearMaps(levels(convnext), 3, cells=1, normed=False)
    joined = torch.cat([resized(m, (16, 16)) for m in maps], dim=1)
    weight = torch.cat([c.scores.weight for c in head.classify], dim=1)
    bias = sum(c.scores.bias for c in head.classify)
    torch.testing.assert_close(head(features(convnext, maps)), F.conv2d(joined, weight, bias))


def test_upernet_gives_its_auxiliary_scores_in_training_alone(convnext, maps):
    head = UperNetHead(levels(convnext), 3, width=8, cells=1, norm="group", normed=True)
    scores, auxiliary = head.train()(features(convnext, maps))
    assert scores.shape == (2, 3, 16, 16) and auxiliary.shape == (2, 3, 4, 4)
    assert head.eval()(features(convnext, maps)).shape == (2, 3, 16, 16)


def test_cells_are_answers_within_a_place_in_their_order(convnext, maps):
    head = LinearMaps(levels(convnext)[:1], 2, cells=3, normed=False)
    found = head(Features({levels(convnext)[0].tap: maps[0]}))
    plain = F.conv2d(maps[0], head.classify[0].scores.weight, head.classify[0].scores.bias)
    assert found.shape == (2, 2, 48, 48)
    for row in range(3):
        for column in range(3):
            expected = plain[:, [0 * 9 + row * 3 + column, 1 * 9 + row * 3 + column]]
            assert torch.equal(found[:, :, row::3, column::3], expected)


def test_levels_have_a_norm_of_their_own_each(convnext, maps):
    read = Maps(levels(convnext))
    for out, given in zip(read(features(convnext, maps)), maps, strict=True):
        expected = (given - given.mean(1, keepdim=True)) / (given.var(1, keepdim=True, unbiased=False) + 1e-5).sqrt()
        torch.testing.assert_close(out, expected, rtol=1e-4, atol=1e-5)
    assert [n.weight.requires_grad for n in read.norms] == [True] * 4


def test_a_plain_transformers_levels_become_a_pyramid_and_a_pyramid_stays(vit, convnext, maps):
    pyramid = Pyramid(levels(vit))
    given = [torch.randn(1, 48, 4, 4) for _ in range(4)]
    assert [tuple(m.shape[2:]) for m in pyramid(given)] == [(16, 16), (8, 8), (4, 4), (2, 2)]
    assert pyramid(given)[2] is given[2] and pyramid.reduction == 2
    same = Pyramid(levels(convnext))
    assert all(map(torch.equal, same(maps), maps)) and same.reduction == 4 and not list(same.parameters())
    three = Pyramid(levels(tiny_backbone("gap")))
    assert three.reduction == 8 and three([given[0], given[0], given[0]])[0].shape[2:] == (8, 8)


def test_unknown_norms_are_named():
    with pytest.raises(ValueError, match="unknown norm 'layer'"):
        convolved(4, 4, norm="layer")
