"""MIST: what is gathered, and the edge network on it."""

import math

import pytest
import timm
import torch
from conftest import CHANNELS_FIRST, PREFIX_TOKENS, taps, tiny_backbone
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional as F

import sidetune
from sidetune.backbones.layout import Layout
from sidetune.contract import check_method, disturb, vector
from sidetune.errors import MethodRefused
from sidetune.methods.mist import BLOCKS, MIST
from sidetune.seam.prefix import Prefix
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


def moved(kind, width, rank, layout):
    """A layer of a kind whose weights are away from their starts."""
    layer = BLOCKS[kind](width, rank, layout).double()
    with torch.no_grad():
        for p in layer.parameters():
            p.add_(torch.randn_like(p), alpha=0.3)
    return layer


def normed(layer, x):
    centred = x - x.mean(-1, keepdim=True)
    scaled = centred / (centred.square().mean(-1, keepdim=True) + 1e-5).sqrt()
    return scaled * layer.norm.weight + layer.norm.bias


def test_the_mlp_in_its_place_is_two_maps_with_a_gelu_between():
    torch.manual_seed(0)
    layer, x = moved("mlp", 6, 2, Layout(grid=(2, 3))), torch.randn(2, 6, 6, dtype=torch.float64)
    assert layer.fc.weight.shape == (4, 6) and layer.out.weight.shape == (6, 4)
    inside = normed(layer, x) @ layer.fc.weight.T
    gelu = inside * (1 + torch.erf(inside / math.sqrt(2))) / 2
    assert torch.allclose(layer(x), x + gelu @ layer.out.weight.T, atol=1e-12)
    assert len(list(layer.parameters())) == 4, "no biases but the norm's"


@given(prefix=st.integers(0, 2), rows=st.integers(1, 4), columns=st.integers(1, 4), width=st.integers(1, 3))
def test_the_convolution_in_its_place_is_nine_shifts_of_each_channel(prefix, rows, columns, width):
    torch.manual_seed(0)
    layer = moved("dwconv", width, 1, Layout(num_prefix_tokens=prefix, grid=(rows, columns)))
    x = torch.randn(2, prefix + rows * columns, width, dtype=torch.float64)
    padded = torch.zeros(2, rows + 2, columns + 2, width, dtype=torch.float64)
    padded[:, 1:-1, 1:-1] = normed(layer, x)[:, prefix:].reshape(2, rows, columns, width)
    expected = x.clone()
    for i in range(3):
        for j in range(3):
            shifted = padded[:, i : i + rows, j : j + columns].reshape(2, rows * columns, width)
            expected[:, prefix:] += shifted * layer.kernel[:, 0, i, j]
    assert torch.allclose(layer(x), expected, atol=1e-12)


def test_layers_start_as_nothing_and_queries_keys_and_values_as_in_vits():
    torch.manual_seed(0)
    layout = Layout(num_prefix_tokens=1, grid=(2, 2))
    attention, mlp, convolution = (BLOCKS[kind](768, 32, layout) for kind in ("lae", "mlp", "dwconv"))
    assert attention.qkv.weight.shape == (96, 768)
    assert 0.0195 < attention.qkv.weight.std().item() < 0.0205, "normal of 0.02"
    assert attention.qkv.weight.abs().max() > 0.06 and abs(attention.qkv.weight.mean().item()) < 0.0005
    assert not attention.out.weight.any() and not mlp.out.weight.any() and not convolution.kernel.any()
    assert 0.9 / math.sqrt(768) < mlp.fc.weight.abs().max().item() <= 1 / math.sqrt(768), "PyTorch's own"
    x = torch.randn(1, 5, 768)
    assert all(torch.equal(layer(x), x) for layer in (attention, mlp, convolution))


@pytest.mark.parametrize("block", ["lae", "mlp", "dwconv"])
@pytest.mark.parametrize("k", [None, 0, 2])
@pytest.mark.parametrize("kind", ["vit", "dinov2", "swin", "convnext"])
def test_what_the_head_is_given_is_the_mean_of_taps_through_the_layers(kind, k, block):
    """Taps of earlier stages come to the last by the backbone's own transitions."""
    backbone = tiny_backbone(kind)
    model = sidetune.adapt(backbone, MIST(rank=4, layers=2, block=block, k=k), num_classes=3)
    disturb(model)
    images = torch.randn(2, 3, *backbone.card.image_size)
    with torch.no_grad():
        z = backbone.stem(images)
        last, total = len(backbone.blocks) if k is None else k, z
        for i in backbone.blocks:
            if i in backbone.transitions:
                z, total = (backbone.transitions[i](t) for t in (z, total))
            z = backbone.blocks[i](z)
            total = total + z if i <= last else total
        x = (total.movedim(1, -1) if kind in CHANNELS_FIRST else total) / (last + 1)
        shape = x.shape
        for layer in model.suffix.side.layers:
            x = layer(x.reshape(2, -1, shape[-1]) if block == "lae" else x).view(shape)
        patches = x.reshape(2, -1, shape[-1])
        centred = patches - patches.mean(-1, keepdim=True)
        scaled = centred / (centred.square().mean(-1, keepdim=True) + 1e-6).sqrt()
        expected = scaled[:, PREFIX_TOKENS.get(kind, 0) :].mean(dim=1)
        found = vector(model, images)
    assert len(model.suffix.side.layers) == 2
    assert torch.allclose(found, expected, rtol=1e-4, atol=1e-4)


def test_the_class_token_can_be_read_and_the_last_output_be_taken_alone(vit):
    images = torch.randn(2, 3, 32, 32)
    output = Prefix(vit, taps("output.4"))(images, taps("output.4")).tensors()[0]
    expected = F.layer_norm(output, (48,), eps=1e-6)
    for choices, wanted in (({"pool": "token"}, expected[:, 0]), ({}, expected[:, 1:].mean(dim=1))):
        model = sidetune.adapt(vit, MIST(rank=4, gather=False, **choices), num_classes=3)
        assert torch.allclose(vector(model, images), wanted, atol=1e-5), "before training"
        model = sidetune.adapt(vit, MIST(layers=0, gather=False, **choices), num_classes=3)
        assert model.suffix.side.writes == () and torch.allclose(vector(model, images), wanted, atol=1e-5)


def test_without_layers_the_sum_is_taken_as_it_is_for_the_norm_does_not_see_how_large(vit):
    model = sidetune.adapt(vit, MIST(layers=0, k=1), num_classes=3)
    assert model.suffix.side.writes == (4,) and model.need == {sum_of_taps(1)}
    z = torch.randn(2, 17, 48)
    assert torch.equal(model.suffix.side.write(4, z, None), z)


def test_sums_worth_trying_run_over_all_blocks_and_parts_down_to_a_quarter(vit):
    assert MIST().worth_trying(vit) == {"k": [1, 2, 3, 4]}
    assert MIST().worth_trying(tiny_backbone("dinov2")) == {"k": [0, 1, 2, 3]}
    with torch.device("meta"):
        backbone = sidetune.open_backbone(timm.create_model("vit_base_patch16_224", num_classes=0))
    assert MIST().worth_trying(backbone) == {"k": [3, 6, 8, 10, 12]}


def test_the_named_choices_are_those_that_fit_the_papers_table():
    """0.38 Mi parameters in 4 layers on ViT-B are r = 32; see also the counts in test_methods."""
    method = MIST()
    assert (method.rank, method.layers, method.block, method.gather, method.k) == (32, 4, "lae", True, None)
    assert (method.lr, method.pool, method.starts_as_identity) == (1e-3, "mean", False)
    assert round(4 * (4 * 768 * method.rank + 2 * 768) / 2**20, 2) == 0.38


def test_ranks_reach_to_the_width(vit):
    assert sidetune.adapt(vit, MIST(rank=48), num_classes=3).suffix.side.layers[0].out.weight.shape == (48, 48)


@pytest.mark.parametrize("family", ["resnet", "efficientnet"])
def test_networks_whose_outputs_cannot_be_summed_are_refused(family):
    with pytest.raises(MethodRefused, match="its blocks change shape, so that their outputs cannot be summed"):
        sidetune.adapt(tiny_backbone(family), "mist", num_classes=3)


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
        ({"k": -1}, r"k must be in 0\.\.4, got -1"),
        ({"rank": 0}, "rank must be at least 1, got 0"),
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
    with pytest.raises(ValueError, match="this backbone has no class token; use pool=mean"):
        sidetune.adapt(tiny_backbone("swin"), "mist", num_classes=3, pool="token")
