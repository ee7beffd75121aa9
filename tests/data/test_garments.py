"""Scenes that are made up: the same for a seed, true to the pixel, of a part's own garments."""

import numpy as np

from sidetune.data.garments import GARMENTS, SIDES, scene, scenes
from sidetune.data.samples import Samples


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
    found = [scene(rng, garments().images, garments().labels) for _ in range(40)]
    both = [(p, c) for p, c in found if {1, 2} <= set(np.unique(c))]
    assert both, "some scenes have both"
    for picture, classes in both:
        assert np.median(picture[classes == 1]) > np.median(picture[classes == 2])
