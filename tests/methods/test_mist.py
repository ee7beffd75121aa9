"""MIST: what is gathered, and the edge network on it."""

import math

import pytest
import torch
from conftest import tiny_backbone
from torch.nn import functional as F

import sidetune
from sidetune.contract import check_method, disturb
from sidetune.methods.mist import MIST
from sidetune.seam.taps import sum_of_taps


def test_a_layer_is_the_papers_equation(vit):
    model = sidetune.adapt(vit, "mist", num_classes=3, rank=8, layers=1)
    disturb(model)
    layer = model.suffix.side.layers[0]
    x = torch.randn(2, 17, 48)
    normed = F.layer_norm(x, (48,), layer.norm.weight, layer.norm.bias)
    w_q, w_k, w_v = layer.qkv.weight.view(3, 8, 48)
    q, k, v = normed @ w_q.T, normed @ w_k.T, normed @ w_v.T
    expected = x + torch.softmax(q @ k.transpose(1, 2) / math.sqrt(8), dim=-1) @ v @ layer.out.weight.T
    assert torch.allclose(layer(x), expected, atol=1e-5)


def test_it_starts_as_a_linear_probe_on_what_is_gathered(vit):
    images = torch.randn(2, 3, 32, 32)
    whole = sidetune.adapt(vit, "mist", num_classes=3)
    probe = sidetune.adapt(vit, "mist", num_classes=3, layers=0)
    probe.head.load_state_dict(whole.head.state_dict())
    assert torch.allclose(whole(images), probe(images), atol=1e-5)


def test_with_k_below_n_the_rest_of_the_backbone_is_not_even_held(vit):
    model = sidetune.adapt(vit, "mist", num_classes=3, k=2)
    assert model.need == {sum_of_taps(2)}
    assert set(model.prefix.blocks) == {"1", "2"}


def test_one_tensor_an_image_crosses_the_seam(vit):
    features = sidetune.adapt(vit, "mist", num_classes=3).features(torch.randn(2, 3, 32, 32))
    assert [name for name, _ in features.named()] == ["sum.4"]
    assert features[sum_of_taps(4)].shape == (2, 17, 48)


@pytest.mark.parametrize(
    "choices",
    [{"block": "mlp"}, {"block": "dwconv"}, {"gather": False}, {"layers": 0}, {"pool": "token"}, {"k": 0}],
)
def test_every_switch_of_the_paper_keeps_the_contract(vit, choices):
    check_method(MIST(rank=8, **choices), vit)


@pytest.mark.parametrize(
    ("choices", "message"),
    [
        ({"k": 5}, r"k must be in 0\.\.4, got 5"),
        ({"rank": 49}, "rank 49 is above the width of the backbone, 48"),
        ({"block": "gru"}, "block must be lae, mlp, dwconv, got 'gru'"),
        ({"layers": -1}, "layers must be at least 0"),
        ({"gather": False, "k": 2}, "gather=False sums none"),
        ({"pool": "max"}, "pool must be mean or token"),
    ],
)
def test_choices_that_make_no_sense_are_refused(vit, choices, message):
    with pytest.raises(ValueError, match=message):
        sidetune.adapt(vit, "mist", num_classes=3, **choices)


def test_a_network_without_class_token_cannot_pool_it():
    with pytest.raises(ValueError, match="pool"):
        sidetune.adapt(tiny_backbone("swin"), "mist", num_classes=3, pool="token")
