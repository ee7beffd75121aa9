"""What `predict` takes for a picture: the same pixels in any form are the same picture."""

import numpy as np
import pytest
import torch
from PIL import Image

from sidetune.data.pictures import all_of, as_rgb, is_one
from sidetune.data.reading import Reading

PIXELS = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)


def rgb(picture, **how):
    image = as_rgb(picture, Reading(**how))
    assert image.mode == "RGB"
    return np.asarray(image)


def test_the_same_pixels_in_every_form(tmp_path):
    Image.fromarray(PIXELS).save(tmp_path / "a.png")
    planes = torch.from_numpy(PIXELS).movedim(-1, 0)
    forms = [
        tmp_path / "a.png",
        str(tmp_path / "a.png"),
        Image.fromarray(PIXELS),
        PIXELS,
        PIXELS[:, ::-1][:, ::-1],
        PIXELS / 255,
        (PIXELS / 255).astype(np.float32),
        planes,
        planes.float() / 255,
        (planes.double() / 255).requires_grad_(),
    ]
    for form in forms:
        assert np.array_equal(rgb(form), PIXELS)


def test_grey_values(tmp_path):
    grey = PIXELS[..., 0]
    expected = np.repeat(grey[..., None], 3, axis=2)
    for form in (grey, grey[..., None], torch.from_numpy(grey)[None], grey / 255):
        assert np.array_equal(rgb(form), expected)
    assert rgb(np.array([[0, 4095]], np.uint16))[0, :, 0].tolist() == [0, 255]
    assert rgb(np.array([[0, 4095]], np.uint16), levels=(0, 8190))[0, :, 0].tolist() == [0, 128]
    assert rgb(np.array([[290.0, 310.0]]), levels=(290, 310))[0, :, 0].tolist() == [0, 255]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (PIXELS.astype(np.float32), "floating-point pixels are in 0..1, these are 0 to 2.*model"),
        (torch.randn(3, 4, 4), "floating-point pixels are in 0..1"),
        (np.full((4, 4), np.nan), "floating-point pixels are in 0..1"),
        (PIXELS.astype(np.int64), "colours are uint8, or floating-point numbers in 0..1, got int64"),
        (np.zeros((4, 4, 4), np.uint8), r"shape \(height, width\) or \(height, width, 3\), got \(4, 4, 4\)"),
        (np.zeros((0, 4), np.uint8), "got .0, 4"),
        (np.array([["a"]]), "got"),
        (torch.zeros(4, 4), r"a tensor is a picture of shape \(3, height, width\), got \(4, 4\)"),
        (b"bytes", "a picture is a file's path, .*; got a bytes"),
    ],
)
def test_what_is_no_picture_says_what_one_is(given, message):
    with pytest.raises(ValueError, match=message):
        as_rgb(given, Reading())


def test_one_and_several():
    assert all(is_one(given) for given in ("a.jpg", PIXELS, torch.zeros(3, 4, 4), Image.new("L", (1, 1))))
    batch = np.stack([PIXELS, PIXELS])
    assert not is_one(batch) and len(all_of(batch)) == 2 and np.array_equal(rgb(all_of(batch)[1]), PIXELS)
    assert not is_one(["a.jpg"]) and all_of(["a.jpg"]) == ["a.jpg"] and all_of("a.jpg") == ["a.jpg"]
    with pytest.raises(ValueError, match="a picture is .*; got a int"):
        all_of(3)
