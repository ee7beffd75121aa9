"""Pictures and masks are cut, enlarged and turned as one."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from sidetune.data.cutmasks import is_one_class, taken
from sidetune.data.cuts import seen
from sidetune.data.dataset import Prepared, collate
from sidetune.data.masks import IGNORED
from sidetune.data.paired import Paired
from sidetune.data.transforms import Transform, preset_for

COLOURS = np.array([[250, 20, 20], [20, 250, 20], [20, 20, 250]], np.uint8)


def to_tensor(picture):
    return torch.from_numpy(np.array(picture)).movedim(-1, 0)


def scene(height, width):
    """A picture whose colour says the class of each pixel: three upright stripes."""
    mask = np.broadcast_to(np.arange(width) * 3 // width, (height, width)).astype(np.int16)
    return Image.fromarray(COLOURS[mask]), mask


def agreement(image, mask):
    """Of pixels with a class, the share that have its colour more than the other two."""
    known = mask != IGNORED
    return float((image.float().argmax(0) == mask)[known].float().mean())


@given(st.integers(20, 90), st.integers(20, 90), st.integers(0, 2**31))
def test_what_is_cut_of_a_picture_is_cut_of_its_mask(height, width, seed):
    picture, mask = scene(height, width)
    torch.manual_seed(seed)
    shown = Paired(size=(48, 32), to_tensor=to_tensor)
    box = shown.box(picture, mask)
    image, cut = to_tensor(seen(picture, box, shown.size)), torch.from_numpy(taken(mask, box, shown.size))
    assert image.shape == (3, 48, 32) and cut.shape == (48, 32)
    assert agreement(image, cut) > 0.85, "all but the borders, where colours mix"
    outside = (cut == IGNORED).nonzero()
    assert all(
        abs(int(c) - g) <= 130 for r, k in outside[:3] for c, g in zip(image[:, r, k], (124, 116, 104), strict=True)
    )


def test_a_cut_is_as_large_as_its_scale_says_and_leaves_the_rest_grey_and_ignored():
    picture, mask = scene(40, 40)
    box = (-20.0, 0.0, 20.0, 40.0)  # the left half outside
    image, cut = to_tensor(seen(picture, box, (40, 40))), taken(mask, box, (40, 40))
    assert (cut[:, :20] == IGNORED).all() and np.array_equal(cut[:, 20:], mask[:, :20])
    assert image[:, 5, 5].tolist() == [124, 116, 104] and image[:, 5, 22].tolist() == COLOURS[0].tolist()


@pytest.mark.parametrize("training", [True, False])
def test_outside_of_cuts_the_whole_is_squeezed_and_only_training_squeezes_the_mask(training):
    picture, mask = scene(30, 60)
    shown = Transform(preset="vtab", image_size=(24, 24), mean=(0.5,) * 3, std=(0.5,) * 3).pairs(training=training)
    image, labels = shown(picture, mask)
    assert image.shape == (3, 24, 24) and labels.dtype == torch.int16
    assert labels.shape == ((24, 24) if training else (30, 60))
    assert labels[0, [0, -1]].tolist() == [0, 2]


def test_flips_turn_both_and_happen_every_other_time():
    picture, mask = scene(24, 24)
    shown = Paired(size=(24, 24), flip=True, to_tensor=to_tensor)
    torch.manual_seed(0)
    turned = [shown(picture, mask) for _ in range(200)]
    assert all(agreement(image, labels) > 0.95 for image, labels in turned)
    assert 70 < sum(int(labels[0, 0]) == 2 for _, labels in turned) < 130


def test_cuts_show_pictures_at_half_to_twice_the_size_and_are_moved_off_a_single_class():
    picture, mask = scene(64, 64)
    torch.manual_seed(0)
    boxes = [Paired(size=(64, 64), to_tensor=to_tensor).box(picture, mask) for _ in range(300)]
    scales = [64 / (right - left) for left, _, right, _ in boxes]
    assert 0.5 <= min(scales) < 0.6 and 1.9 < max(scales) <= 2
    assert all(b[2] - b[0] == pytest.approx(b[3] - b[1]) for b in boxes)
    single = sum(is_one_class(taken(mask, box, (64, 64))) for box in boxes)
    assert single == 0, "ten tries always find a second class here"
    assert is_one_class(np.full((4, 4), IGNORED)) and is_one_class(np.array([[0] * 4 + [1]]))
    assert not is_one_class(np.array([[0] * 3 + [1]]))


def test_pictures_with_masks_of_any_torch_data_set_are_shown_as_ones_own_are():
    """torchvision's data sets give masks as PIL pictures in which 255 is the edge of an object."""
    picture, mask = scene(24, 24)
    edged = mask.astype(np.uint8)
    edged[0] = 255
    pictures = [(picture, Image.fromarray(edged))]
    transform = Transform(preset="vtab", image_size=(24, 24), mean=(0.5,) * 3, std=(0.5,) * 3)
    image, labels = Prepared(pictures, transform.pairs(training=False), is_random=False)[0]
    assert (labels[0] == IGNORED).all() and np.array_equal(labels[1:], mask[1:]) and image.shape == (3, 24, 24)


def test_masks_of_several_sizes_make_a_list_and_of_one_a_tensor():
    image = torch.zeros(3, 4, 4)
    small, large = torch.zeros(4, 4, dtype=torch.int16), torch.zeros(5, 4, dtype=torch.int16)
    images, targets = collate([(image, small), (image, large)])
    assert images.shape == (2, 3, 4, 4) and [t.shape for t in targets] == [(4, 4), (5, 4)]
    assert collate([(image, small), (image, small)])[1].shape == (2, 4, 4)


def test_each_kind_of_target_has_presets_that_serve_it():
    assert preset_for("segmentation") == "scene" and preset_for("classification") == "photo"
    assert preset_for("segmentation", "vtab") == "vtab"
    with pytest.raises(
        ValueError, match="'few-shot' does not serve segmentation; those that do: vtab, vtab-flip, scene"
    ):
        preset_for("segmentation", "few-shot")
