"""What families say of themselves is what their networks are."""

from dataclasses import replace

import pytest
import timm
import torch
from conftest import TINY, tiny_backbone
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

import sidetune
from sidetune.backbones import FAMILIES, family_named
from sidetune.backbones.family import LINEAR
from sidetune.backbones.vit import VIT


def linear_layers(block):
    return {
        name
        for name, m in block.named_modules()
        if isinstance(m, nn.Linear) or (isinstance(m, nn.Conv2d) and m.kernel_size == (1, 1))
    }


def test_every_capability_is_a_fact(backbone):
    family, blocks = backbone.family, backbone.blocks.values()
    assert family.name == backbone.card.family and type(backbone.card.family) is str
    assert family.tokens == (backbone.layout.grid is not None)
    assert family.staged == (len(set(backbone.stages.values())) > 1)
    assert family.keeps_shape == all(map(backbone.keeps_shape, backbone.blocks))
    assert family.batch_norms == any(isinstance(m, _BatchNorm) for block in blocks for m in block.modules())
    token = dict(backbone.stem.named_parameters()).get(family.class_token or "")
    assert (token is not None) == ("token" in backbone.pools)
    if family.tokens:
        assert family.prompts == takes_prompts(backbone) and family.rotary != family.prompts


def takes_prompts(backbone):
    """Whether a block treats tokens alike, however many and in whatever order."""
    torch.manual_seed(0)
    x = torch.randn(1, backbone.input_shapes[1][0] + 3, backbone.width(1))
    order = torch.randperm(x.shape[1])
    try:
        return torch.allclose(backbone.blocks[1](x[:, order]), backbone.blocks[1](x)[:, order], atol=1e-5)
    except RuntimeError:
        return False


def test_roles_are_all_linear_layers_of_every_block_and_the_branch_of_the_mlp(backbone):
    family = backbone.family
    for block in backbone.blocks.values():
        assert all(hasattr(block.get_submodule(path), "forward") for path in backbone.paths(*family.roles).values())
        children = [name for name, _ in block.named_children()]
        assert [name for name in children if name in family.mlp_branch] == list(family.mlp_branch)
        if family.has(*LINEAR):
            assert set(backbone.paths(*LINEAR).values()) == linear_layers(block)


@pytest.mark.parametrize(
    ("name", "has"),
    [
        ("eva02_tiny_patch14_224", {"qkv", "projection", "fc1", "fc2"}),
        ("eva02_base_patch14_224", {"q", "k", "v", "projection", "gate", "gated", "fc2"}),
        ("eva_giant_patch14_224", {"qkv", "projection", "fc1", "fc2"}),
    ],
)
def test_what_a_network_of_a_varying_family_has_is_asked_of_its_blocks(name, has):
    network = timm.create_model(name, depth=2, embed_dim=48, num_heads=3, img_size=42, num_classes=0)
    backbone = sidetune.open_backbone(network)
    assert set(backbone.paths(*LINEAR)) == has
    assert set(backbone.paths(*LINEAR).values()) == linear_layers(backbone.blocks[1])
    absent = "fc1" if "gate" in has else "gate"
    with pytest.raises(ValueError, match=f"the blocks of this eva backbone have no layer for {absent}"):
        backbone.path(absent)


def test_families_are_told_by_name_and_equal_theirs():
    assert [family.name for family in FAMILIES.values()] == [
        *("vit", "eva", "swin", "convnext", "resnet", "efficientnet", "mit")
    ]
    assert {tiny_backbone(kind).family for kind in TINY} == set(FAMILIES.values())
    assert family_named("vit") is VIT and VIT == "vit" and "swin" not in (VIT,) and {"vit": 1}[VIT] == 1
    assert f"a {VIT} backbone" == "a vit backbone"
    with pytest.raises(ValueError, match="unknown family 'vitt'; did you mean vit"):
        family_named("vitt")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"roles": {"query": "attn.q"}}, "roles of vit has query; known: attention"),
        ({"varying": frozenset({"gate"})}, "varying of vit has gate, which its roles do not name"),
        ({"mlp_branch": ("norm2",)}, "mlp_branch of vit, .* is without the layer of the role mlp"),
    ],
)
def test_a_slip_in_what_a_family_says_is_named(changes, message):
    with pytest.raises(ValueError, match=message):
        replace(VIT, **changes)
