"""DTL's switches against a plain reading of the paper's equations."""

import pytest
import timm
import torch
from conftest import CHANGING, CHANNELS_FIRST, GRIDS, PREFIX_TOKENS, stage_of, taps, tiny_backbone
from torch.nn import functional as F

import sidetune
from sidetune.backbones.layout import Layout
from sidetune.contract import check_method, disturb, vector
from sidetune.methods import DTL
from sidetune.methods.csn import Written, written
from sidetune.seam.prefix import Prefix
from sidetune.seam.taps import pooled

READS = {
    "vit": (1, 2, 3, 4), "dinov2": (1, 2, 3), "gap": (1, 2, 3), "swin": (3, 4, 5), "convnext": (3, 4, 5),
    "resnet": (6, 8), "efficientnet": (10, 11, 13, 14, 15),
}  # fmt: skip
"""All blocks of a stage in which h is written, but for those that change shape themselves."""


def by_the_paper(
    kind, backbone, model, images, *, beta=100.0, theta=True, fusion="none", kernel=3, reset=True, first_write=None,
    share_fusion=True, maps="low-rank", rank=None,
):  # fmt: skip
    """The last block's output by equations 5 and 9, block by block; of the model, only the weights are taken."""
    side = model.suffix.side
    channels_first, prefix, stages = kind in CHANNELS_FIRST, PREFIX_TOKENS.get(kind, 0), stage_of(kind)
    reads = [i for i in stages if i not in CHANGING.get(kind, ())] if first_write == 1 else READS[kind]
    z, h, stage = backbone.stem(images), None, 0
    for i, block in backbone.blocks.items():
        z = backbone.transitions[i](z) if i in backbone.transitions else z
        if reset and stages[i] != stage:
            h, stage = None, stages[i]
        if i in reads:
            x = z.permute(0, 2, 3, 1) if channels_first else z
            w = None if maps == "skip" else side.w[str(i)]
            assert w is None or w.a.shape == (rank or (2 if kind in GRIDS else 4), x.shape[-1])
            h = (x if w is None else x @ w.a.T @ w.c.T) + (0 if h is None else h)
        z = block(z)
        if h is None or i < (first_write or len(stages) // 2 + 1) or i in CHANGING.get(kind, ()):
            continue
        t = h * torch.sigmoid(beta * h) if theta else h
        if fusion != "none":
            on_grid = t[:, prefix:].transpose(1, 2).unflatten(2, GRIDS[kind]) if t.ndim == 3 else t.movedim(-1, 1)
            low, high = (kernel - 1) // 2, kernel // 2
            padded = F.pad(on_grid, (low, high, low, high))
            if fusion == "average":
                weight = torch.full((on_grid.shape[1], 1, kernel, kernel), 1 / kernel**2)
            else:
                weight = side.g[f"stage{stages[i]}" if share_fusion else f"block{i}"]
            on_grid = F.conv2d(padded, weight, groups=1 if fusion == "full" else on_grid.shape[1])
            if t.ndim == 3:
                t = torch.cat([t[:, :prefix], on_grid.flatten(2).transpose(1, 2)], dim=1)
            else:
                t = on_grid.movedim(1, -1)
        z = z + (t.permute(0, 3, 1, 2) if channels_first else t)
    return z


@pytest.mark.parametrize("kind", ["vit", "dinov2", "gap", "swin", "convnext", "resnet", "efficientnet"])
@pytest.mark.parametrize(
    "choices",
    [
        {},
        {"theta": False},
        {"beta": 1.0, "rank": 3},
        {"fusion": "depthwise"},
        {"fusion": "depthwise", "kernel": 4},
        {"fusion": "average", "kernel": 2},
        {"fusion": "full", "kernel": 3},
        {"fusion": "depthwise", "share_fusion": False, "first_write": 1},
        {"maps": "skip", "theta": False},
        {"maps": "skip", "fusion": "depthwise"},
    ],
    ids=lambda c: "-".join(map(str, c.values())) or "default",
)
def test_every_switch_is_the_papers_equation(kind, choices):
    backbone = tiny_backbone(kind)
    model = sidetune.adapt(backbone, DTL(**choices), num_classes=3)
    with torch.no_grad():
        for name, p in model.named_parameters():
            if p.requires_grad and ".c" in name:
                p.normal_(std=0.1)
        images = torch.randn(2, 3, *backbone.card.image_size)
        expected = backbone.pools["mean"](by_the_paper(kind, backbone, model, images, **choices))
        found = vector(model, images)
        plain = Prefix(backbone, taps("pool.mean"))(images, taps("pool.mean"))[pooled("mean")]
    assert torch.allclose(found, expected, atol=1e-5, rtol=1e-4)
    assert not torch.allclose(found, plain, atol=1e-3), "the side network makes a difference"


@pytest.mark.parametrize(
    ("network", "choices", "reads", "writes", "rank"),
    [
        ("vit_base_patch16_224", {}, range(1, 13), range(7, 13), 2),
        (
            "swin_base_patch4_window7_224",
            {"reads": (*range(5, 25),), "first_write": 15},
            range(5, 25),
            range(15, 25),
            4,
        ),
    ],
)
def test_blocks_and_ranks_are_those_of_the_authors_code(network, choices, reads, writes, rank):
    """On Swin-B the authors read from the third stage on and write from block 15, both counted from 1."""
    with torch.device("meta"):
        backbone = sidetune.open_backbone(timm.create_model(network, num_classes=0))
        model = sidetune.adapt(backbone, "dtl+", num_classes=10, **choices)
    side = model.suffix.side
    assert (side.reads, side.writes) == (tuple(reads), tuple(writes)) and model.frozen_depth == writes[0]
    assert {len(w.a) for w in side.w.values()} == {rank} and side.beta == 100
    assert {g.shape[1:] for g in side.g.values()} == {(1, 3, 3)}
    assert len(side.g) == (1 if network.startswith("vit") else 2), "one for all blocks of a stage"


def test_skips_in_place_of_maps_keep_the_contract(backbone):
    method = DTL(maps="skip", fusion="depthwise")
    assert method.starts_as_identity is False and DTL(fusion="depthwise").starts_as_identity is True
    check_method(method, backbone)


def test_h_runs_on_over_stages_of_one_shape_without_reset(vit):
    model = sidetune.adapt(vit, DTL(reset=False), num_classes=3)
    disturb(model)
    images = torch.randn(1, 3, 32, 32)
    expected = vit.pools["mean"](by_the_paper("vit", vit, model, images, reset=False))
    assert torch.allclose(vector(model, images), expected, atol=1e-5)
    with pytest.raises(ValueError, match="stages of this backbone differ"):
        sidetune.adapt(tiny_backbone("swin"), DTL(reset=False, first_write=1), num_classes=3)


@pytest.mark.parametrize(("first_write", "frozen"), [(None, 3), (1, 1), (4, 4)])
def test_the_frozen_depth_is_the_first_block_written(vit, first_write, frozen):
    assert sidetune.adapt(vit, DTL(first_write=first_write), num_classes=3).frozen_depth == frozen


def test_class_and_register_tokens_skip_the_convolution():
    backbone = tiny_backbone("dinov2")
    s, c = torch.randn(2, backbone.output_shapes[0][0], 2), torch.randn(24, 2)
    plain, mixed = (
        written(torch.zeros(2, len(s[0]), 24), s, c, kernel, None, backbone.layout)
        for kernel in (None, torch.randn(24, 1, 3, 3))
    )
    assert torch.allclose(mixed[:, :5], plain[:, :5], atol=1e-6)
    assert not torch.allclose(mixed[:, 5:], plain[:, 5:], atol=0.1)


LAYOUTS = {
    "tokens": (Layout(num_prefix_tokens=2, grid=(3, 4)), (2, 14, 6)),
    "tokens without class token": (Layout(grid=(3, 4)), (2, 12, 6)),
    "channels last": (Layout(), (2, 3, 4, 6)),
    "channels first": (Layout(channels_first=True), (2, 6, 3, 4)),
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("kernel", [None, (6, 1, 3, 3), (6, 1, 4, 4), (6, 6, 2, 2)], ids=str)
@pytest.mark.parametrize("beta", [None, 3.0])
def test_the_gradients_of_what_is_written_are_exact(layout, kernel, beta):
    layout, shape = LAYOUTS[layout]
    generator = torch.Generator().manual_seed(0)

    def make(*size):
        return torch.randn(*size, dtype=torch.float64, generator=generator, requires_grad=True)

    z, c = make(*shape), make(6, 4)
    s = make(*layout.to_side(z).shape[:-1], 4)
    weight = None if kernel is None else make(*kernel)
    assert torch.autograd.gradcheck(lambda *args: Written.apply(*args, beta, layout), (z, s, c, weight))


@pytest.mark.parametrize("kernel", [None, (24, 1, 3, 3), (24, 1, 4, 4)], ids=str)
def test_the_gradients_are_those_of_plain_pytorch(vit, kernel):
    def gradients(write):
        generator = torch.Generator().manual_seed(0)
        shapes = [(2, 17, 24), (2, 17, 8), (24, 8), *([kernel] if kernel else [])]
        tensors = [torch.randn(shape, generator=generator).requires_grad_() for shape in shapes]
        out = write(*tensors, *([] if kernel else [None]), 100.0, vit.layout)
        (out * torch.randn(out.shape, generator=generator)).sum().backward()
        return [t.grad for t in tensors]

    for own, plain in zip(gradients(Written.apply), gradients(written), strict=True):
        assert (own - plain).abs().max() <= 1e-6 * plain.abs().max()


def test_writing_keeps_nothing_as_wide_as_the_tokens(vit):
    kept = []
    s, c, kernel = torch.randn(2, 17, 4, requires_grad=True), torch.randn(24, 4), torch.randn(24, 1, 3, 3)
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t.numel()), lambda _: None):
        Written.apply(torch.randn(2, 17, 24), s, c, kernel.requires_grad_(), 100.0, vit.layout)
    assert sorted(kept) == sorted([s.numel(), c.numel(), kernel.numel()])


def test_blocks_that_change_shape_themselves_are_not_read():
    model = sidetune.adapt(tiny_backbone("resnet"), "dtl+", num_classes=3)
    assert model.suffix.side.reads == model.suffix.side.writes == (6, 8)


@pytest.mark.parametrize(
    ("choices", "message"),
    [
        ({"rank": 0}, "rank must be at least 1, got 0"),
        ({"rank": 49}, "rank 49 is above the backbone's width, 48"),
        ({"first_write": 5}, r"first_write \(M\) must be in 1..4, got 5"),
        ({"first_write": 0}, "first_write must be at least 1"),
        ({"reads": (0, 1)}, r"reads names blocks \[0\]"),
        ({"reads": ()}, "reach no write"),
        ({"fusion": "dense"}, "fusion must be none, depthwise, average or full"),
        ({"kernel": 0}, "kernel must be at least 1"),
        ({"beta": 0.0}, "beta must be above 0"),
    ],
)
def test_choices_that_make_no_sense_are_refused(vit, choices, message):
    with pytest.raises(ValueError, match=message):
        sidetune.adapt(vit, DTL(**choices), num_classes=3)


def test_reads_that_never_reach_a_write_are_refused():
    with pytest.raises(ValueError, match=r"reads \[1\] reach no write"):
        sidetune.adapt(tiny_backbone("swin"), DTL(reads=(1, 3, 4), first_write=3), num_classes=3)
