"""Whatever a camera, a scanner or a browser writes becomes an upright 8-bit RGB picture."""

import struct

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from sidetune.data.images import open_image
from sidetune.data.reading import Reading
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


def exif(*entries):
    """A block of EXIF with these entries as bytes."""
    head = b"Exif\0\0II*\0\x08\0\0\0"
    return head + struct.pack("<H", len(entries)) + b"".join(entries) + b"\0\0\0\0"


SIX = struct.pack("<HHIHH", 0x112, 3, 1, 6, 0)


@pytest.mark.parametrize(
    ("block", "is_turned"),
    [
        (exif(SIX), True),
        (exif(struct.pack("<HHI", 0x100, 2, 4) + b"640\0", SIX), True),  # a width in letters
        (exif(SIX, struct.pack("<HHIi", 0x11A, 9, 1, -5)), True),  # a resolution below 0
        (exif(struct.pack("<HHI", 0x112, 2, 2) + b"6\0\0\0"), False),  # an orientation in letters
        (exif(struct.pack("<HHIHH", 0x112, 3, 1, 9, 0)), False),
        (exif(struct.pack("<HHIHH", 0x112, 3, 9, 6, 0)), False),  # points beyond the block
        (exif(struct.pack("<HHII", 0x112, 77, 1, 6)), False),
        (b"Exif\0\0II*\0\xff\xff\xff\x7f", False),
        (b"Exif\0\0", False),
    ],
)
def test_exif_of_any_kind_leaves_the_pixels_as_they_are(tmp_path, block, is_turned):
    path = saved(Image.new("RGB", (8, 4), RED), tmp_path / "a.jpg", exif=block, quality=100)
    assert open_image(path).size == ((4, 8) if is_turned else (8, 4))


def test_any_exception_of_a_decoder_names_the_file(tmp_path, monkeypatch):
    path = saved(Image.new("RGB", (8, 4)), tmp_path / "odd.png")

    def fail(self):
        raise KeyError("a decoder's slip")

    monkeypatch.setattr(PngImagePlugin.PngImageFile, "load", fail)
    with pytest.raises(DataError, match="odd.png is damaged or cannot be read: .*a decoder's slip"):
        open_image(path)


def test_jfif_and_avif_are_read(tmp_path):
    assert pixel(saved(Image.new("RGB", (8, 8), RED), tmp_path / "a.jfif", format="JPEG", quality=100))[0] > 190
    assert pixel(saved(Image.new("RGB", (8, 8), RED), tmp_path / "a.avif", quality=100))[0] > 190


def test_how_many_pixels_a_picture_may_have_is_a_choice(tmp_path, monkeypatch):
    path = saved(Image.new("L", (64, 64)), tmp_path / "a.png")
    with pytest.raises(DataError, match=r"a.png has too many pixels \(64 x 64\), at most 4,095 are read"):
        open_image(path, Reading(max_pixels=4095))
    assert open_image(path, Reading(max_pixels=4096)).size == (64, 64)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    assert open_image(path, Reading(max_pixels=4096)).size == (64, 64), "Pillow's own bound is raised"
    with pytest.raises(ValueError, match="max_pixels must be at least 1"):
        Reading(max_pixels=0)


def test_telephones_of_108_megapixels_are_below_the_bound():
    assert 2 * Image.MAX_IMAGE_PIXELS > 12_000 * 9_000


def test_decompression_bombs_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    with pytest.raises(DataError, match="too many pixels"):
        open_image(saved(Image.new("L", (64, 64)), tmp_path / "a.png"))
