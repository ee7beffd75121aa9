"""Scenes that are made up: the same for a seed, true to the pixel, of a part's own garments."""

import numpy as np

from sidetune.data.garments import GARMENTS, SEEN, SIDES, garment_splits, mask_of, objects_of, scene, scenes
from sidetune.data.named import NAMED
from sidetune.data.samples import Samples, Splits


def garments():
    """Two kinds: a bright square, and a dim one."""
    images = np.zeros((4, 28, 28), np.uint8)
    images[:2, 8:20, 8:20], images[2:, 8:20, 8:20] = 250, 120
    return Samples(images=images, labels=[0, 0, 1, 1], classes=("bright", "dim"))


def test_a_seed_makes_its_scenes_and_another_others():
    first, again, other = (scenes(garments(), 3, seed) for seed in (1, 1, 2))
    assert np.array_equal(first.images, again.images) and first.digest() == again.digest()
    assert first.digest() != other.digest() and first.classes == ("background", "bright", "dim")
    assert first.task == "segmentation" and first.images.shape == (3, 112, 112)


def test_masks_say_where_garments_lie():
    made = scenes(garments(), 30, 0)
    kinds = [set(np.unique(mask)) for mask in made.labels]
    assert all(0 in k for k in kinds) and set().union(*kinds) == {0, 1, 2}
    bright = np.concatenate([i[m == 1] for i, m in zip(made.images, made.labels, strict=True)])
    dim = np.concatenate([i[m == 2] for i, m in zip(made.images, made.labels, strict=True)])
    assert np.median(bright) > 230 and 100 < np.median(dim) < 140
    shares = [float((mask > 0).mean()) for mask in made.labels]
    least, most = (12 / 28 * SIDES[0]) ** 2 / 112**2, GARMENTS[1] * (14 / 28 * SIDES[1]) ** 2 / 112**2
    assert 0.8 * least < min(shares) and max(shares) < most


def test_a_digest_tells_masks_apart_that_lie_in_memory():
    made = scenes(garments(), 2, 0)
    changed = Samples(images=made.images, labels=[m.copy() for m in made.labels], classes=made.classes, task=made.task)
    assert changed.digest() == made.digest() and changed.fingerprint() == made.fingerprint()
    changed.labels[1][0, 0] = 2
    assert changed.digest() != made.digest() and changed.fingerprint() != made.fingerprint()


def test_what_comes_later_lies_above():
    rng = np.random.default_rng(3)
    drawn = [scene(rng, garments().images) for _ in range(40)]
    found = [(picture, mask_of(owners, laid, garments().labels)) for picture, owners, laid in drawn]
    both = [(p, c) for p, c in found if {1, 2} <= set(np.unique(c))]
    assert both, "some scenes have both"
    for picture, classes in both:
        assert np.median(picture[classes == 1]) > np.median(picture[classes == 2])


def test_boxes_are_of_the_same_scenes_and_as_a_seed_makes_them():
    masks, boxes, again = scenes(garments(), 5, 1), *(scenes(garments(), 5, 1, boxes=True) for _ in range(2))
    assert np.array_equal(masks.images, boxes.images) and boxes.digest() == again.digest() != masks.digest()
    assert boxes.task == "detection" and boxes.classes == ("bright", "dim") == masks.classes[1:]


def test_boxes_lie_around_what_is_seen_of_each_garment():
    made, rng = scenes(garments(), 60, 2, boxes=True), np.random.default_rng(2)
    counts = []
    for found in made.labels:
        _, owners, laid = scene(rng, garments().images)
        seen = [(owners == number).sum() for number in range(1, len(laid) + 1)]
        assert len(found) == sum(map(bool, seen))
        counts.append((len(laid), int(found.aside.sum())))
        numbers = [number for number, pixels in enumerate(seen, start=1) if pixels]
        for number, (x1, y1, x2, y2), label, aside in zip(
            numbers, found.boxes.astype(int), found.labels, found.aside, strict=True
        ):
            own = owners == number
            assert own.sum() == own[y1:y2, x1:x2].sum() and own[y1].any() and own[y2 - 1].any()
            assert own[:, x1].any() and own[:, x2 - 1].any()
            chosen, whole = laid[number - 1]
            assert label == garments().labels[chosen] and aside == (own.sum() < SEEN * whole)
    assert {laid for laid, _ in counts} == {1, 2, 3} and sum(aside for _, aside in counts) > 0


def test_a_garment_that_others_cover_is_no_object():
    owners = np.zeros((8, 8), np.int16)
    owners[2:4, 3:7] = 2
    found = objects_of(owners, [(0, 50), (2, 8)], garments().labels)
    assert found.boxes.tolist() == [[3, 2, 7, 4]] and found.labels.tolist() == [1] and not found.aside.any()


def test_splits_of_boxes_are_named_and_have_their_own_seeds(monkeypatch):
    monkeypatch.setattr("sidetune.data.garments.SCENES", {"train": 3, "val": 2, "test": 2})
    splits = garment_splits(Splits(name="g", train=garments(), val=garments(), test=None), boxes=True)
    assert splits.name == "garment-boxes" and splits.test is None and "garment-boxes" in NAMED
    assert not np.array_equal(splits.train.images[:2], splits.val.images)
