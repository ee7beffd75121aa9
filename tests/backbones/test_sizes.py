"""One opened network on images of several sizes is the network opened for each of them, bit for bit."""

import pytest
import torch
from conftest import tiny_backbone, tiny_network

import sidetune
from sidetune.backbones import open_backbone
from sidetune.contract import disturb
from sidetune.methods import DTL, MIST, DTLv2, LoRA, find_method
from sidetune.seam.prefix import Prefix
from sidetune.seam.taps import Need, block_input, block_output, pooled, sum_of_taps

SIZES = {
    "swin": (64, (96, 64), (72, 108), 36, (16, 200)),
    "convnext": (64, (96, 64), (72, 109), 39, (32, 200)),
    "resnet": (64, (96, 64), (71, 109), 33, (32, 200)),
    "efficientnet": (64, (96, 64), (71, 109), 33),
}
"""The first is the one that the network is opened for, to be given images of the others."""
METHODS = {
    "linear": find_method("linear"),
    "full": find_method("full"),
    "lora": LoRA(),
    "adaptformer": find_method("adaptformer", dropout=0.0),
    "dtl+": DTL(fusion="depthwise"),
    "dtl+, kernel 4": DTL(fusion="depthwise", kernel=4),
    "dtlv2": DTLv2(),
    "dtlv2-ls": DTLv2(share="linear", n=1),
    "dtlv2 over stages between": DTLv2(),
    "mist": MIST(),
    "mist, dwconv": MIST(block="dwconv"),
}


BETWEEN = {"swin": (1, 5), "convnext": (1, 5), "resnet": (2, 8), "efficientnet": (3, 15)}
"""A block that is read and one that is written, whole stages before and after each other."""


def opened(kind, size):
    return open_backbone(tiny_network(kind), image_size=size)


@pytest.mark.parametrize("kind", SIZES)
def test_every_tap_of_the_prefix_is_that_of_a_network_opened_for_the_size(kind):
    first, *others = SIZES[kind]
    backbone = opened(kind, first)
    sums = [sum_of_taps(k) for k in (0, 2, backbone.num_blocks)] if backbone.family.keeps_shape else []
    inputs, outputs = map(block_input, backbone.blocks), map(block_output, backbone.output_shapes)
    need = Need([*inputs, *outputs, *sums, pooled("mean")])
    prefix = Prefix(backbone, need)
    for size in (*others, first):
        alone = opened(kind, size)
        images = torch.randn(2, 3, *alone.card.image_size)
        ours, theirs = prefix(images, need), Prefix(alone, need)(images, need)
        assert all(torch.equal(ours[tap], theirs[tap]) for tap in need)
        assert tuple(ours[block_output(1)].shape[1:]) == alone.output_shapes[1]


@pytest.mark.filterwarnings("ignore:L-Share has nothing to scale")
@pytest.mark.parametrize("kind", SIZES)
@pytest.mark.parametrize("name", METHODS)
def test_outputs_and_gradients_are_those_of_a_model_made_for_the_size(name, kind):
    first, *others = SIZES[kind]
    backbone, method = opened(kind, first), METHODS[name]
    if method.refuses(backbone.family):
        pytest.skip("refused there")
    if name == "dtlv2 over stages between":
        read, written = BETWEEN[kind]
        method = DTLv2(reads=(read,), writes=(written,))
    model = sidetune.adapt(backbone, method, num_classes=3)
    disturb(model)
    for size in others:
        alone = sidetune.adapt(opened(kind, size), method, num_classes=3)
        alone.load_trained({n: t.clone() for n, t in model.trained().items()})
        images, labels = torch.randn(2, 3, *alone.card.image_size), torch.tensor([0, 2])
        found = []
        for one in (model, alone):
            one.zero_grad()
            outputs = one.eval()(images)
            one.loss(outputs, labels).backward()
            found.append([outputs, *(p.grad for p in one.parameters() if p.requires_grad)])
        assert all(map(torch.equal, *found))


@pytest.mark.parametrize(
    ("kind", "size", "message"),
    [
        ("swin", (64, 66), r"height and width multiples of 4 x 4 pixels, from 4 x 4 on; got \(1, 3, 64, 66\)"),
        ("convnext", (64, 31), r"height and width from 32 x 32 on; got \(1, 3, 64, 31\)"),
        ("vit", (48, 48), r"\(batch, 3, 32, 32\), got \(1, 3, 48, 48\)"),
        ("eva", (48, 48), r"\(batch, 3, 32, 32\), got"),
    ],
)
@pytest.mark.parametrize("method", ["linear", "full"])
def test_sizes_that_do_not_fit_are_refused_with_those_that_do(kind, size, message, method):
    model = sidetune.adapt(tiny_backbone(kind), method, num_classes=3)
    with pytest.raises(ValueError, match=message):
        model(torch.randn(1, 3, *size))


@pytest.mark.parametrize("kind", ["swin", "convnext", "resnet", "efficientnet"])
def test_every_size_that_is_said_to_fit_runs(kind):
    backbone = tiny_backbone(kind)
    assert backbone.steps is not None
    need = Need([pooled("mean")])
    prefix = Prefix(backbone, need)
    (rows, columns), (step, _) = backbone.steps.least, backbone.steps.of
    for size in ((rows, columns), (rows + step, columns + 3 * step), (rows + 7 * step, columns)):
        assert prefix(torch.randn(1, 3, *size), need)[pooled("mean")].isfinite().all()


@pytest.mark.filterwarnings("ignore:Using a non-tuple sequence")  # of timm, for tables of other windows
def test_a_swin_as_version_0_1_had_it_has_one_size():
    backbone = open_backbone(tiny_network("swin"), image_size=64, as_0_1=True)
    assert backbone.steps is None
    with pytest.raises(ValueError, match=r"expected images of shape \(batch, 3, 64, 64\)"):
        sidetune.adapt(backbone, "linear", num_classes=3)(torch.randn(1, 3, 96, 96))


def test_h_that_was_joined_for_maps_of_one_place_takes_no_others():
    backbone = opened("resnet", 16)  # its last two stages have one place each, which no stride tells apart
    model = sidetune.adapt(backbone, DTLv2(), num_classes=3)
    assert model(torch.randn(1, 3, 16, 16)).isfinite().all()
    with pytest.raises(ValueError, match="from maps of 1 x 1 places, got 4 x 4; give images of the size"):
        model(torch.randn(1, 3, 64, 64))


def test_a_network_that_is_opened_too_small_says_what_it_takes():
    with pytest.raises(ValueError, match=r"images of 16 x 16 pixels \(it takes heights and widths from 32 x 32 on\): "):
        opened("convnext", 16)


def test_opening_a_vit_again_for_another_size_shares_its_weights():
    network = tiny_network("vit")
    one, other = open_backbone(network), open_backbone(network, image_size=48)
    assert one.blocks[1].attn.qkv.weight.data_ptr() == other.blocks[1].attn.qkv.weight.data_ptr()


def test_opening_a_network_leaves_the_callers_own_to_its_size():
    network = tiny_network("swin")
    open_backbone(network)
    merged = sidetune.adapt(network, "lora", num_classes=3).merge(into=tiny_network("swin", seed=3))
    for theirs in (network, merged):
        with pytest.raises(AssertionError, match="doesn't match model"):
            theirs(torch.randn(1, 3, 96, 96))
