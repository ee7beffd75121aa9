"""The data sets that come with the library."""

import numpy as np
import pytest

from sidetune.data.dataset import ImageDataset
from sidetune.data.sources import read_data
from sidetune.data.sprites import draw, sprites
from sidetune.data.transforms import Transform


def test_fashion_1k_has_vtabs_form():
    final = read_data("fashion-1k")
    assert {part: len(s) for part, s in final.parts().items()} == {"train": 1000, "test": 2000}
    splits = read_data("fashion-1k", tune=True)
    assert [len(s) for s in splits.parts().values()] == [800, 200, 2000]
    assert np.array_equal(final.train.images[800:], splits.val.images) and final.train.labels[800:] == splits.val.labels
    assert splits.train.classes[0] == "T-shirt" and len(splits.train.classes) == 10
    assert all(set(s.labels) == set(range(10)) for s in splits.parts().values())
    hashes = [{image.tobytes() for image in s.images} for s in splits.parts().values()]
    assert not hashes[0] & hashes[2] and not hashes[1] & hashes[2]


@pytest.mark.parametrize("factor", ["location", "orientation"])
def test_sprites_are_decided_by_their_seed(factor):
    first, again, other = sprites(factor, 40, seed=1), sprites(factor, 40, seed=1), sprites(factor, 40, seed=2)
    assert np.array_equal(first.images, again.images) and first.labels == again.labels
    assert not np.array_equal(first.images, other.images)
    assert len(first.classes) == 16 and set(np.unique(first.images)) == {0, 255}


def test_the_location_is_the_bin_of_x():
    samples = sprites("location", 200, seed=0)
    centres = [np.nonzero(image)[1].mean() for image in samples.images]
    means = [np.mean([c for c, label in zip(centres, samples.labels, strict=True) if label == b]) for b in range(16)]
    assert np.all(np.diff(means) > 1)


def test_sprites_turn_and_stay_inside_the_picture():
    for shape in ("square", "ellipse", "heart"):
        whole = np.count_nonzero(draw(shape, 1.0, 0.7, 0.5, 0.5))
        for x in (0.0, 1.0):
            assert np.count_nonzero(draw(shape, 1.0, 0.7, x, x)) == pytest.approx(whole, rel=0.03)
    assert not np.array_equal(draw("heart", 1.0, 0, 0.5, 0.5), draw("heart", 1.0, np.pi, 0.5, 0.5))


def test_a_dataset_gives_image_and_label(samples):
    transform = Transform(preset="vtab", image_size=(24, 32), mean=(0.5,) * 3, std=(0.25,) * 3)
    dataset = ImageDataset(samples, transform.evaluation(), is_random=False)
    image, label = dataset[4]
    assert image.shape == (3, 24, 32) and label == 1 and len(dataset) == 48
