"""The frozen half by itself: what it refuses, what it holds, and in which type it adds taps up."""

import pytest
import torch
from conftest import CHANGING, taps, tiny_backbone, tiny_network

from sidetune.backbones import open_backbone
from sidetune.seam.prefix import Prefix, check_images
from sidetune.seam.taps import Need, block_output, sum_of_taps


@pytest.mark.parametrize("kind", ["resnet", "efficientnet"])
@pytest.mark.parametrize("asked", ["sum.2", "output.1 sum.0 pool.mean"])
def test_taps_of_blocks_that_change_shape_are_not_summed(kind, asked):
    blocks = ", ".join(map(str, CHANGING[kind]))
    with pytest.raises(ValueError, match=rf"taps cannot be summed: blocks \[{blocks}\] change the shape of what they"):
        Prefix(tiny_backbone(kind), taps(asked))
    assert set(Prefix(tiny_backbone(kind), taps("output.1 input.2")).blocks) == {"1", "2"}


@pytest.mark.parametrize(
    ("asked", "blocks", "transitions", "pools"),
    [
        ("output.0", "", "", []),
        ("input.2", "1 2", "2", []),
        ("output.4", "1 2 3 4", "2 3", []),
        ("sum.1", "1", "2 3 5", []),
        ("sum.0 output.2", "1 2", "2 3 5", []),
        ("output.1 pool.mean", "1 2 3 4 5", "2 3 5", ["mean"]),
    ],
)
def test_as_much_is_held_as_is_asked_for_and_for_sums_the_transitions_that_bring_them_to_the_last_stage(
    asked, blocks, transitions, pools
):
    prefix = Prefix(tiny_backbone("swin"), taps(asked))
    assert list(prefix.blocks) == blocks.split() and list(prefix.transitions) == transitions.split()
    assert list(prefix.pools) == pools


@pytest.mark.parametrize("shape", [(2, 3, 48, 64), (2, 3, 64, 48), (2, 1, 48, 80), (3, 48, 80), (1, 2, 3, 48, 80)])
def test_images_of_another_shape_are_refused_with_both(shape):
    said = rf"expected images of shape \(batch, 3, 48, 80\), got \({', '.join(map(str, shape))}\); resize them, or open"
    with pytest.raises(ValueError, match=said):
        check_images(torch.zeros(shape), (48, 80))
    check_images(torch.zeros(2, 3, 48, 80), (48, 80))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_taps_of_a_low_type_are_summed_in_full_precision_and_rounded_once(vit, dtype):
    need = Need([*map(block_output, range(5)), *map(sum_of_taps, range(5))])
    prefix = Prefix(vit, need)
    prefix.hold(torch.device("cpu"), dtype)
    features = prefix(torch.randn(2, 3, 32, 32), need)
    assert {t.dtype for t in features.tensors()} == {dtype}
    total = torch.zeros(())
    for k in range(5):
        total = total + features[block_output(k)].float()
        assert torch.equal(features[sum_of_taps(k)], total.to(dtype))


def test_a_low_type_is_computed_in_throughout_whatever_autocast_says(vit):
    need = taps("output.3")
    images = torch.randn(2, 3, 32, 32)
    low = Prefix(vit, need)
    low.hold(torch.device("cpu"), torch.bfloat16)
    plain = low(images, need)[block_output(3)]
    with torch.autocast("cpu", torch.float16):
        assert torch.equal(low(images, need)[block_output(3)], plain)
    exact = Prefix(vit, need)(images, need)[block_output(3)]
    assert plain.dtype == torch.bfloat16 and not torch.equal(plain.float(), exact)
    assert torch.allclose(plain.float(), exact, atol=0.1, rtol=0.1)


def test_images_of_doubles_stay_doubles(vit):
    need = taps("output.2 sum.2")
    features = Prefix(vit, need).double()(torch.randn(1, 3, 32, 32, dtype=torch.float64), need)
    assert {t.dtype for t in features.tensors()} == {torch.float64}


def test_taps_that_were_not_asked_for_are_not_given(vit):
    prefix = Prefix(vit, taps("input.2 output.3 sum.3 pool.mean pool.token"))
    assert list(prefix.pools) == ["mean", "token"]
    images = torch.randn(1, 3, 32, 32)
    for asked in ("input.2", "output.3", "sum.1", "output.2 pool.token"):
        assert prefix(images, taps(asked)).taps.keys() == taps(asked)


def test_a_prefix_never_trains_whatever_mode_the_network_was_in():
    network = tiny_network("vit").train()
    prefix = Prefix(open_backbone(network), taps("output.2"))
    assert not any(module.training for module in prefix.modules())
    assert not any(module.training for module in prefix.train().modules())
