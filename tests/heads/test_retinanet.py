"""RetinaNet's head, anchors and matching against torchvision's: the same weights and targets give the same numbers."""

import math

import pytest
import torch
from conftest import tiny_backbone
from torch import nn
from torchvision.models.detection._utils import BoxCoder, Matcher
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.retinanet import RetinaNetHead as TheirHead
from torchvision.ops import box_iou

import sidetune
from sidetune.heads.anchors import CLAMP, anchors, moved, offsets_between
from sidetune.heads.matching import matched
from sidetune.heads.retinanet import PRIOR, RetinaNetHead
from sidetune.seam.features import Features
from sidetune.seam.levels import levels
from sidetune.tasks import Detection

CLASSES = ("cat", "dog", "owl")
SIZES = [(16, 16), (8, 8), (4, 4), (2, 2), (1, 1)]


@pytest.fixture(scope="module")
def convnext():
    return tiny_backbone("convnext")


def built(backbone, norm="none", normed=False, convolutions=4):
    read = levels(backbone)[-3:]
    return RetinaNetHead(read, len(CLASSES), width=64, convolutions=convolutions, norm=norm, anchor=4.0, normed=normed)


def features(backbone, count=2, size=16):
    generator = torch.Generator().manual_seed(0)
    read = levels(backbone)[-3:]
    shapes = [(count, level.width, size // 2**i, size // 2**i) for i, level in enumerate(read)]
    return Features({level.tap: torch.randn(s, generator=generator) for level, s in zip(read, shapes, strict=True)})


def targets(*rows):
    """One image's objects, and as many rows that say nothing as make it five."""
    filled = torch.tensor([[0.0] * 4 + [-1.0, 0.0]]).repeat(5, 1)
    filled[: len(rows)] = torch.tensor(rows).reshape(-1, 6)
    return filled


def randomly(seed, count):
    generator = torch.Generator().manual_seed(seed)
    first, sides = (
        torch.rand(count, 2, generator=generator) * 0.6,
        0.05 + torch.rand(count, 2, generator=generator) * 0.3,
    )
    labels = torch.randint(0, len(CLASSES), (count, 1), generator=generator)
    return targets(*torch.cat([first, first + sides, labels, torch.zeros(count, 1)], dim=1).tolist())


def taken_over(ours, theirs):
    """Their weights, of every place of the subnets moved at random, in ours."""
    pairs = (
        (ours.classify, theirs.classification_head, "cls_logits"),
        (ours.regress, theirs.regression_head, "bbox_reg"),
    )
    for own, other, last in pairs:
        for p in other.parameters():
            p.data.add_(torch.randn(p.shape, generator=torch.Generator().manual_seed(p.numel())), alpha=0.05)
        for mine, given in zip(own.convolutions, other.conv, strict=True):
            mine.load_state_dict(given.state_dict())
        own.last.load_state_dict(getattr(other, last).state_dict())


@torch.no_grad()
@pytest.mark.parametrize("norm", ["none", "group"])
def test_logits_and_boxes_are_torchvisions_with_the_same_weights(convnext, norm):
    layer = {"none": None, "group": lambda width: nn.GroupNorm(width // 8, width)}[norm]
    ours, theirs = built(convnext, norm), TheirHead(64, 9, len(CLASSES), norm_layer=layer)
    taken_over(ours, theirs)
    given = features(convnext)
    maps = ours.fpn(dict(zip("abc", ours.pyramid(ours.maps(given)), strict=True))).values()
    expected, found = theirs(list(maps)), ours(given)
    assert found.shape == (2, 9 * sum(r * c for r, c in SIZES), len(CLASSES) + 8)
    torch.testing.assert_close(found[..., :3], expected["cls_logits"])
    fixed = anchors(SIZES, scale=4.0)
    assert torch.equal(found[..., 7:], fixed.expand(2, -1, -1))
    boxes = [BoxCoder((1, 1, 1, 1)).decode_single(e, fixed) for e in expected["bbox_regression"]]
    torch.testing.assert_close(found[..., 3:7], torch.stack(boxes), rtol=1e-5, atol=1e-6)


def test_the_loss_is_torchvisions(convnext):
    """On its own anchors and targets, an image without objects and one with rows that say nothing among them."""
    ours, theirs = built(convnext), TheirHead(64, 9, len(CLASSES))
    taken_over(ours, theirs)
    given = features(convnext, count=3)
    outputs = ours(given)
    batch = torch.stack([randomly(0, 5), targets(), randomly(1, 2)])
    found = Detection(classes=CLASSES).losses(outputs, batch)
    fixed, matcher = outputs[0, :, 7:].detach(), Matcher(0.5, 0.4, allow_low_quality_matches=True)
    known = [rows[rows[:, 4] >= 0] for rows in batch]
    their_targets = [{"boxes": rows[:, :4], "labels": rows[:, 4].long()} for rows in known]
    indices = [matcher(box_iou(rows[:, :4], fixed)) if len(rows) else torch.full((len(fixed),), -1) for rows in known]
    assert [int((i >= 0).sum()) > 0 for i in indices] == [True, False, True]
    assert sum(int((i == Matcher.BETWEEN_THRESHOLDS).sum()) for i in indices) > 0
    maps = list(ours.fpn(dict(zip("abc", ours.pyramid(ours.maps(given)), strict=True))).values())
    expected = theirs.compute_loss(their_targets, theirs(maps), [fixed] * 3, indices)
    torch.testing.assert_close(found["focal"], expected["classification"], rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(found["box"], expected["bbox_regression"], rtol=1e-5, atol=1e-6)
    (found["focal"] + found["box"]).backward()
    sum(expected.values()).backward()
    for mine, given in ((ours.classify, theirs.classification_head), (ours.regress, theirs.regression_head)):
        for p, q in zip(mine.parameters(), given.parameters(), strict=True):
            torch.testing.assert_close(p.grad, q.grad, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("seed", range(5))
def test_matches_are_torchvisions(seed):
    fixed, rows = anchors(SIZES, scale=2.0), randomly(seed, 5)
    expected = Matcher(0.5, 0.4, allow_low_quality_matches=True)(box_iou(rows[:, :4], fixed))
    found = matched(fixed[None], rows[None])
    assert torch.equal(found.positive[0], expected >= 0) and torch.equal(found.negative[0], expected == -1)
    assert torch.equal(found.boxes[0][expected >= 0], rows[expected[expected >= 0], :4])
    assert torch.equal(found.labels[0][expected >= 0], rows[expected[expected >= 0], 4].long())


def test_anchors_are_torchvisions_but_for_where_they_stand_in_a_place():
    """Theirs are rounded to pixels, in which 1024 of them hide little, and stand on corners."""
    sizes = [(128, 64), (64, 32), (32, 16)]
    theirs = AnchorGenerator(
        tuple(tuple(4 * s * 2 ** (k / 3) for k in range(3)) for s in (8, 16, 32)), ((0.5, 1.0, 2.0),) * 3
    )
    theirs.set_cell_anchors(torch.float32, torch.device("cpu"))
    strides = [[torch.tensor(s), torch.tensor(s)] for s in (8, 16, 32)]
    expected = theirs.grid_anchors(sizes, strides)
    expected = torch.cat([e + s / 2 for e, s in zip(expected, (8, 16, 32), strict=True)])
    found = anchors(sizes, scale=4.0) * torch.tensor([512, 1024, 512, 1024])
    assert (found - expected).abs().max() <= 0.5 + 1e-3


def test_anchors_of_a_map_of_one_place_lie_in_its_middle():
    found = anchors([(1, 1)], scale=1.0)
    assert found.shape == (9, 4)
    torch.testing.assert_close((found[:, :2] + found[:, 2:]) / 2, torch.full((9, 2), 0.5))
    sides = found[:, 2:] - found[:, :2]
    torch.testing.assert_close(sides[:, 1] / sides[:, 0], torch.tensor([0.5, 1, 2]).repeat_interleave(3))
    torch.testing.assert_close(sides.prod(dim=1).sqrt(), torch.tensor([1, 2 ** (1 / 3), 2 ** (2 / 3)]).repeat(3))


def test_offsets_between_boxes_are_those_that_move_one_to_the_other():
    fixed = anchors(SIZES[:2], scale=4.0)
    first, second = (torch.randn(len(fixed), 4, generator=torch.Generator().manual_seed(i)) for i in (1, 2))
    found = offsets_between(moved(fixed, first), moved(fixed, second), fixed)
    torch.testing.assert_close(found, first - second, rtol=1e-4, atol=1e-4)
    far = moved(fixed[:1], torch.tensor([[0.0, 0.0, 50.0, -50.0]]))
    torch.testing.assert_close(far[0, 2] - far[0, 0], (fixed[0, 2] - fixed[0, 0]) * math.exp(CLAMP))
    torch.testing.assert_close(far[0, 3] - far[0, 1], (fixed[0, 3] - fixed[0, 1]) * math.exp(-CLAMP), atol=1e-6, rtol=0)


def test_anchors_on_what_is_kept_aside_are_neither_positive_nor_negative():
    fixed = anchors(SIZES, scale=2.0)
    box = [0.2, 0.2, 0.6, 0.6]
    wanted, aside = targets([*box, 1, 0]), targets([*box, 1, 1])
    both = matched(fixed[None].expand(2, -1, -1), torch.stack([wanted, aside]))
    assert both.positive[0].any() and not both.positive[1].any()
    left_out = ~both.negative[1]
    assert left_out[both.positive[0]].all(), "anchors that would show it"
    within = (fixed[:, :2] >= 0.2).all(1) & (fixed[:, 2:] <= 0.6).all(1)
    assert within.any() and left_out[within].all(), "and small ones anywhere in it, as in a crowd"
    outside = (fixed[:, 2:] <= 0.2).any(1)
    assert outside.any() and both.negative[1][outside].all()
    beside = matched(fixed[None], targets([*box, 1, 0], [0.1, 0.1, 0.9, 0.9, 0, 1])[None])
    assert torch.equal(beside.positive[0], both.positive[0]), "an object in a crowd is still learned from"


def test_an_object_that_touches_no_anchor_takes_none():
    far = matched(anchors([(1, 1)], scale=0.1)[None], targets([0.0, 0.0, 0.05, 0.05, 0, 0])[None])
    assert not far.positive.any() and far.negative.all()


@torch.no_grad()
def test_every_class_starts_at_the_prior(convnext):
    scores = built(convnext)(features(convnext))[..., :3].sigmoid()
    torch.testing.assert_close(scores, torch.full_like(scores, PRIOR), rtol=0, atol=2e-3)


ROWS = {
    "vit": (8, 4, 2, 1, 1),  # patches of 8 in 32 pixels, and once as fine
    "dinov2": (6, 3, 1, 1, 1),
    "gap": (4, 2, 1, 1, 1),
    "swin": (8, 4, 2, 1, 1),
    "resnet": (4, 2, 1, 1, 1),
    "efficientnet": (4, 2, 1, 1, 1),
}


@torch.no_grad()
@pytest.mark.parametrize("kind", ROWS)
def test_every_family_gives_five_levels_from_a_reduction_of_8_on(kind):
    backbone = tiny_backbone(kind)
    model = sidetune.adapt(backbone, "linear", task=Detection(classes=CLASSES, width=16, convolutions=1))
    out = model(torch.zeros(1, 3, *backbone.card.image_size))
    assert torch.equal(out[0, :, -4:], anchors([(n, n) for n in ROWS[kind]], scale=4.0))
