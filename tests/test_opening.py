"""The check of a family holds for all families, and tells what one says that is not so."""

from dataclasses import replace

import pytest
import timm
import torch
from conftest import TINY, tiny_backbone, tiny_network, tiny_size
from timm.layers.attention import Attention
from timm.layers.patch_embed import PatchEmbed
from timm.models.convnext import ConvNeXt
from timm.models.mlp_mixer import MlpMixer
from timm.models.swin_transformer import SwinTransformer
from timm.models.vision_transformer import VisionTransformer
from torch import nn

import sidetune
from sidetune.backbones import FAMILIES, Family, Parts, Steps, open_backbone
from sidetune.backbones.convnext import CONVNEXT
from sidetune.backbones.layout import Layout
from sidetune.backbones.pools import MeanPool
from sidetune.backbones.swin import SWIN
from sidetune.backbones.vit import VIT
from sidetune.errors import MethodRefused
from sidetune.methods import METHODS, find_method
from sidetune.opening import check_family


@pytest.mark.parametrize("kind", TINY)
def test_every_family_keeps_what_it_promises(kind):
    network = tiny_network(kind)
    check_family(network, image_size=tiny_size(network))


@pytest.fixture
def family_with(monkeypatch):
    """Puts a family that says, or opens networks into, something else in place of one."""

    def family_with(cls, family, parts=None, **said):
        def opened(network):
            own = family.open(network)
            return replace(own, family=changed, **(parts(own) if parts else {}))

        changed = replace(family, open=opened, **said)
        monkeypatch.setitem(FAMILIES, cls, changed)

    return family_with


def forgets_positions(parts):
    parts.stem.pos_embed = None
    return {}


def forgets_at_other_sizes(parts):
    """Positions of one size are kept, as a family does that takes the grid of its first network for all."""
    if parts.layout.grid != (4, 4):
        parts.stem.pos_embed = nn.Parameter(parts.stem.pos_embed * 0)
    return {}


@pytest.mark.parametrize(
    ("said", "parts", "told"),
    [
        ({"roles": {**VIT.roles, "qkv": "attn.qvk"}}, None, r"vit has qkv at attn\.qvk, but block 1 here, a Block, h"),
        ({"roles": {**VIT.roles, "fc1": "norm2"}}, None, "states the role fc1 at norm2, but in block 1 that is a Lay"),
        ({"mlp_branch": ("norm1", "mlp")}, None, "norm1, mlp run one straight after the other .* but block 1 computes"),
        ({"mlp_branch": ("norm3", "mlp")}, None, "but block 1 has no norm3"),
        ({"batch_norms": True}, None, "states batch_norms=True, but in this network blocks have 0 BatchNorms"),
        ({"staged": True}, None, r"states staged=True, but in this network stages are \[1\]; state staged=False"),
        ({"keeps_shape": False}, None, r"keeps_shape=False, but in this network blocks that change .* are \[\]"),
        ({"class_token": "token"}, None, "class_token='token', a parameter of the stem, .* but its stem has cls_token"),
        ({"class_token": "pos_embed"}, None, r"reads the first token, but it changes tokens \[0, 1, 2"),
        ({"roles": {}, "mlp_branch": (), "convolutions": True}, None, "convolutions=True, but its blocks have"),
        ({}, lambda p: {"layout": Layout(num_prefix_tokens=2, grid=(3, 5))}, "2 tokens stand in front .* numbers .0."),
        ({}, lambda p: {"native_pool": "mean"}, "the pooling mean, one after the other, compute what the network"),
        ({}, forgets_positions, "at 32 x 32 they are off by .* that vit opens into none of them"),
        ({}, forgets_at_other_sizes, "at 64 x 32 they are off by"),
    ],
)  # fmt: skip
def test_what_a_family_says_and_what_is_seen_are_told(family_with, said, parts, told):
    family_with(VisionTransformer, VIT, parts, **said)
    with pytest.raises((AssertionError, ValueError), match=told):
        check_family(tiny_network("vit"))


def test_rows_and_columns_that_are_taken_for_each_other_are_seen(family_with):
    family_with(VisionTransformer, VIT, lambda p: {"layout": Layout(num_prefix_tokens=1, grid=p.layout.grid[::-1])})
    with pytest.raises(AssertionError, match="a place, but is .* for images of 32 x 64; check the layout"):
        check_family(tiny_network("vit"), image_size=(32, 64))
    family_with(SwinTransformer, SWIN, lambda p: {"layout": Layout(channels_first=True)})
    with pytest.raises(
        AssertionError, match="lower left of an image is largest in row .* check grid= and channels_first="
    ):
        check_family(tiny_network("swin"))


def test_prompts_are_tried(family_with):
    network = tiny_network("eva")
    family_with(type(network), FAMILIES[type(network)], prompts=True)
    with pytest.raises(AssertionError, match="prompts=True, but block 1 does not take 3 more tokens"):
        check_family(network)


def test_sizes_that_a_network_does_not_take_are_seen_at_the_least(family_with):
    family_with(ConvNeXt, CONVNEXT, lambda p: {"steps": Steps()})
    with pytest.raises(AssertionError, match="takes images of 1 x 1, it says, but there is: .* Kernel size"):
        check_family(tiny_network("convnext"), image_size=32)


def test_weights_that_opening_writes_to_are_seen(family_with):
    def writes(parts):
        parts.blocks[1].norm1.weight.data += 1
        return {}

    family_with(VisionTransformer, VIT, writes)
    with pytest.raises(AssertionError, match="opening changes no weights, but vit did"):
        check_family(tiny_network("vit"))


class Reading(Attention):
    """Attention that takes the weight of qkv and leaves the layer alone, as timm's Beit does."""

    def forward(self, x, **_):
        q, k, v = nn.functional.linear(x, self.qkv.weight, self.qkv.bias).unflatten(-1, (3, 3, 16)).unbind(2)
        out = nn.functional.scaled_dot_product_attention(*(t.transpose(1, 2) for t in (q, k, v)))
        return self.proj(out.transpose(1, 2).flatten(2))


@pytest.fixture
def reading():
    network = tiny_network("vit")
    for block in network.blocks:
        block.attn.__class__ = Reading
    return network


def test_a_role_whose_layer_is_never_called_is_named(reading):
    with pytest.raises(
        AssertionError, match=r"the role qkv at attn\.qkv, but block 1, a Block, computes without calling"
    ):
        check_family(reading)


@pytest.mark.parametrize("name", ["lora", "lora-fused", "ssf", "fact-tt", "arc", "rlrr", "noah"])
def test_methods_that_would_stand_where_nothing_is_called_are_refused_with_the_reason(reading, name):
    small = {"rank": 4} if name in ("fact-tt", "arc") else {}
    with pytest.raises(MethodRefused, match=r"in place of attn\.qkv, which blocks\.1 computes without calling"):
        sidetune.adapt(reading, name, num_classes=3, **small)


def test_one_that_looks_at_images_is_refused_before_it_does(reading):
    def images():
        raise AssertionError("looked")
        yield

    with pytest.raises(MethodRefused, match=r"SPT does not work .* in place of attn\.qkv"):
        find_method("spt-lora").prepare(open_backbone(reading), images(), 3)


@pytest.mark.parametrize("name", ["linear", "bitfit", "full", "dtl+", "mist", "adapter", "lorand"])
def test_methods_that_need_no_such_layer_work_all_the_same(reading, name):
    sidetune.adapt(reading, name, num_classes=3)(torch.randn(1, 3, 32, 32))


def test_every_pooling_is_known_by_what_it_calls():
    assert tiny_backbone("vit").called.keys() >= {"stem", "blocks.4", "pools.token", "pools.mean"}
    assert "norm" in tiny_backbone("vit").called["pools.mean"]


@pytest.mark.parametrize(
    ("parts", "told"),
    [
        (lambda p: {"native_pool": "gem"}, "native_pool of a vit network is 'gem'; its pools are mean, token"),
        (lambda p: {"stages": {}}, "each of its blocks, 1 to 4, has one"),
        (lambda p: {"stages": dict.fromkeys(p.blocks, 1) | {1: 2}}, "and they count up"),
        (lambda p: {"blocks": {i - 1: b for i, b in p.blocks.items()}}, r"are \[0, 1, 2, 3\]; they count from 1"),
        (lambda p: {"transitions": {9: nn.Identity()}}, r"stand before blocks \[9\], which it has not"),
        (lambda p: {"layout": Layout()}, "the family vit has tokens, and opens networks into maps"),
        (
            lambda p: {"layout": Layout(grid=(4, 4))},
            r"says 0 class and register tokens and 4 x 4 patches, .* \(17, 48\)",
        ),
    ],
)
def test_parts_that_contradict_themselves_are_named_where_a_network_is_opened(family_with, parts, told):
    family_with(VisionTransformer, VIT, parts)
    with pytest.raises(ValueError, match=told):
        open_backbone(tiny_network("vit"))


def test_maps_are_no_rows_of_tokens(family_with):
    family_with(VisionTransformer, VIT, lambda p: {"layout": Layout()}, tokens=False, prompts=False)
    with pytest.raises(ValueError, match=r"says maps \(no grid\), but its stem gives \(17, 48\)"):
        open_backbone(tiny_network("vit"))


@pytest.mark.parametrize(
    "name", ["lora", "fact-tt", "arc", "rlrr", "spt-lora", "adapter", "adaptformer", "lorand", "noah"]
)
def test_methods_name_the_roles_that_a_family_lacks_and_speak_of_convolutions_only_where_it_does(name):
    silent = Family(name="mine", open=VIT.open, tokens=True, prompts=True)
    reason = METHODS[name].refuses(silent)
    assert reason.startswith("its family names no layer for ") and "convolutions" not in reason
    assert "qkv" in reason or "mlp" in reason or "projection" in reason
    assert METHODS[name].refuses(replace(silent, convolutions=True)).startswith("its blocks are convolutions")


def test_pruning_names_the_roles_that_a_family_lacks():
    some = {role: path for role, path in VIT.roles.items() if role != "mlp_scale"}
    assert (
        METHODS["lst"].refuses(replace(VIT, roles=some)).startswith("its family names no layer for mlp_scale (roles)")
    )


class Plain(nn.Module):
    """A network that is none of timm's: it was made for 24 x 40 pixels, and only its family can know."""

    def __init__(self):
        super().__init__()
        self.cut, self.norm = nn.Conv2d(3, 8, 8, stride=8), nn.LayerNorm(8)
        self.places = nn.Parameter(torch.randn(3, 5, 8))
        self.blocks = nn.ModuleList(nn.Sequential(nn.Linear(8, 8), nn.GELU()) for _ in range(2))

    def reset_classifier(self, num_classes):
        pass

    def stem(self, images):
        return self.cut(images).movedim(1, -1) + self.places

    def forward(self, images):
        return self.norm(nn.Sequential(*self.blocks)(self.stem(images))).mean(dim=(1, 2))


class Stem(nn.Module):
    def __init__(self, network):
        super().__init__()
        self.cut, self.places = network.cut, network.places

    forward = Plain.stem


def open_plain(network):
    blocks = dict(enumerate(network.blocks, start=1))
    return Parts(
        family=PLAIN, stem=Stem(network), blocks=blocks, transitions={}, stages=dict.fromkeys(blocks, 1),
        pools={"mean": MeanPool(network.norm, Layout(), norm_first=True)}, native_pool="mean", layout=Layout(),
    )  # fmt: skip


PLAIN = Family(name="plain", open=open_plain, native_size=lambda network: (24, 40))


def test_the_own_size_of_a_network_is_what_its_family_says_or_what_cuts_it_into_patches(monkeypatch):
    monkeypatch.setitem(FAMILIES, Plain, PLAIN)
    assert open_backbone(Plain()).card.image_size == (24, 40)
    check_family(Plain())
    with pytest.raises(ValueError, match="this plain backbone cannot take images of 32 x 40 pixels"):
        open_backbone(Plain(), image_size=(32, 40))
    mixer = MlpMixer(img_size=48, patch_size=16, num_blocks=1, embed_dim=8)
    assert isinstance(mixer.stem, PatchEmbed) and VIT.native_size(mixer) == (48, 48)
    assert VIT.native_size(timm.create_model("resnet18", num_classes=0)) is None
