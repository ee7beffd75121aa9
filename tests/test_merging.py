"""Which plain network a method is folded into, and what is no such network."""

from dataclasses import dataclass, replace

import pytest
import timm
import torch
from conftest import tiny_network
from timm.models.eva import Eva
from torch import nn

import sidetune
from sidetune.backbones import FAMILIES
from sidetune.backbones.eva import EVA
from sidetune.contract import disturb
from sidetune.errors import CannotMerge
from sidetune.heads.linear import LinearHead
from sidetune.merging import built_with, check_same
from sidetune.methods import find_method
from sidetune.seam.readout import Normed
from sidetune.tasks import Classification, Segmentation


@pytest.mark.parametrize(
    ("name", "size", "pool", "pooling"),
    [
        ("vit_tiny_patch16_224", None, "native", "token"),
        ("vit_tiny_patch16_224", None, "mean", "avg"),
        ("vit_tiny_patch16_224", 64, "native", "token"),
        ("swin_tiny_patch4_window7_224", None, "mean", None),
    ],
)
def test_the_network_is_made_by_its_name_its_pooling_and_its_size(name, size, pool, pooling):
    network = timm.create_model(name, num_classes=0)
    model = sidetune.adapt(sidetune.open_backbone(network, image_size=size), "lora", num_classes=3, pool=pool)
    disturb(model)
    images = torch.randn(1, 3, *model.card.image_size)
    plain = model.merge()
    torch.testing.assert_close(plain(images), model(images), rtol=1e-3, atol=1e-3)
    assert plain.num_classes == 3 and pooling in (None, plain.global_pool)


def test_a_network_of_another_depth_is_named_by_what_differs():
    model = sidetune.adapt(tiny_network("vit"), "lora", num_classes=3)
    deeper = timm.create_model("vit_tiny_patch16_224", depth=5, embed_dim=48, num_heads=3, img_size=32, patch_size=8)
    with pytest.raises(CannotMerge, match=r"differ in what they hold: blocks\.5\."):
        model.merge(deeper)


def test_a_network_that_computes_otherwise_is_refused_and_the_model_left_as_it_was():
    model = sidetune.adapt(tiny_network("vit"), "lora", num_classes=3).train()
    disturb(model)
    other = tiny_network("vit")
    for block in other.blocks:
        block.mlp.act = nn.Tanh()
    head = model.head
    with pytest.raises(CannotMerge, match="gives other logits"):
        model.merge(other)
    assert model.training and model.head is head


@pytest.mark.parametrize("method", ["dtl", "vpt-deep", "mist"])  # which reads and writes, and which only writes
def test_a_side_network_is_refused_by_name_before_anything_is_folded(method):
    model, into = sidetune.adapt(tiny_network("vit"), method, num_classes=3), tiny_network("vit")
    head = into.head
    with pytest.raises(CannotMerge, match="adds a side network that is no linear change .* export the whole model"):
        model.merge(into)
    assert into.head is head


def test_a_network_that_timm_has_no_name_for_has_to_be_given():
    network = timm.models.vision_transformer.VisionTransformer(
        img_size=32, patch_size=8, depth=2, embed_dim=48, num_heads=3, num_classes=0
    )
    with pytest.raises(ValueError, match="no timm architecture; pass a network of its shape as into="):
        sidetune.adapt(network, "lora", num_classes=3).merge()


@pytest.mark.parametrize(("off", "fits"), [(0.1, True), (0.9, False)])
def test_of_a_model_in_a_low_type_rounding_is_allowed_and_no_more(off, fits):
    model = sidetune.adapt(tiny_network("vit"), "lora", num_classes=3).hold(torch.bfloat16)
    disturb(model)
    images = torch.randn(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    into = tiny_network("vit")
    plain = model.merge(into)
    scaled = Scaled(plain, 1 - off)
    if fits:
        return check_same(model, scaled)
    with pytest.raises(CannotMerge, match="gives other logits"):
        check_same(model, scaled)
    assert scaled(images).shape == (1, 3)


class Scaled(nn.Module):
    """A network whose logits are off by a factor."""

    def __init__(self, network, factor):
        super().__init__()
        self.network, self.factor = network, factor

    def forward(self, images):
        return self.factor * self.network(images)


class Scores(LinearHead):
    """A linear head with thresholds of its own behind it."""

    def forward(self, given):
        return super().forward(given) - torch.arange(3.0)


class Two(nn.Module):
    """A head of two layers."""

    def __init__(self, readout, num_outputs):
        super().__init__()
        self.readout, self.layers = readout, nn.Sequential(nn.Linear(readout.width, 4), nn.Linear(4, num_outputs))

    def forward(self, given):
        return self.layers(self.readout(given[self.readout.tap]))


@dataclass(frozen=True, kw_only=True)
class WithHead(Classification):
    kind: type = Two

    def head(self, backbone, method):
        return self.kind(method.readout(backbone), len(self.classes))


@pytest.mark.parametrize(
    ("task", "told"),
    [
        (WithHead(classes=("a", "b", "c")), "the head of WithHead, a Two, is more than the linear layer"),
        (WithHead(classes=("a", "b", "c"), kind=Scores), "the head of WithHead, a Scores, is more than"),
        (
            Segmentation(classes=("a", "b"), decoder="segformer", width=8),
            "the head of Segmentation, a SegFormerHead, is more than",
        ),
        (Segmentation(classes=("a", "b"), decoder="linear"), "the head of Segmentation, a LinearMaps, is more than"),
    ],
    ids=["two layers", "a subclass", "segformer", "linear maps"],
)
def test_a_head_of_ones_own_is_named_before_anything_is_overwritten(task, told):
    model, into = sidetune.adapt(tiny_network("vit"), "lora", task=task), tiny_network("vit")
    before = {name: t.clone() for name, t in into.state_dict().items()}
    with pytest.raises(CannotMerge, match=f"{told} .* export the whole model instead .* final"):
        model.merge(into)
    assert all(torch.equal(t, before[name]) for name, t in into.state_dict().items())


def test_a_head_that_reads_something_else_than_the_backbones_pooling_is_named():
    @dataclass(frozen=True, kw_only=True)
    class Early(type(find_method("lora"))):
        def readout(self, backbone):
            return Normed(2, 48, backbone.layout, "mean")

    with pytest.raises(CannotMerge, match=r"reads output\.2 by Normed, and a plain network .* export the whole model"):
        sidetune.adapt(tiny_network("vit"), Early(), num_classes=3).merge(tiny_network("vit"))


def test_a_linear_head_is_told_by_its_outputs_and_not_by_the_classes():
    @dataclass(frozen=True, kw_only=True)
    class Fewer(Classification):
        def head(self, backbone, method):
            return LinearHead(method.readout(backbone), len(self.classes) - 1)

    model = sidetune.adapt(tiny_network("vit"), "lora", task=Fewer(classes=("a", "b", "c")))
    plain = model.merge(tiny_network("vit"))
    assert plain.num_classes == 2
    assert built_with(model, plain) == {"num_classes": 2, "img_size": (32, 32)}


def test_a_swin_is_told_with_the_windows_that_it_keeps():
    backbone = sidetune.open_backbone(tiny_network("swin"), image_size=128)
    model = sidetune.adapt(backbone, "lora", num_classes=3)
    plain = model.merge(tiny_network("swin", seed=1))
    assert built_with(model, plain) == {"num_classes": 3, "img_size": (128, 128), "window_size": (2, 2)}


@pytest.mark.parametrize(
    ("into", "error", "told"),
    [
        (lambda: nn.Linear(2, 2), ValueError, "must be of the backbone's own class, a VisionTransformer, got a Linear"),
        (lambda: tiny_network("swin"), ValueError, "a VisionTransformer, got a SwinTransformer"),
        (lambda: timm.create_model("vit_tiny_patch16_224", depth=4, img_size=32, patch_size=8), CannotMerge,
         r"of another shape .* \(1, 1, 192\), not \(1, 1, 48\)"),
    ],
)  # fmt: skip
def test_what_is_no_network_of_the_backbones_shape_is_named(into, error, told):
    with pytest.raises(error, match=told):
        sidetune.adapt(tiny_network("vit"), "lora", num_classes=3).merge(into())


def test_what_a_family_opens_into_tensors_of_their_own_is_not_left_out(monkeypatch):
    monkeypatch.setitem(FAMILIES, Eva, replace(EVA, unfold=None))
    name, sizes = "eva02_tiny_patch14_224", {"depth": 1, "embed_dim": 48, "num_heads": 3, "img_size": 28}
    model = sidetune.adapt(timm.create_model(name, **sizes), "lora", num_classes=3)
    with pytest.raises(CannotMerge, match=r"a Eva holds blocks\.1\.attn\.qkv\.bias in tensors .* eva has to say how"):
        model.merge(timm.create_model(name, **sizes))
