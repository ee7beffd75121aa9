"""Every method on every family: the contract, the counts, the refusals, the merges."""

import re
from dataclasses import FrozenInstanceError
from pathlib import Path

import pytest
import timm
import torch
from conftest import TINY, tiny_backbone, tiny_network

import sidetune
from sidetune.backbones import family_named
from sidetune.contract import check_method, disturb
from sidetune.errors import CannotMerge, MethodRefused
from sidetune.heads.linear import LinearHead
from sidetune.measure.parameters import count
from sidetune.methods import DTL, METHODS, MIST, VPT, LoRA, Partial, find_method
from sidetune.methods.matrix import SUMMARIES, family_names, markdown, matrix
from sidetune.seam.readout import Pooled

SMALL: dict[str, dict[str, object]] = {"fact-tt": {"rank": 4}, "fact-tk": {"rank": 4}, "arc": {"rank": 4}}
"""Presets whose rank is above the tiny networks' width, by name: what they are tested with."""


@pytest.mark.filterwarnings("ignore:L-Share has nothing to scale")  # in networks of four blocks
@pytest.mark.parametrize("kind", TINY)
@pytest.mark.parametrize("name", METHODS)
def test_the_contract_holds_or_the_pair_is_refused(name, kind):
    backbone = tiny_backbone(kind)
    if reason := METHODS[name].refuses(backbone.family):
        with pytest.raises(MethodRefused, match=re.escape(f"does not work on a {backbone.family} backbone: {reason}")):
            sidetune.adapt(backbone, name, num_classes=3)
    else:
        check_method(find_method(name, **SMALL.get(name, {})), backbone)


@pytest.fixture(scope="module")
def vit_b():
    with torch.device("meta"):
        return sidetune.open_backbone(timm.create_model("vit_base_patch16_224", num_classes=0))


@pytest.mark.parametrize(
    ("method", "trainable", "units", "frozen_depth"),
    [
        (METHODS["linear"], 0, 0, 12),
        (METHODS["mist"], 399_360, 0, 12),
        (MIST(block="mlp", k=6), 399_360, 0, 12),
        (MIST(block="dwconv"), 33_792, 0, 12),
        (MIST(layers=0), 0, 0, 12),
        (METHODS["dtl"], 36_864, 12, 7),
        (METHODS["dtl+"], 43_776, 13, 7),
        (METHODS["dtlv1"], 43_776, 13, 7),
        (METHODS["dtl+*"], 43_776, 13, 1),
        (DTL(fusion="depthwise", kernel=5), 56_064, 13, 7),
        (DTL(fusion="average"), 36_864, 13, 7),
        (DTL(fusion="full"), 36_864 + 9 * 768**2, 13, 7),
        (DTL(fusion="depthwise", share_fusion=False), 36_864 + 6 * 6_912, 18, 7),
        (METHODS["lora"], 294_912, 24, 0),
        (METHODS["lora-fused"], 294_912, 12, 0),
        (METHODS["bitfit"], 102_912, 0, 0),
        (METHODS["partial"], 7_089_408, 0, 11),
        (Partial(num_blocks=2), 7_089_408 + 7_087_872, 0, 10),
        (METHODS["full"], 85_798_656, 0, 0),
        (VPT(num_tokens=1), 9_216, 12, 0),
        (VPT(num_tokens=7), 7 * 9_216, 12, 0),
        (VPT(deep=False, num_tokens=5), 5 * 768, 1, 0),
    ],
)
def test_parameters_on_vit_b_are_the_papers(vit_b, method, trainable, units, frozen_depth):
    model = sidetune.adapt(vit_b, method, num_classes=10)
    counted = count(model)
    assert (counted.trainable, counted.units, model.frozen_depth) == (trainable, units, frozen_depth)
    assert counted.head == 7_690


@pytest.mark.parametrize("choices", [{"reads": tuple(range(5, 25))}, {}])
def test_parameters_on_swin_b_are_the_papers(choices):
    with torch.device("meta"):
        swin = timm.create_model("swin_base_patch4_window7_224", num_classes=0)
    assert count(sidetune.adapt(swin, DTL(rank=4, **choices), num_classes=10)).trainable == 90_112


def test_parameters_of_lora_on_convnext_b_at_rank_4_are_the_journals():
    with torch.device("meta"):
        network = timm.create_model("convnext_base", num_classes=0)
    assert count(sidetune.adapt(network, LoRA(rank=4), num_classes=10)).trainable == 721_920


def test_lora_updates_q_and_v_and_leaves_k(vit):
    model = sidetune.adapt(vit, "lora", num_classes=3)
    disturb(model)
    x = torch.randn(2, 5, 48)
    adapted = model.suffix.blocks["1"].attn.qkv
    q, k, v = (adapted(x) - adapted.base(x)).chunk(3, dim=-1)
    assert q.abs().max() > 0 and v.abs().max() > 0
    assert k.abs().max() == 0
    expected = x @ adapted.down[0].T @ adapted.up[0].T
    assert torch.allclose(q, expected, atol=1e-6)


def test_vpt_puts_prompts_behind_the_prefix_tokens_and_takes_them_out_again():
    backbone = tiny_backbone("dinov2")
    side = sidetune.adapt(backbone, "vpt-deep", num_classes=3, num_tokens=2).suffix.side
    z = torch.arange(14.0).view(1, 14, 1).expand(1, 14, 48)
    with_prompts = side.write(0, z, None)
    assert with_prompts.shape == (1, 16, 48)
    assert torch.equal(with_prompts[:, :5], z[:, :5]) and torch.equal(with_prompts[:, 7:], z[:, 5:])
    assert torch.equal(with_prompts[0, 5:7], side.prompts[0])
    replaced = side.write(1, with_prompts, None)
    assert torch.equal(replaced[0, 5:7], side.prompts[1])
    assert torch.equal(side.write(3, replaced, None), z)


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        (name, kind)
        for name in (
            *("linear", "lora", "lora-fused", "bitfit", "partial", "full"),
            *("ssf", "fact-tt", "fact-tk", "arc", "rlrr", "spt-lora"),
        )
        for kind in ("vit", "gap", "swin", "convnext", "resnet", "efficientnet")
        if METHODS[name].refuses(family_named(kind.replace("gap", "vit"))) is None
    ],
)
def test_what_can_be_folded_becomes_a_plain_timm_network(name, kind):
    backbone = tiny_backbone(kind)
    images = torch.randn(2, 3, *backbone.card.image_size)
    method = find_method(name, **SMALL.get(name, {})).prepare(backbone, [(images, torch.tensor([0, 1]))], 3)
    model = sidetune.adapt(backbone, method, num_classes=3)
    disturb(model)
    network = model.merge(into=tiny_network(kind, seed=7))
    assert type(network) is type(tiny_network(kind))
    assert torch.allclose(network(images), model(images), atol=1e-5)


def test_merging_makes_the_network_by_its_architecture_and_size():
    network = timm.create_model("vit_tiny_patch16_224", num_classes=0)
    model = sidetune.adapt(network, LoRA(pool="mean"), num_classes=3, image_size=64)
    disturb(model)
    images = torch.randn(1, 3, 64, 64)
    assert torch.allclose(model.merge()(images), model(images), atol=1e-5)


@pytest.mark.parametrize("name", sorted(set(METHODS) - {"spt-lora", "dtlv2-ls"}))
def test_a_network_of_doubles_computes_in_doubles(vit, name):
    model = sidetune.adapt(vit, name, num_classes=3, **{"rank": 8} if name == "arc" else {})
    disturb(model)
    images = torch.randn(2, 3, 32, 32)
    narrow = model(images)
    wide = model.double()(images.double())
    assert wide.dtype == torch.float64
    assert torch.allclose(wide.float(), narrow, atol=1e-4) and not torch.equal(wide, wide.float().double())


@pytest.mark.parametrize("choices", [{"deep": True}, {"deep": False}])
def test_prompts_are_dropped_in_every_image_apart(vit, choices):
    model = sidetune.adapt(vit, VPT(dropout=0.5, **choices), num_classes=3).train()
    first, second = model(torch.randn(1, 3, 32, 32).repeat(2, 1, 1, 1))
    assert not torch.allclose(first, second)


def test_the_head_starts_as_asked(vit):
    def start(kind):
        return LinearHead(Pooled("mean", 1000), 50, kind).weight

    assert 0.018 < start("normal").std() < 0.022
    assert not start("zero").any()
    assert 0.19 < start("kaiming").std() < 0.21
    with pytest.raises(ValueError, match="unknown head start 'one'; known: normal, zero, kaiming"):
        start("one")
    assert not sidetune.adapt(vit, "linear", num_classes=3, head_start="zero").head.weight.any()


def test_choices_are_given_by_name_and_stay(vit):
    for method in METHODS.values():
        with pytest.raises(TypeError, match="positional"):
            type(method)(1)
        with pytest.raises(FrozenInstanceError, match="lr"):
            method.lr = 1.0


@pytest.mark.parametrize("name", ["dtl", "dtl+", "vpt-deep"])
def test_what_stands_beside_the_blocks_cannot_be_folded_and_says_so(vit, name):
    with pytest.raises(CannotMerge, match="no linear change of the backbone's weights"):
        sidetune.adapt(vit, name, num_classes=3).merge()


def test_unknown_names_and_choices_list_the_known_ones(vit):
    with pytest.raises(ValueError, match="unknown method 'lorra'; did you mean lora.* Known: linear, partial"):
        sidetune.adapt(vit, "lorra", num_classes=3)
    with pytest.raises(ValueError, match="unknown choice of LoRA 'rnk'; did you mean rank.* Known: lr, pool, head"):
        sidetune.adapt(vit, "lora", num_classes=3, rnk=4)
    with pytest.raises(ValueError, match="pool 'max' does not exist here; known: native, mean, token"):
        sidetune.adapt(vit, "lora", num_classes=3, pool="max")
    with pytest.raises(ValueError, match="rank 49 is above the width of attn.qkv in block 1, 48"):
        sidetune.adapt(vit, "lora", num_classes=3, rank=49)
    with pytest.raises(ValueError, match="num_blocks is 5, but the backbone has 4 blocks"):
        sidetune.adapt(vit, "partial", num_classes=3, num_blocks=5)


def test_the_table_names_every_preset_and_family_and_is_the_one_in_the_docs():
    assert SUMMARIES.keys() == METHODS.keys()
    assert {tiny_backbone(kind).family.name for kind in TINY} == set(family_names())
    assert matrix()["vpt-deep"]["resnet"]
    docs = Path(__file__).parents[2] / "docs/methods.md"
    assert markdown() in docs.read_text(), "run: python scripts/generate_docs.py"
