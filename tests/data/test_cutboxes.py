"""Pictures and the boxes of their objects are cut, enlarged and turned as one, and become batches and kept targets."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from torchvision.tv_tensors import BoundingBoxes

from sidetune.data import cutboxes, cutmasks
from sidetune.data.boxrows import are_rows, padded, unpadded
from sidetune.data.cutboxes import SMALLEST, VISIBLE, target_of
from sidetune.data.dataset import Prepared, collate, dataset_of
from sidetune.data.objects import Objects
from sidetune.data.paired import Paired
from sidetune.data.samples import Samples
from sidetune.data.transforms import Transform, preset_for
from sidetune.datasets import Targets, as_dataset
from sidetune.errors import DataError
from sidetune.seam.features import Features
from sidetune.seam.taps import Need, block_output
from sidetune.store.disk import Origin, fill
from sidetune.store.memory import remember
from sidetune.train.kept import Views, targets_of

SIDES = st.integers(20, 90)
SEEDS = st.integers(0, 2**31)


def to_tensor(picture):
    return torch.from_numpy(np.array(picture)).movedim(-1, 0)


def objects(boxes, size=(40, 60), labels=None, aside=()):
    """In a picture of this height and width; those numbered in `aside` are crowds."""
    return Objects(
        boxes=np.array(boxes, np.float32).reshape(-1, 4),
        labels=np.arange(len(boxes)) if labels is None else np.array(labels),
        aside=np.isin(np.arange(len(boxes)), aside),
        outlines=None,
        size=size,
    )


def scene(seed, height, width):
    """A black picture with one bright rectangle, its box, and its mask."""
    rng = np.random.default_rng(seed)
    (top, bottom), (left, right) = (
        np.sort(rng.choice(np.arange(1, side), 2, replace=False)) for side in (height, width)
    )
    mask = np.zeros((height, width), np.int16)
    mask[top:bottom, left:right] = 1
    return Image.fromarray(np.stack([mask * 255] * 3, -1).astype(np.uint8)), mask, (left, top, right, bottom)


def paired(**how):
    return Paired(kind="detection", **{"size": (48, 32), "to_tensor": to_tensor} | how)


def transform(preset="vtab", size=(24, 24)):
    return Transform(preset=preset, image_size=size, mean=(0.5,) * 3, std=(0.5,) * 3)


def samples(*found, size=(40, 60)):
    pictures = np.random.default_rng(0).integers(0, 255, (len(found), *size), np.uint8)
    return Samples(images=pictures, labels=list(found), classes=("bolt", "nut", "gear"), task="detection")


THREE = samples(objects([(0, 0, 30, 20), (30, 10, 60, 40)], aside=[1]), objects([]), objects([(6, 4, 12, 8)]))


@given(SEEDS, SIDES, SIDES)
def test_boxes_of_a_cut_are_those_of_a_masks_cut(seed, height, width):
    picture, mask, box = scene(seed, height, width)
    torch.manual_seed(seed)
    shown = paired()
    rows = cutboxes.read(objects([box], (height, width)))
    cut = shown.box(picture, rows)
    found, pixels = cutboxes.taken(rows, cut, shown.size), cutmasks.taken(mask, cut, shown.size) == 1
    for x1, y1, x2, y2, label, aside in found:
        down, across = np.flatnonzero(pixels.any(1)), np.flatnonzero(pixels.any(0))
        expected = (across[0], down[0], across[-1] + 1, down[-1] + 1)
        assert np.abs(np.array([x1 * 32, y1 * 48, x2 * 32, y2 * 48]) - expected).max() <= 0.5 + 1e-6
        assert (label, aside) == (0, 0)
    if not len(found):
        inner, whole = pixels.sum(), (box[2] - box[0]) * (box[3] - box[1]) * 32 * 48
        area = whole / ((cut[2] - cut[0]) * (cut[3] - cut[1]))
        sides = pixels.any(0).sum(), pixels.any(1).sum()
        assert inner <= VISIBLE * area + sum(sides) + 1 or min(sides) <= SMALLEST + 1


@given(SEEDS, SIDES, SIDES, st.sampled_from(["vtab", "vtab-flip", "scene"]), st.booleans(), st.integers(0, 5))
def test_targets_are_fractions_of_what_is_shown(seed, height, width, preset, training, count):
    rng = np.random.default_rng(seed)
    corners = np.sort(rng.uniform(0, 1, (count, 2, 2)), axis=1) * (width, height)
    start, end = corners[:, 0], corners[:, 1]
    given_ = objects(np.concatenate([start, np.minimum(end + 0.1, (width, height))], 1), (height, width))
    torch.manual_seed(seed)
    picture = Image.new("RGB", (width, height))
    image, rows = transform(preset).pairs("detection", training=training)(picture, given_)
    assert image.shape == (3, 24, 24) and rows.dtype == torch.float32 and rows.shape[1:] == (6,)
    assert (rows[:, :4] >= 0).all() and (rows[:, :4] <= 1).all() and (rows[:, :2] < rows[:, 2:4]).all()
    if not (training and preset == "scene"):
        assert len(rows) == count, "nothing is dropped from what is shown whole"


@given(SEEDS, st.integers(0, 6))
def test_a_flip_is_undone_by_another(seed, count):
    rows = np.random.default_rng(seed).random((count, 6))
    rows[:, :4].reshape(-1, 2, 2).sort(axis=1)
    once = cutboxes.flipped(rows)
    assert (once[:, 0] <= once[:, 2]).all()
    np.testing.assert_allclose(cutboxes.flipped(once), rows)


def test_flips_turn_pictures_with_their_boxes_every_other_time():
    left = Image.fromarray(np.pad(np.full((40, 20, 3), 255, np.uint8), ((0, 0), (0, 40), (0, 0))))
    shown = paired(flip=True, size=(40, 60))
    torch.manual_seed(0)
    found = [shown(left, objects([(0, 0, 20, 40)])) for _ in range(200)]
    turned = [bool(image[0, 0, -1] > 128) for image, _ in found]
    assert 70 < sum(turned) < 130
    expected = {False: [0, 0, 1 / 3, 1, 0, 0], True: [2 / 3, 0, 1, 1, 0, 0]}
    assert all(rows[0].tolist() == pytest.approx(expected[t]) for (_, rows), t in zip(found, turned, strict=True))


def test_cuts_take_what_has_its_middle_or_enough_of_it_inside():
    inside, middle, sliver, most, speck, crowd = range(6)
    given_ = objects(
        [(42, 2, 50, 10), (20, 0, 62, 30), (10, 0, 45, 40), (30, 0, 50, 30), (70, 20, 71, 21), (0, 0, 50, 40)],
        size=(40, 100),
        aside=[crowd],
    )
    found = cutboxes.taken(cutboxes.read(given_), (40, 0, 80, 40), (40, 40))
    assert found[:, 4].tolist() == [inside, middle, most, crowd]
    assert found[:, :4].tolist() == [[0.05, 0.05, 0.25, 0.25], [0, 0, 0.55, 0.75], [0, 0, 0.25, 0.75], [0, 0, 0.25, 1]]
    enlarged = cutboxes.taken(cutboxes.read(given_), (40, 0, 80, 40), (80, 80))
    assert speck in enlarged[:, 4] and sliver not in enlarged[:, 4]


def test_a_cut_that_loses_all_objects_is_tried_again():
    lonely = objects([(10, 10, 18, 18)], size=(64, 64))
    picture = Image.new("RGB", (64, 64))
    torch.manual_seed(0)
    shown = transform("scene", (64, 64)).pairs("detection", training=True)
    kept = [len(shown(picture, lonely)[1]) for _ in range(200)]
    torch.manual_seed(0)
    free = [shown.box(picture, cutboxes.read(objects([], size=(64, 64)))) for _ in range(200)]
    chance = np.mean([len(cutboxes.taken(cutboxes.read(lonely), box, (64, 64))) for box in free])
    assert np.mean(kept) > 0.9 > chance + 0.1


def test_in_evaluation_and_by_vtab_a_picture_is_squeezed_and_its_fractions_stay():
    for preset, training in (("vtab", True), ("vtab", False), ("scene", False)):
        image, rows = dataset_of(THREE, transform(preset), training=training)[0]
        assert image.shape == (3, 24, 24) and rows.tolist() == [[0, 0, 0.5, 0.5, 0, 0], [0.5, 0.25, 1, 1, 1, 1]]
    assert preset_for("detection") == "scene" and preset_for("detection", "vtab-flip") == "vtab-flip"
    with pytest.raises(ValueError, match="'photo' does not serve detection"):
        preset_for("detection", "photo")
    with pytest.raises(ValueError, match="instances.*--task detection"):
        dataset_of(replace(THREE, task="instances"), transform(), training=True)


def rows_like(*counts):
    return [torch.rand(n, 6) for n in counts]


@given(st.lists(st.integers(0, 5), min_size=1, max_size=5))
def test_a_batch_is_filled_up_and_gives_back_what_it_was_made_of(counts):
    targets = rows_like(*counts)
    images, batch = collate([(torch.zeros(3, 2, 2), target) for target in targets])
    assert len(images) == len(counts) and batch.shape == (len(counts), max(counts), 6) and are_rows(targets[0])
    assert all(map(torch.equal, map(unpadded, batch), targets))
    filling = [rows[n:] for rows, n in zip(batch, counts, strict=True)]
    assert all((rows == torch.tensor([0, 0, 0, 0, -1, 0])).all() for rows in filling)
    assert torch.equal(padded(targets), batch)


def test_masks_and_rows_of_numbers_are_not_taken_for_boxes():
    image = torch.zeros(3, 2, 2)
    masks = [torch.zeros(4, 6, dtype=torch.int16), torch.zeros(5, 6, dtype=torch.int16)]
    assert isinstance(collate([(image, mask) for mask in masks])[1], list)
    numbers = [torch.zeros(6), torch.ones(6)]
    assert torch.equal(collate([(image, row) for row in numbers])[1], torch.stack(numbers))
    assert collate([(image, 2), (image, 0)])[1].tolist() == [2, 0]


class Pictures(torch.utils.data.Dataset):
    classes = ("bolt", "nut")

    def __init__(self, target):
        self.target = target

    def __len__(self):
        return 1

    def __getitem__(self, index):
        return Image.new("L", (60, 40)), self.target


def prepared(target):
    shown = transform().pairs("detection", training=False)
    return Prepared(Pictures(target), shown, is_random=False, num_classes=2)[0][1].tolist()


def test_torchvisions_targets_are_taken_in_any_of_its_forms():
    boxes, expected = [[0, 0, 30, 20], [30, 10, 66, 40]], [[0, 0, 0.5, 0.5, 1, 0], [0.5, 0.25, 1, 1, 0, 0]]
    labels = torch.tensor([1, 0])
    assert prepared({"boxes": torch.tensor(boxes), "labels": labels, "image_id": 7}) == expected
    assert prepared({"boxes": np.array(boxes), "labels": labels.numpy()}) == expected
    sides = BoundingBoxes([[0, 0, 30, 20], [30, 10, 30, 30]], format="XYWH", canvas_size=(40, 60))
    assert prepared({"boxes": sides, "labels": labels}) == expected
    crowd = prepared({"boxes": torch.tensor(boxes), "labels": labels, "iscrowd": torch.tensor([0, 1])})
    assert [row[5] for row in crowd] == [0, 1]
    assert prepared({"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64)}) == []
    assert prepared(objects([(0, 0, 30, 20)])) == [expected[0][:4] + [0, 0]]


@pytest.mark.parametrize(
    ("target", "match"),
    [
        ([{"bbox": [1, 2, 3, 4]}], r"item 0 of the Pictures: expected \{'boxes'.*wrap_dataset_for_transforms_v2.*bbox"),
        ({"boxes": [[0, 0, 9, 9]], "image_id": 3}, r"expected \{'boxes'.*got \['boxes', 'image_id'\]"),
        ({"boxes": [0, 0, 9, 9], "labels": [0]}, r"got boxes of shape \(4,\)"),
        ({"boxes": [[0, 0, 0.5, 1]], "labels": [0]}, "look like fractions"),
        ({"boxes": [[0, 0, 9, 9]], "labels": [2]}, "whole numbers from 0 to 1.*got \\[2\\]"),
        ({"boxes": [[0, 0, 9, 9]], "labels": [-1]}, "from 0 to 1"),
        ({"boxes": [[0, 0, 9, 9]], "labels": [0.5]}, "from 0 to 1"),
        ({"boxes": [[9, 9, 0, 0]], "labels": [0]}, "boxes must have a width and a height"),
        ({"boxes": [[0, 0, np.nan, 9]], "labels": [0]}, "boxes must lie in the picture of 60 x 40"),
        ({"boxes": [[0, 0, 9, 9]], "labels": [0, 1]}, r"boxes: expected float32 of shape \(2, 4\)"),
    ],
)
def test_what_is_no_target_of_boxes_is_refused_with_its_place(target, match):
    with pytest.raises(DataError, match=match):
        prepared(target)


class Items(torch.utils.data.Dataset):
    """(image, target) with the targets as torchvision's own data sets list them."""

    def __init__(self, *items):
        self.items, self.targets = items, [target for _, target in items]

    def __len__(self):
        return len(self.items)

    def __getitem__(self, index):
        return self.items[index]


def model(classes=("bolt", "nut")):
    return SimpleNamespace(transform=transform(), task=SimpleNamespace(targets="detection", classes=classes))


def test_torch_data_sets_of_pictures_become_rows_whatever_they_list_themselves():
    items = [(Image.new("RGB", (60, 40)), {"boxes": [[0, 0, 30, 20]], "labels": [label]}) for label in (1, 2)]
    data = as_dataset(Items(items[0]), model(), training=True)
    assert torch.equal(Targets(data)[0], data[0][1]) and data[0][1].tolist() == [[0, 0, 0.5, 0.5, 1, 0]]
    with pytest.raises(DataError, match=r"item 1 of the Items: .*from 0 to 1 .*got \[2\]"):
        as_dataset(Items(*items), model(), training=True)[1]


def test_torch_data_sets_of_tensors_have_rows_or_are_refused():
    image, rows = torch.zeros(3, 24, 24), torch.tensor([[0, 0, 0.5, 0.5, 1, 0]])
    data = Items((image, rows))
    assert as_dataset(data, model(), training=False) is data
    for target in ({"boxes": rows[:, :4], "labels": rows[:, 4]}, rows.long(), rows[:, :5], 3):
        with pytest.raises(DataError, match=r"rows of a float32 tensor \(object, 6\).*; got "):
            as_dataset(Items((image, target)), model(), training=False)


def compute(images):
    return Features({block_output(1): images.flatten(1)})


def test_features_in_memory_keep_the_boxes_of_each_picture():
    data = dataset_of(THREE, transform(), training=True)
    kept = remember(data, compute, batch_size=2)
    assert [len(kept[i][1]) for i in range(3)] == [2, 0, 1]
    features, batch = kept.__getitems__([2, 0])
    assert batch.shape == (2, 2, 6) and all(map(torch.equal, map(unpadded, batch), (data[2][1], data[0][1])))
    same = remember(dataset_of(THREE.subset([2, 2]), transform(), training=True), compute)
    assert same.__getitems__([1, 0])[1].shape == (2, 1, 6)
    again = remember(data, compute, batch_size=2, num_workers=1)
    assert all(torch.equal(kept[i][1], again[i][1]) for i in range(3))


def test_a_store_finds_the_boxes_without_opening_a_picture(tmp_path):
    data = dataset_of(THREE, transform(), training=True)
    labels = targets_of(data, data)
    assert all(torch.equal(found, data[i][1]) for i, found in enumerate(labels)) and len(labels) == 3
    origin = Origin(
        weights="w",
        image_size=(24, 24),
        preprocessing="p",
        images=THREE.fingerprint(),
        need=Need({block_output(1)}),
        dtype="float32",
        codec="same",
        num_images=3,
        views=0,
        seed=0,
    )
    store = fill(tmp_path, origin, data, labels, data.classes, compute)
    features, batch = store.__getitems__([1, 2, 0])
    assert all(map(torch.equal, map(unpadded, batch), [data[i][1] for i in (1, 2, 0)])) and len(store[1][1]) == 0
    assert torch.equal(features.tensors()[0], torch.stack([data[i][0].flatten() for i in (1, 2, 0)]))


def test_views_have_the_boxes_of_their_own_cuts():
    views = Views(dataset_of(THREE, transform("scene"), training=True), 2, seed=0)
    kept, labels = remember(views, compute, num_views=2), targets_of(views.images, views)
    assert all(torch.equal(kept[i][1], labels[i]) for i in range(6)) and not torch.equal(labels[0], labels[3])


def test_targets_of_a_data_set_are_rows_wherever_they_are_found():
    data = dataset_of(THREE, transform("scene"), training=True)
    whole = [torch.from_numpy(target_of(found)) for found in THREE.labels]
    assert all(map(torch.equal, Targets(data), whole)) and Targets(data)[1].shape == (0, 6)


def test_digests_change_with_boxes_classes_and_what_is_aside():
    changes = [
        objects([(0, 0, 30, 20), (30, 10, 60, 39)], aside=[1]),
        objects([(0, 0, 30, 20), (30, 10, 60, 40)], aside=[0, 1]),
        objects([(0, 0, 30, 20), (30, 10, 60, 40)], aside=[1], labels=[0, 2]),
    ]
    others = [replace(THREE, labels=[changed, *THREE.labels[1:]]) for changed in changes]
    same = replace(THREE, labels=[objects([(0, 0, 30, 20), (30, 10, 60, 40)], aside=[1]), *THREE.labels[1:]])
    assert same.digest() == THREE.digest() and same.fingerprint() == THREE.fingerprint()
    assert len({s.digest() for s in (THREE, *others)}) == len({s.fingerprint() for s in (THREE, *others)}) == 4
