"""A tap at or before the frozen depth is the prefix's own, a later one the suffix's, after what is written there."""

import pytest
import torch
from conftest import taps, tiny_backbone

import sidetune
from sidetune.backbones.prefix import Prefix
from sidetune.methods import adaptation, find_method
from sidetune.seam.features import Features
from sidetune.seam.suffix import Suffix
from sidetune.seam.taps import Need, block_input, block_output, pooled


def both(backbone, method, wanted, disturb=True):
    """What the suffix gives of these taps, what the plain backbone has, and the suffix."""
    torch.manual_seed(0)
    suffix = Suffix(backbone, adaptation(find_method(method), backbone), wanted)
    if disturb:
        for p in suffix.parameters():
            if p.requires_grad:
                p.data.add_(torch.randn_like(p), alpha=0.1)
    images = torch.randn(2, 3, *backbone.card.image_size)
    plain = Prefix(backbone, wanted)(images, wanted)
    given = images if suffix.seam < 0 else Prefix(backbone, suffix.need)(images, suffix.need)
    with torch.no_grad():
        return suffix(given), plain, suffix


def all_taps(backbone):
    numbers = range(1, backbone.num_blocks + 1)
    return Need([*map(block_input, numbers), *map(block_output, (0, *numbers)), pooled(backbone.native_pool)])


@pytest.mark.parametrize("method", ["linear", "dtl+", "lora", "bitfit", "full", "partial", "dtl+*"])
@pytest.mark.parametrize("kind", ["vit", "swin", "convnext"])
def test_taps_up_to_the_frozen_depth_are_the_backbones_and_later_ones_are_not(kind, method):
    backbone = tiny_backbone(kind)
    found, plain, suffix = both(backbone, method, all_taps(backbone))
    assert found.taps.keys() == plain.taps.keys()
    same = {tap for tap in found.taps if torch.equal(found[tap], plain[tap])}
    exact = found.taps.keys() - suffix.own
    assert exact <= same and same - exact <= {block_input(max(suffix.seam, 0) + 1)}
    written = suffix.seam in suffix.side.writes
    assert sorted(tap.at for tap in exact if tap.kind == "output") == list(range(suffix.seam + 1 - written))


@pytest.mark.parametrize("kind", ["vit", "swin"])
def test_before_training_all_taps_are_the_backbones(kind):
    backbone = tiny_backbone(kind)
    found, plain, _ = both(backbone, "dtl+", all_taps(backbone), disturb=False)
    assert all(torch.equal(found[tap], plain[tap]) for tap in found.taps)


def test_what_is_wanted_is_what_the_whole_chain_gives(vit):
    """Levels, as dense tasks read them, are the same whichever of them are asked for together."""
    everything, _, _ = both(vit, "dtl+", all_taps(vit))
    for wanted in ("output.4", "output.1 output.3", "input.4 pool.mean", "output.2 output.4 pool.token"):
        found, _, suffix = both(vit, "dtl+", taps(wanted))
        assert all(torch.equal(found[tap], everything[tap]) for tap in taps(wanted) if tap in everything)
        assert suffix.last == max([tap.at if tap.kind != "pool" else 4 for tap in suffix.own])
        assert [int(i) for i in suffix.blocks] == list(range(suffix.seam + 1, suffix.last + 1)), "no block in vain"


def test_the_prefix_gives_what_is_read_and_no_more(vit):
    assert Suffix(vit, adaptation(find_method("linear"), vit), taps("pool.mean")).need == taps("pool.mean")
    assert Suffix(vit, adaptation(find_method("linear"), vit), taps("output.1 output.4")).need == taps(
        "output.1 output.4"
    )
    dtl = adaptation(find_method("dtl+"), vit)  # first writes after block 3
    assert Suffix(vit, dtl, taps("output.1 output.4")).need == taps("output.1 output.3 input.1 input.2 input.3")
    assert Suffix(vit, dtl, taps("output.2")).need == taps("output.2"), "nothing adapted is wanted"
    mist = adaptation(find_method("mist", k=2), vit)
    assert Suffix(vit, mist, taps("output.4")).need == taps("sum.2"), "a sum stands for the last block's output"


def test_sizes_of_padded_images_pass_through(vit):
    suffix = Suffix(vit, adaptation(find_method("dtl+"), vit), taps("output.1 output.4"))
    sizes = torch.tensor([[32, 24], [16, 32]])
    features = Prefix(vit, suffix.need)(torch.randn(2, 3, 32, 32), suffix.need)
    assert torch.equal(suffix(Features(features.taps, sizes)).sizes, sizes)
    assert torch.equal(Features(features.taps, sizes).map(lambda t: t[:1]).sizes, sizes[:1])


def test_what_cannot_be_given_is_refused(vit):
    lora = adaptation(find_method("lora"), vit)
    with pytest.raises(ValueError, match="one pooling can be read at a time, not mean and token"):
        Suffix(vit, lora, taps("pool.mean pool.token"))
    with pytest.raises(ValueError, match=r"taps up to \[2\] are changed by the method, and sums are of frozen ones"):
        Suffix(vit, lora, taps("sum.0 sum.2"))


def test_a_source_without_a_write_is_refused(vit):
    class Lost(sidetune.SideNetwork):
        source = block_output(2)

    class Slip(type(find_method("linear"))):
        def adapt(self, backbone):
            return sidetune.Adaptation(side=Lost())

    with pytest.raises(ValueError, match="the side network of Slip has a source, but writes nothing"):
        adaptation(Slip(), vit)
