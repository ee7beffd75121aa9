"""Transforms, pixel by pixel as Pillow, torchvision and timm make them of the same pictures and the same chance."""

import random
from dataclasses import FrozenInstanceError

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from timm.data import create_transform
from torchvision import transforms as v1

from sidetune.data.geometry import Geometry, shortened
from sidetune.data.transforms import Transform

MEAN, STD = (0.1, 0.5, 0.9), (0.2, 0.25, 0.3)
BICUBIC = v1.InterpolationMode.BICUBIC


def transform(preset, size=(24, 32)):
    return Transform(preset=preset, image_size=size, mean=MEAN, std=STD)


def picture(width, height, seed=0):
    """Coarse noise: neither does resizing flatten it, nor does a shift by a pixel go unseen."""
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 256, (7, 9, 3)).astype(np.uint8))
    return coarse.resize((width, height), Image.Resampling.BILINEAR)


def normalised(image):
    pixels = np.asarray(image, np.float32).transpose(2, 0, 1) / 255
    mean, std = (np.float32(values)[:, None, None] for values in (MEAN, STD))
    return torch.from_numpy((pixels - mean) / std)


def middle(image, height, width):
    left, top = round((image.width - width) / 2), round((image.height - height) / 2)
    return image.crop((left, top, left + width, top + height))


def shorter_side_to(image, side):
    """As torchvision rounds: the longer side down."""
    width, height = image.size
    size = (side, side * height // width) if width <= height else (side * width // height, side)
    return image.resize(size, Image.Resampling.BICUBIC)


def same(ours, theirs):
    assert ours.shape == theirs.shape and ours.dtype == torch.float32
    assert (ours - theirs).abs().max() < 1e-5, "a grey level is worth more than 0.01"


SIZES = st.tuples(st.integers(8, 48), st.integers(8, 48))
PICTURES = st.builds(picture, st.integers(9, 90), st.integers(9, 90), st.integers(0, 99))


@given(image=PICTURES, size=SIZES)
def test_vtab_resizes_to_the_rectangle_and_does_nothing_else(image, size):
    expected = normalised(image.resize(size[::-1], Image.Resampling.BICUBIC))
    for preset in ("vtab", "vtab-flip"):
        same(transform(preset, size).evaluation()(image), expected)
    for preset in ("vtab", "vtab-crop"):
        same(transform(preset, size).training()(image), expected)


@given(image=PICTURES, size=SIZES)
def test_photo_keeps_the_shape_of_things_and_a_margin_of_an_eighth(image, size):
    larger = shorter_side_to(image, max(round(side * 256 / 224) for side in size))
    same(transform("photo", size).evaluation()(image), normalised(middle(larger, *size)))


@given(image=PICTURES, size=SIZES)
def test_few_shot_squeezes_before_it_takes_the_middle(image, size):
    height, width = (round(side * 256 / 224) for side in size)
    larger = image.resize((width, height), Image.Resampling.BICUBIC)
    same(transform("few-shot", size).evaluation()(image), normalised(middle(larger, *size)))


@given(image=PICTURES, side=st.integers(8, 48))
def test_vtab_crop_is_timms_evaluation_with_nine_tenths(image, side):
    timms = create_transform(
        side, interpolation="bicubic", crop_pct=0.9, crop_mode="center", mean=MEAN, std=STD, normalize=True
    )
    same(transform("vtab-crop", (side, side)).evaluation()(image), timms(image))


@pytest.mark.parametrize("size", [(224, 160), (160, 224)])
def test_vtab_crop_follows_the_larger_side(size):
    image = picture(300, 260)
    larger = shorter_side_to(image, 248)  # 224 / 0.9, rounded down
    same(transform("vtab-crop", size).evaluation()(image), normalised(middle(larger, *size)))


@pytest.mark.parametrize(("preset", "mode"), [("photo", "center"), ("few-shot", "squash")])
@pytest.mark.parametrize("shape", [(300, 260), (200, 320)])
def test_224_pixels_are_evaluated_as_timm_does(preset, mode, shape):
    image = picture(*shape)
    timms = create_transform(224, interpolation="bicubic", crop_pct=224 / 256, crop_mode=mode, mean=MEAN, std=STD)
    same(transform(preset, (224, 224)).evaluation()(image), timms(image))


def chance(seed):
    torch.manual_seed(seed)
    random.seed(seed)
    np.random.seed(seed)


@pytest.mark.parametrize("seed", range(6))
def test_photo_trains_on_torchvisions_crops_and_flips(seed):
    image = picture(70, 50)
    theirs = v1.Compose([v1.RandomResizedCrop((24, 32), interpolation=BICUBIC), v1.RandomHorizontalFlip()])
    chance(seed)
    expected = normalised(theirs(image))
    chance(seed)
    same(transform("photo").training()(image), expected)


def test_vtab_flip_flips_every_second_picture():
    image = picture(70, 50)
    plain = normalised(image.resize((32, 24), Image.Resampling.BICUBIC))
    training = transform("vtab-flip").training()
    for seed in range(6):
        chance(seed)
        flipped = v1.RandomHorizontalFlip()(plain)
        chance(seed)
        same(training(image), flipped)


@pytest.mark.parametrize("seed", range(12))
def test_few_shot_adds_the_randaugment_that_timm_makes_of_magnitude_9(seed):
    """Two of its changes a picture; twelve seeds draw every kind that fills with the mean."""
    image = picture(70, 50)
    crops = v1.Compose([v1.RandomResizedCrop((24, 32), interpolation=BICUBIC), v1.RandomHorizontalFlip()])
    _, randaugment, to_tensor = create_transform(
        (24, 32), is_training=True, auto_augment="rand-m9-mstd0.5-inc1", interpolation="random", separate=True,
        mean=MEAN, std=STD,
    )  # fmt: skip
    chance(seed)
    expected = to_tensor(randaugment(crops(image)))
    chance(seed)
    same(transform("few-shot").training()(image), expected)


def test_what_randaugment_leaves_empty_is_the_mean():
    """White pictures turned and shifted: what that uncovers is (26, 128, 230), 255 times the mean."""
    crop, flip, randaugment, *_ = transform("few-shot").training().transforms
    seen = set()
    for seed in range(40):
        chance(seed)
        pixels = np.asarray(randaugment(flip(crop(Image.new("RGB", (40, 40), (255, 255, 255))))))
        seen |= set(map(tuple, pixels.reshape(-1, 3).tolist()))
    assert (26, 128, 230) in seen


def test_the_largest_magnitude_that_chance_can_draw_is_survived_by_every_change(monkeypatch):
    monkeypatch.setattr(random, "gauss", lambda mean, std: mean + 4 * std)
    randaugment = transform("few-shot").training().transforms[2]
    assert len(randaugment.ops) == 15
    for change in randaugment.ops:
        change.prob = 1
        assert change(picture(20, 20)).size == (20, 20)


def test_pictures_with_chance_in_their_transform_differ_from_epoch_to_epoch():
    random_ones = {
        preset for preset in ("vtab", "vtab-flip", "vtab-crop", "photo", "few-shot") if transform(preset).is_random
    }
    assert random_ones == {"vtab-flip", "photo", "few-shot"}


@pytest.mark.parametrize("preset", ["vtab", "vtab-flip", "vtab-crop", "photo", "few-shot"])
def test_what_is_seen_can_be_cut_out_first_and_become_numbers_later(preset):
    image, chosen = picture(70, 50), transform(preset)
    seen = chosen.geometry()(image)
    assert seen.size == (32, 24)
    same(chosen.to_tensor()(seen), normalised(seen))
    assert torch.equal(chosen.to_tensor()(seen), chosen.evaluation()(image))


def test_transforms_are_values_that_cannot_change():
    assert len({transform("vtab"), transform("vtab"), transform("photo")}) == 2
    with pytest.raises(FrozenInstanceError, match="preset"):
        transform("vtab").preset = "photo"
    with pytest.raises(FrozenInstanceError, match="size"):
        transform("vtab").geometry().size = (1, 1)
    for kind, values in ((Transform, ("vtab", (24, 32), MEAN, STD)), (Geometry, ((24, 32), 37))):
        with pytest.raises(TypeError, match="positional"):
            kind(*values)


@given(long=st.integers(1, 4000), short=st.integers(1, 40), upright=st.booleans())
def test_of_a_strip_the_middle_twenty_squares_are_kept(long, short, upright):
    long = max(long, short)
    along = (np.arange(long) % 251).astype(np.uint8)
    pixels = np.broadcast_to(along[:, None] if upright else along, (long, short) if upright else (short, long))
    kept = np.asarray(shortened(Image.fromarray(np.ascontiguousarray(pixels))))
    expected = min(long, 20 * short)
    first = (long - expected) // 2
    assert kept.shape == ((expected, short) if upright else (short, expected))
    assert np.array_equal(kept[:, 0] if upright else kept[0], along[first : first + expected])


@pytest.mark.parametrize("preset", ["photo", "vtab-crop"])
@pytest.mark.parametrize("size", [(1, 5000), (5000, 1), (3, 61), (61, 3)])
def test_a_strip_becomes_no_larger_than_twenty_squares_and_shows_its_middle(preset, size, monkeypatch):
    width, height = size
    along = np.linspace(0, 255, max(size)).astype(np.uint8)
    pixels = np.broadcast_to(along[None, :] if width > height else along[:, None], (height, width))
    prepare = transform(preset).evaluation()
    enlarged, resize = [], Image.Image.resize
    monkeypatch.setattr(Image.Image, "resize", lambda *a: enlarged.append(resize(*a)) or enlarged[-1])
    tensor = prepare(Image.fromarray(pixels).convert("RGB"))
    assert tensor.shape == (3, 24, 32)
    assert min(enlarged[0].size) <= 37 and max(enlarged[0].size) <= 20 * 37
    grey = tensor * torch.tensor(STD)[:, None, None] + torch.tensor(MEAN)[:, None, None]
    assert grey.mean().item() == pytest.approx(0.5, abs=0.025), "the middle of black to white is grey"


def test_pictures_that_are_no_strips_are_left_as_they_are():
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 255, (3, 60, 3)).astype(np.uint8))
    assert shortened(picture) is picture


def test_unknown_transforms_list_the_known_ones():
    with pytest.raises(ValueError, match="known: vtab, vtab-flip, vtab-crop, photo, few-shot"):
        transform("imagenet")
