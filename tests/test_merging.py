"""Which plain network a method is folded into, and what is no such network."""

import pytest
import timm
import torch
from conftest import tiny_network
from torch import nn

import sidetune
from sidetune.contract import disturb
from sidetune.errors import CannotMerge
from sidetune.merging import check_same


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
