"""Whatever a camera, a scanner or a browser writes becomes an upright 8-bit RGB picture."""

import numpy as np
import pytest
from PIL import Image

from sidetune.data.images import open_image
from sidetune.errors import DataError

RED = (200, 30, 40)


def saved(image, path, **how):
    image.save(path, **how)
    return path


def pixel(path):
    image = open_image(path)
    assert image.mode == "RGB"
    return np.asarray(image)[0, 0].tolist()


def test_grey_and_bilevel_images(tmp_path):
    assert pixel(saved(Image.new("L", (4, 4), 77), tmp_path / "a.png")) == [77] * 3
    assert pixel(saved(Image.new("1", (4, 4), 1), tmp_path / "b.png")) == [255] * 3


def test_sixteen_bits_are_scaled_to_eight(tmp_path):
    pixels = np.full((4, 4), 128 * 257, np.uint16)
    assert pixel(saved(Image.fromarray(pixels), tmp_path / "a.png")) == [128] * 3
    assert pixel(saved(Image.fromarray(pixels), tmp_path / "b.tiff")) == [128] * 3
    assert pixel(saved(Image.fromarray(pixels.astype(np.int32), mode=None), tmp_path / "c.tiff")) == [128] * 3


def test_palettes_and_cmyk(tmp_path):
    assert pixel(saved(Image.new("RGB", (4, 4), RED).convert("P"), tmp_path / "a.gif"))[0] > 150
    cmyk = Image.new("CMYK", (8, 8), (0, 255, 255, 0))
    red, green, blue = pixel(saved(cmyk, tmp_path / "b.jpg", quality=100))
    assert red > 240 and green < 15 and blue < 15


def test_alpha_lies_over_white(tmp_path):
    assert pixel(saved(Image.new("RGBA", (4, 4), (0, 0, 0, 0)), tmp_path / "a.png")) == [255] * 3
    assert pixel(saved(Image.new("RGBA", (4, 4), (*RED, 255)), tmp_path / "b.png")) == list(RED)
    assert pixel(saved(Image.new("LA", (4, 4), (0, 0)), tmp_path / "c.png")) == [255] * 3
    palette = Image.new("P", (4, 4), 0)
    palette.putpalette([0, 0, 0] * 256)
    assert pixel(saved(palette, tmp_path / "d.png", transparency=0)) == [255] * 3


def test_photographs_are_turned_upright(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees
    picture = Image.new("RGB", (8, 4))
    picture.paste(RED, (0, 0, 4, 4))
    upright = open_image(saved(picture, tmp_path / "a.png", exif=exif))
    assert upright.size == (4, 8)
    assert upright.getpixel((0, 0)) == RED and upright.getpixel((0, 7)) == (0, 0, 0)


def test_names_with_spaces_and_other_scripts(tmp_path):
    assert pixel(saved(Image.new("RGB", (4, 4), RED), tmp_path / "Käse und 猫 .PNG", format="PNG")) == list(RED)


def damaged(tmp_path, what):
    path = tmp_path / f"{what}.png"
    rng = np.random.default_rng(0)
    match what:
        case "text":
            path.write_text("not an image")
        case "empty":
            path.write_bytes(b"")
        case "truncated":
            Image.fromarray(rng.integers(0, 255, (64, 64, 3)).astype(np.uint8)).save(path)
            path.write_bytes(path.read_bytes()[:2000])
        case "float":
            path = tmp_path / "float.tiff"
            Image.fromarray(np.zeros((4, 4), np.float32)).save(path)
    return path


@pytest.mark.parametrize("what", ["text", "empty", "truncated", "float", "missing"])
def test_what_cannot_be_read_is_named(tmp_path, what):
    path = damaged(tmp_path, what)
    with pytest.raises(DataError, match=what):
        open_image(path)


def test_decompression_bombs_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    with pytest.raises(DataError, match="too many pixels"):
        open_image(saved(Image.new("L", (64, 64)), tmp_path / "a.png"))
