"""DTLv2 against a plain reading of the journal's equations, its counts, and what it keeps."""

import numpy as np
import pytest
import timm
import torch
from conftest import CHANGING, CHANNELS_FIRST, GRIDS, PREFIX_TOKENS, stage_of, tiny_backbone
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional as F

import sidetune
from sidetune.contract import disturb, features_stand_for_images, its_trained_part_is_all_it_needs, vector
from sidetune.measure.memory import TensorBytes
from sidetune.measure.parameters import count
from sidetune.methods import DTL, DTLv2
from sidetune.methods.dtlv2 import later_of_one_h, num_groups
from sidetune.methods.hidden import Hidden, LowRankMap, form
from sidetune.methods.joins import Convolution
from sidetune.recipe import Recipe
from sidetune.seam.taps import block_input, block_output
from sidetune.train.step import backward, save_memory

QUIET = pytest.mark.filterwarnings("ignore:L-Share has nothing to scale")


READS = {
    "vit": (1, 4), "dinov2": (1, 3), "gap": (1, 3), "eva": (1, 3), "swin": (1, 2, 4, 5), "convnext": (1, 2, 4, 5),
    "resnet": (2, 4, 6, 8), "efficientnet": (3, 5, 8, 11, 15),
}  # fmt: skip
"""About every fourth block of a stage, of those whose input fits h."""
WRITES = {
    "vit": (3, 4), "dinov2": (2, 3), "gap": (2, 3), "eva": (2, 3), "swin": (4, 5), "convnext": (4, 5), "resnet": (6, 8),
    "efficientnet": (9, 11, 12, 15, 16),
}  # fmt: skip
"""About every second block of a stage from the middle on."""
LATE = {"swin": (4, 5), "convnext": (4, 5), "resnet": (6, 8), "efficientnet": (11, 15)}
"""What is read, and written, where h starts anew in each stage."""


def places_by_hand(kind, choices):
    """Blocks read and written."""
    blocks = sorted(stage_of(kind))
    reads, writes = READS[kind], WRITES[kind]
    if choices.get("connection") == "reset":
        reads, writes = LATE.get(kind, reads), LATE.get(kind, writes)
    if choices.get("m") == 1:
        reads = tuple(i for i in blocks if i not in CHANGING.get(kind, ()))
    if choices.get("n") == 1:
        writes = tuple(blocks[len(blocks) // 2 :])
    return choices.get("reads", reads), writes


SCALED = {
    "vit": {4}, "dinov2": {3}, "gap": {3}, "eva": {3}, "swin": {4}, "convnext": {4}, "resnet": {6, 8},
    "efficientnet": {11, 13, 14, 15},
}  # fmt: skip
"""Under l-share below: written behind another of the stage, with nothing read between."""


def by_the_paper(kind, backbone, model, images, choices):
    """The pooled feature by equations 7 to 9, block by block and d wide; of the model, only the weights are taken."""
    side = model.suffix.side
    beta, share, connection = choices.get("beta", 100), choices.get("share", "apart"), choices.get("connection")
    reads, writes = places_by_hand(kind, choices)
    prefix, channels_first, stages = PREFIX_TOKENS.get(kind, 0), kind in CHANNELS_FIRST, stage_of(kind)
    z, h, stage = backbone.stem(images), None, 1

    def g(t, kernel):
        patches = t[:, prefix:] if t.ndim == 3 else t
        maps = patches.transpose(1, 2).unflatten(2, GRIDS[kind]) if t.ndim == 3 else t.movedim(-1, 1)
        low, high = (kernel.shape[-1] - 1) // 2, kernel.shape[-1] // 2
        maps = F.conv2d(F.pad(maps, (low, high, low, high)), kernel, groups=maps.shape[1] // kernel.shape[1])
        if t.ndim == 4:
            return maps.movedim(1, -1)
        return torch.cat([t[:, :prefix], maps.flatten(2).transpose(1, 2)], dim=1)

    def theta(t):
        return t * torch.sigmoid(beta * t) if choices.get("theta", True) else t

    def connect(h, i, after):
        if connection == "reset":
            return None
        join, maps = side.joins[str(stages[i])], h.movedim(-1, 1)
        if connection in ("backbone", "learned"):
            first = next(j for j in stages if stages[j] == stages[i])
            weights = {k: v.to(h.dtype) for k, v in join.module.named_parameters()}
            inside = maps if channels_first else h
            out = torch.func.functional_call(backbone.transitions[first], weights, (inside,))
            return out.movedim(1, -1) if channels_first else out
        d, d_next = maps.shape[1], after.shape[1 if channels_first else -1]
        rows, columns = after.shape[2:] if channels_first else after.shape[1:3]
        by = round(maps.shape[-2] / rows)
        groups = next(n for n in range(d // choices.get("group_size", 4), 0, -1) if d % n == d_next % n == 0)
        groups = 1 if connection == "full" else groups
        assert join.weight.shape == (d_next, d // groups, by, by)
        maps = F.pad(maps, (0, by * columns - maps.shape[-1], 0, by * rows - maps.shape[-2]))
        return F.conv2d(maps, join.weight, stride=by, groups=groups).movedim(1, -1)

    for i, block in backbone.blocks.items():
        z = backbone.transitions[i](z) if i in backbone.transitions else z
        after = block(z)
        if h is not None and stages[i] != stage:
            h = connect(h, i, after)
        stage = stages[i]
        if i in reads:
            w = side.w[str(i)]
            h = (z.movedim(1, -1) if channels_first else z) @ w.a.T @ w.c.T + (0 if h is None else h)
        z = after
        if i in writes:
            key = f"block{i}" if share == "apart" else f"stage{stage}"
            average = torch.full((h.shape[-1], 1, 3, 3), 1 / 9).to(h.dtype)
            kernel = average if choices.get("fusion") == "average" else side.g[key]
            if choices.get("enhanced", True):
                w = side.w_prime[key]
                out = theta(g(h, kernel)) @ w.a.T @ w.c.T + h
            else:
                out = g(theta(h), kernel)
            if share == "linear" and i in SCALED[kind]:
                out = out * side.scale[str(i)].gamma + side.scale[str(i)].beta
            z = z + (out.movedim(-1, 1) if channels_first else out)
    return backbone.pools["mean"](z)


def in_double(kind, method):
    """A backbone and a model on it in float64, trained parameters moved away from their starts."""
    backbone = tiny_backbone(kind)
    for part, module in backbone.named_parts("mean"):
        module.double().requires_grad_(False)
        assert part
    model = sidetune.adapt(backbone, method, num_classes=3)
    torch.manual_seed(0)
    model.double()
    with torch.no_grad():
        for p in model.suffix.side.parameters():
            if p.requires_grad:
                p.add_(torch.randn_like(p), alpha=0.1)
    return backbone, model


CHOICES = {
    "default": {},
    "formed": {"rank": 12, "kernel": 5, "m": 1, "n": 1},
    "l-share": {"share": "linear", "reads": (1, 3), "first_write": 3, "n": 1},
    "direct": {"share": "direct", "n": 1, "beta": 3.0},
    "reset": {"connection": "reset", "kernel": 4},
    "full": {"connection": "full", "fusion": "full"},
    "depthwise joins": {"group_size": 1, "fusion": "average"},
    "v1's fusion, sparse": {"enhanced": False, "n": 1, "theta": False},
    "backbone": {"connection": "backbone"},
    "learned": {"connection": "learned", "n": 1},
}


@QUIET
@pytest.mark.parametrize("kind", READS)
@pytest.mark.parametrize("choices", CHOICES.values(), ids=list(CHOICES))
def test_outputs_and_gradients_are_those_of_the_papers_equations(kind, choices):
    if kind in ("resnet", "efficientnet", "vit", "dinov2", "gap", "eva") and choices.get("connection") in (
        "backbone",
        "learned",
    ):
        pytest.skip("there is nothing between its stages to take; refused, which has a test")
    if kind in ("dinov2", "gap", "eva", "resnet", "efficientnet") and "reads" in choices:
        choices = choices | {"reads": {"efficientnet": (7, 10)}.get(kind, (2,)), "first_write": None}
    backbone, model = in_double(kind, DTLv2(**choices))
    images = torch.randn(2, 3, *backbone.card.image_size, dtype=torch.float64)
    trained = {n: p for n, p in model.suffix.named_parameters() if p.requires_grad}

    found = vector(model, images)
    expected = by_the_paper(kind, backbone, model, images, choices)
    assert torch.allclose(found, expected, rtol=1e-9, atol=1e-9)
    weights = torch.randn_like(expected)
    gradients = [torch.autograd.grad((out * weights).sum(), list(trained.values())) for out in (found, expected)]
    for name, own, plain in zip(trained, *gradients, strict=True):
        assert (own - plain).abs().max() <= 1e-8 * plain.abs().max(), name
        assert plain.abs().max() > 0, name


def on_meta(name="swin_base_patch4_window7_224"):
    with torch.device("meta"):
        return sidetune.open_backbone(timm.create_model(name, num_classes=0))


@pytest.fixture(scope="module")
def swin_b():
    return on_meta()


@pytest.mark.parametrize(
    ("choices", "trainable", "published"),
    [
        ({}, 3_927_552, 3.9),
        ({"share": "linear"}, 2_862_592, 2.9),
        ({"share": "direct"}, 2_860_544, 2.9),
        ({"m": 1, "n": 1, "connection": "reset", "share": "direct"}, 6_567_424, 6.6),
        ({"m": 1, "n": 1, "connection": "reset"}, 9_501_696, 9.5),
        ({"connection": "reset"}, 3_702_272, 3.7),
        ({"connection": "backbone"}, 3_898_880, 3.9),
        ({"connection": "learned"}, 6_658_560, 6.7),
        ({"connection": "full"}, 6_651_392, 6.7),
        ({"group_size": 8}, 3_956_224, 4.0),
        ({"group_size": 2}, 3_913_216, 3.9),
        ({"group_size": 1}, 3_906_048, 3.9),
    ],
)
def test_parameters_on_swin_b_at_rank_256_are_the_journals(swin_b, choices, trainable, published):
    counted = count(sidetune.adapt(swin_b, DTLv2(rank=256, **choices), num_classes=10)).trainable
    assert counted == trainable and round(counted / 1e6, 1) == published


@pytest.mark.parametrize(
    ("choices", "units"),
    [
        ({}, 8 + 6 + 6 + 3),
        ({"share": "linear"}, 8 + 2 + 2 + 2 + 3),
        ({"connection": "reset"}, 6 + 6 + 6),
        ({"connection": "backbone"}, 8 + 6 + 6),
        ({"connection": "learned"}, 8 + 6 + 6 + 3),
        ({"enhanced": False}, 8 + 6 + 3),
        ({"fusion": "none"}, 8 + 6 + 3),
    ],
)
def test_units_are_maps_kernels_scales_and_joins_of_its_own(swin_b, choices, units):
    """Eight reads and six writes in two stages, of which two share their h with the write before; three joins."""
    assert count(sidetune.adapt(swin_b, DTLv2(**choices), num_classes=10)).units == units


def test_ranks_reach_to_the_widest_block_that_is_read_or_written():
    backbone = tiny_backbone("swin")  # 16, 32, 64 and 128 wide
    side = sidetune.adapt(backbone, DTLv2(rank=128), num_classes=3).suffix.side
    assert side.w["1"].a.shape == (128, 16)
    with pytest.raises(ValueError, match="rank 129 is above the backbone's width where it is read and written, 128"):
        sidetune.adapt(backbone, DTLv2(rank=129), num_classes=3)


def test_it_starts_as_the_plain_backbone_unless_a_transition_of_it_joins_stages():
    starts = {c: DTLv2(connection=c).starts_as_identity for c in ("reset", "grouped", "full", "backbone", "learned")}
    assert starts == {"reset": True, "grouped": True, "full": True, "backbone": False, "learned": False}


@pytest.mark.parametrize(("kind", "rank"), [("vit", 2), ("swin", 4), ("convnext", 4), ("resnet", 4)])
def test_what_is_taken_where_nothing_is_said_is_the_journals(kind, rank):
    method = DTLv2()
    assert (method.beta, method.kernel, method.group_size, method.lr, method.pool) == (100, 3, 4, 1e-2, "mean")
    side = sidetune.adapt(tiny_backbone(kind), method, num_classes=3).suffix.side
    assert {len(w.a) for w in (*side.w.values(), *side.w_prime.values())} == {rank}
    assert {tuple(g.shape[1:]) for g in side.g.values()} == {(1, 3, 3)}


@pytest.mark.parametrize(
    ("fusion", "trainable", "published"), [("full", 14_645_248, 14.7), ("average", 2_848_768, 2.9)]
)
def test_parameters_with_other_fusions_are_the_journals_if_the_depthwise_kernels_stay(
    swin_b, fusion, trainable, published
):
    model = sidetune.adapt(swin_b, DTLv2(rank=256, share="linear", fusion=fusion), num_classes=10)
    assert count(model).trainable == trainable and round((trainable + 9 * (512 + 1024)) / 1e6, 1) == published


@pytest.mark.parametrize(("share", "trainable"), [("apart", 2_991_360), ("linear", 2_180_352)])
def test_parameters_on_swin_l_at_rank_128_are_the_journals(share, trainable):
    backbone = on_meta("swin_large_patch4_window7_224")
    assert count(sidetune.adapt(backbone, DTLv2(rank=128, share=share), num_classes=10)).trainable == trainable


LATE_STAGES = {
    "vit_base_patch16_224": {},
    "swin_base_patch4_window7_224": {"reads": (5, 9, 13, 17, 22, 24), "writes": (13, 15, 17, 19, 22, 24)},
    "convnext_base": {
        "reads": (7, 11, 15, 19, 23, 27, 33, 36),
        "writes": (19, 21, 23, 25, 27, 29, 31, 33, 36),
    },
}
"""Of staged networks only the last two stages are read, and so joined."""


@pytest.mark.parametrize(
    ("network", "share", "trainable", "published"),
    [
        ("vit_base_patch16_224", "apart", 73_728, 0.07),
        ("vit_base_patch16_224", "linear", 36_096, 0.04),
        ("swin_base_patch4_window7_224", "apart", 131_072, 0.13),
        ("swin_base_patch4_window7_224", "linear", 97_792, 0.10),
        ("convnext_base", "apart", 176_128, 0.18),
        ("convnext_base", "linear", 108_032, 0.11),
    ],
)
def test_parameters_in_recognition_are_the_journals_in_one_reading(network, share, trainable, published):
    backbone = on_meta(network)
    method = DTLv2(share=share, kernel={"apart": 4, "linear": 5}[share], **LATE_STAGES[network])
    counted = count(sidetune.adapt(backbone, method, num_classes=10)).trainable
    assert counted == trainable and round(counted / 1e6, 2) == published


@pytest.mark.parametrize(
    ("network", "reads", "trainable", "published"),
    [
        ("vit_base_patch16_224", (1, 5, 9, 12), 31_488, 0.03),
        ("swin_base_patch4_window7_224", (5, 9, 13, 17, 22, 24), 67_072, 0.07),
        ("convnext_base", (7, 11, 15, 19, 23, 27, 33, 36), 75_264, 0.08),
    ],
)
def test_parameters_of_the_step_before_are_the_journals_in_the_same_reading(network, reads, trainable, published):
    method = DTL(fusion="depthwise", kernel=5, reads=reads)
    counted = count(sidetune.adapt(on_meta(network), method, num_classes=10)).trainable
    assert counted == trainable and round(counted / 1e6, 2) == published


def test_blocks_on_swin_b_are_those_of_figure_4(swin_b):
    model = sidetune.adapt(swin_b, "dtlv2-ls", num_classes=10)
    assert model.suffix.side.reads == (2, 4, 5, 9, 13, 17, 22, 24)
    assert model.suffix.side.writes == (13, 15, 17, 19, 22, 24)
    assert set(model.suffix.side.scale) == {"15", "19"}
    assert model.frozen_depth == 13 and model.suffix.reads_of_prefix == (2, 4, 5, 9, 13)


def test_h_of_earlier_stages_crosses_the_seam_as_the_inputs_it_is_made_of():
    backbone = tiny_backbone("swin")  # stages of 1, 1, 2, 1
    model = sidetune.adapt(backbone, DTLv2(), num_classes=3)
    assert model.suffix.side.reads == (1, 2, 4, 5) and model.frozen_depth == 4
    features = model.features(torch.randn(1, 3, 64, 64))
    assert features.taps.keys() == {block_input(1), block_input(2), block_input(4), block_output(4)}
    disturb(model)
    images, labels = torch.randn(3, 3, 64, 64), torch.tensor([0, 1, 2])
    gradients = []
    for x in (images, model.features(images)):
        model.zero_grad()
        model.task.loss(model(x), labels).backward()
        gradients.append([p.grad for p in model.parameters() if p.requires_grad])
    assert all(map(torch.equal, *gradients))
    assert model.suffix.side.w["1"].a.grad.any(), "a read three stages before the first write is trained"


def step(model, images, labels, **saving):
    """Loss and gradients of a batch, and how many bytes are kept for the gradient when the forward pass ends: not what
    is computed again, nor what is laid in the host's memory."""
    kept = {}

    def keep(t):
        kept[t.untyped_storage().data_ptr()] = t.untyped_storage().nbytes()
        return t

    model.zero_grad()
    save_memory(model, Recipe(**saving))
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda t: t):
        backward(model, images, labels, micro_batch=saving.get("micro_batch"))
    return {n: p.grad for n, p in model.named_parameters() if p.requires_grad}, sum(kept.values())


@pytest.mark.parametrize("kind", ["vit", "swin", "resnet"])
@pytest.mark.parametrize(
    "saving", [{"checkpoint": True}, {"offload": True}, {"micro_batch": 2, "checkpoint": True}], ids=str
)
@pytest.mark.parametrize("choices", [{}, {"rank": 12, "n": 1}], ids=str)
def test_saving_memory_leaves_the_gradients_and_keeps_less(kind, saving, choices):
    backbone, model = in_double(kind, DTLv2(**choices))
    images = torch.randn(5, 3, *backbone.card.image_size, dtype=torch.float64)
    labels = torch.tensor([0, 1, 2, 0, 1])
    model.train()
    model.suffix.set_drop_path(0)  # timm's Swin drops by itself
    whole, plain = step(model, images, labels)
    saved, less = step(model, images, labels, **saving)
    for name, gradient in whole.items():
        assert torch.allclose(saved[name], gradient, rtol=1e-8, atol=1e-10), name
    assert less < plain


@pytest.mark.parametrize("kind", ["swin", "convnext"])
@pytest.mark.parametrize("connection", ["backbone", "learned"])
def test_the_backbones_own_transition_can_join_and_only_its_copy_is_trained(kind, connection):
    backbone = tiny_backbone(kind)
    model, other = (sidetune.adapt(backbone, DTLv2(connection=connection), num_classes=3) for _ in range(2))
    assert not model.method.starts_as_identity
    joins = [p for p in model.suffix.side.joins.parameters()]
    assert joins and all(p.requires_grad == (connection == "learned") for p in joins)
    originals = {p.data_ptr() for t in backbone.transitions.values() for p in t.parameters()}
    assert all((p.data_ptr() in originals) == (connection == "backbone") for p in joins)
    images = torch.randn(2, 3, *backbone.card.image_size)
    features_stand_for_images(model, images)
    its_trained_part_is_all_it_needs(model, other, images)
    model.hold(torch.bfloat16)
    assert model.task.loss(model(images), torch.tensor([0, 1])).isfinite()


@pytest.mark.parametrize(
    ("size", "next_size", "stride"),
    [((6, 4), (3, 2), 2), ((5, 7), (3, 4), 2), ((5, 7), (2, 3), 2), ((4, 4), (4, 4), 1)],
)
def test_joined_factors_are_the_convolution_of_what_they_form(size, next_size, stride):
    torch.manual_seed(0)
    join = Convolution(8, 24, next_size, stride, groups=2).double()
    codes = tuple(torch.randn(2, *size, r, dtype=torch.float64) for r in (1, 2))
    columns = tuple(torch.randn(8, r, dtype=torch.float64) for r in (1, 2))
    state = join(Hidden(1, codes, columns))
    assert state.h is None and state.num_codes == 3 * stride**2
    formed = join(Hidden(1, h=form(Hidden(1, codes, columns))))
    assert formed.h.shape == (2, *next_size, 24)
    assert torch.allclose(form(state), formed.h)


@pytest.mark.parametrize("kind", ["vit", "swin", "convnext"])
def test_writing_keeps_nothing_but_the_output(kind):
    backbone = tiny_backbone(kind)
    side = sidetune.adapt(backbone, DTLv2(rank=1), num_classes=3).suffix.side
    block = side.writes[0]
    state = None
    for i in (i for i in side.reads if i <= block):
        state = side.read(i, torch.randn(2, *backbone.input_shapes[i]), state)
    z = torch.randn(2, *backbone.output_shapes[block])
    assert state.codes and state.h is None
    with TensorBytes([z, *state.codes, *side.parameters()]) as tracker:
        before = tracker.alive
        out = side.write(block, z, state)
        assert tracker.peak - before >= 3 * z.nbytes, "h, what g makes of it and theta are there for a moment"
        assert tracker.alive - before == out.nbytes


def test_a_wide_read_keeps_what_it_read_and_h():
    w, x = LowRankMap(64, 48), torch.randn(2, 17, 64)
    state = Hidden(1).read(x, w).read(x, w)
    assert state.h is not None
    with TensorBytes([x, *w.parameters(), state.h]) as tracker:
        before = tracker.alive
        after = state.read(x, w)
        assert tracker.alive - before == after.h.nbytes, "codes of 48 numbers are made again"


def test_codes_stand_for_h_until_they_are_wider_and_then_h_is_formed():
    torch.manual_seed(0)
    state, x = Hidden(1), torch.randn(2, 5, 8)
    for rank in (3, 5):
        state = state.read(x, LowRankMap(8, rank))
    assert state.h is None and state.num_codes == 8
    state = state.read(x, LowRankMap(8, 1))
    assert state.h is not None and state.codes == ()


def test_dtlv1_forms_h_too_where_its_codes_would_be_wider(vit):
    many = sidetune.adapt(vit, DTL(rank=24, fusion="depthwise"), num_classes=3)
    disturb(many)
    images = torch.randn(2, 3, 32, 32)
    side = many.suffix.side
    state, features = None, many.features(images)
    for i in (1, 2, 3):
        state = side.read(i, features[block_input(i)], state)
    assert state.h is not None
    h = sum(side.w[str(i)](features[block_input(i)]) for i in (1, 2, 3))
    z = torch.zeros(2, 17, 48)
    t = h * torch.sigmoid(100 * h)
    maps = t[:, 1:].transpose(1, 2).unflatten(2, (4, 4))
    maps = F.conv2d(maps, side.g["stage1"], padding=1, groups=48).flatten(2).transpose(1, 2)
    assert torch.allclose(side.write(3, z, state), torch.cat([t[:, :1], maps], dim=1), atol=1e-5)


def test_l_share_scales_the_later_of_writes_that_share_one_h(vit):
    model = sidetune.adapt(vit, DTLv2(share="linear", reads=(1, 3), writes=(1, 2, 3, 4)), num_classes=3)
    assert set(model.suffix.side.scale) == {"2", "4"}
    disturb(model)
    side = model.suffix.side
    state = side.read(1, torch.randn(2, 17, 48), None)
    first, later = (side.fused(i, state) for i in (1, 2))
    assert torch.allclose(later, first * side.scale["2"].gamma + side.scale["2"].beta, atol=1e-6)


@given(
    stages=st.lists(st.integers(1, 4), min_size=1, max_size=4).map(
        lambda counts: np.repeat(range(len(counts)), counts)
    ),
    draw=st.data(),
)
def test_writes_share_an_h_within_a_stage_while_nothing_is_read(stages, draw):
    """h as a tuple of what was added to it: reads, and a mark where a stage begins."""
    blocks = range(1, len(stages) + 1)
    reads, writes = (tuple(sorted(draw.draw(st.sets(st.sampled_from(blocks), min_size=1)))) for _ in range(2))
    h, before, expected = (), None, []
    for i in blocks:
        if i > 1 and stages[i - 1] != stages[i - 2]:
            h = (*h, "stage")
        h = (*h, i) if i in reads else h
        if i in writes:
            expected += [i] if h == before else []
            before = h
    assert later_of_one_h(reads, writes, {i: int(stages[i - 1]) for i in blocks}) == expected


@pytest.mark.parametrize(
    ("width", "next_width", "group_size", "groups"),
    [(128, 256, 4, 32), (128, 256, 1, 128), (8, 16, 4, 2), (16, 24, 4, 4), (24, 40, 4, 4), (40, 80, 4, 10),
     (80, 112, 4, 16), (192, 320, 4, 32), (8, 16, 16, 1), (8, 16, 8, 1), (9, 16, 4, 1)],
)  # fmt: skip
def test_groups_are_a_quarter_of_the_channels_or_the_next_smaller_number_that_divides_both(
    width, next_width, group_size, groups
):
    assert num_groups(width, next_width, group_size) == groups


def test_l_share_with_nothing_to_scale_warns(vit):
    with pytest.warns(UserWarning, match="L-Share has nothing to scale: reads .* give every write an h of its own"):
        sidetune.adapt(vit, DTLv2(share="linear", reads=(3,), writes=(4,)), num_classes=3)


@pytest.mark.parametrize(
    ("kind", "choices", "message"),
    [
        ("vit", {"m": 5}, "m = 5 is beyond every stage; the longest has 4 blocks"),
        ("swin", {"n": 3}, "n = 3 is beyond every stage; the longest has 2 blocks"),
        ("vit", {"m": 0}, "m must be at least 1, got 0"),
        ("vit", {"reads": ()}, r"reads is empty: name at least one of blocks \[1, 2, 3, 4\]"),
        ("vit", {"writes": ()}, "writes is empty"),
        ("vit", {"reads": (5,)}, r"reads has blocks \[5\]; on this backbone it can have \[1, 2, 3, 4\]"),
        ("vit", {"reads": (4,), "writes": (2, 4)}, r"writes \[2\] have nothing to add: no block in \[4\] is read"),
        ("vit", {"reads": (1, 4), "writes": (2, 3)}, r"reads \[4\] reach no write; the writes are \[2, 3\]"),
        ("vit", {"reads": (1,), "m": 2}, "reads names the blocks that m would choose"),
        ("vit", {"writes": (4,), "first_write": 2}, "writes names the blocks that n and first_write would choose"),
        ("vit", {"first_write": 5}, r"first_write \(M\) must be in 1..4, got 5"),
        ("vit", {"rank": 49}, "rank 49 is above the backbone's width where it is read and written, 48"),
        ("swin", {"reads": (1,), "connection": "reset"}, r"reads \[1\] reach no write"),
        ("resnet", {"reads": (3,)}, r"reads has blocks \[3\]"),
        ("resnet", {"connection": "backbone"}, "this resnet changes shape inside block 3; use grouped, full or reset"),
        ("vit", {"connection": "learned"}, "a plain vit has one stage"),
        ("vit", {"connection": "glue"}, "connection must be one of reset, grouped, full, backbone, learned, got"),
        ("vit", {"share": "some"}, "share must be one of apart, direct, linear"),
        ("vit", {"fusion": "dense"}, "fusion must be one of none, depthwise, average, full"),
        ("vit", {"beta": 0.0}, "beta must be above 0"),
        ("swin", {"group_size": 0}, "group_size must be at least 1"),
    ],
)  # fmt: skip
def test_choices_that_make_no_sense_are_refused(kind, choices, message):
    with pytest.raises(ValueError, match=message):
        sidetune.adapt(tiny_backbone(kind), DTLv2(**choices), num_classes=3)
