"""Pixels of any depth become 8 bits by one rule; the expected values are the rule's, computed by hand."""

import struct
import zlib

import numpy as np
import pytest
from PIL import Image, TiffImagePlugin

from sidetune.data.check import check_images
from sidetune.data.images import open_image, read_image
from sidetune.data.reading import Reading
from sidetune.data.samples import Samples
from sidetune.errors import DataError, DataWarning


def saved(path, values, **how):
    Image.fromarray(np.asarray(values)).save(path, **how)
    return path


def grey(path, **how):
    pixels = np.asarray(open_image(path, Reading(**how)))
    assert (
        pixels.dtype == np.uint8
        and (pixels[..., 0] == pixels[..., 1]).all()
        and (pixels[..., 0] == pixels[..., 2]).all()
    )
    return pixels[..., 0].ravel().tolist()


@pytest.mark.parametrize("suffix", ["png", "tif"])
@pytest.mark.parametrize("bits", [8, 10, 12, 14, 16])
def test_whole_numbers_go_to_the_end_of_the_bits_they_use(tmp_path, bits, suffix):
    white = 2**bits - 1
    path = saved(tmp_path / f"a.{suffix}", np.array([[0, white // 2, white]], np.uint16))
    assert grey(path) == [0, 127, 255]


def test_a_dark_picture_of_few_bits_is_not_stretched_further(tmp_path):
    assert grey(saved(tmp_path / "a.png", np.array([[0, 600]], np.uint16))) == [0, round(600 * 255 / 1023)]
    assert grey(saved(tmp_path / "b.png", np.array([[0, 0]], np.uint16))) == [0, 0]


def tiff(path, values, **tags):
    info = TiffImagePlugin.ImageFileDirectory_v2()
    for number, value in tags.items():
        info[int(number[1:])] = value
    return saved(path, values, tiffinfo=info)


def test_what_a_tiff_says_of_its_range_counts(tmp_path):
    dark = np.array([[0, 900]], np.uint16)
    assert grey(saved(tmp_path / "a.tif", dark)) == [0, round(900 * 255 / 1023)]
    assert grey(tiff(tmp_path / "b.tif", dark, t281=4095)) == [0, round(900 * 255 / 4095)]
    assert grey(tiff(tmp_path / "c.tif", dark, t341=3000)) == [0, round(900 * 255 / 4095)], "3,000 needs 12 bits"
    assert grey(tiff(tmp_path / "d.tif", dark, t281=65535)) == [0, round(900 * 255 / 1023)], "says nothing"


def test_signed_numbers_begin_at_the_smallest(tmp_path):
    path = saved(tmp_path / "a.tif", np.array([[-1024, 0, 4095]], np.int32))
    assert grey(path) == [0, round(1024 * 255 / 5119), 255]


def test_numbers_beyond_sixteen_bits_end_at_the_largest(tmp_path):
    assert grey(saved(tmp_path / "a.tif", np.array([[0, 50_000, 100_000]], np.int32))) == [0, 128, 255]
    high = np.array([[0, 2**31, 2**32 - 1]], np.uint32)
    path = saved(tmp_path / "b.tif", high.view(np.int32))
    signed, unsigned = (struct.pack("<HHIHH", 339, 3, 1, kind, 0) for kind in (2, 1))
    assert signed in path.read_bytes()
    path.write_bytes(path.read_bytes().replace(signed, unsigned))
    assert grey(path) == [0, 128, 255]


def test_floating_point_numbers_go_from_the_smallest_to_the_largest(tmp_path):
    path = saved(tmp_path / "a.tif", np.array([[290.0, 300.0, 310.0]], np.float32))
    assert grey(path) == [0, 128, 255]
    path = saved(tmp_path / "b.tif", np.array([[np.nan, 0.0, 1.0, np.inf, -np.inf]], np.float32))
    assert grey(path) == [0, 0, 255, 255, 0]
    for name, value in (("c.tif", 0.25), ("d.tif", np.nan)):
        with pytest.raises(DataError, match=f"{name} .* all equal, so that they have no range"):
            open_image(saved(tmp_path / name, np.full((4, 4), value, np.float32)))


def test_levels_said_once_hold_for_every_picture(tmp_path):
    thermal = saved(tmp_path / "a.png", np.array([[29_000, 30_000, 31_000, 40_000, 0]], np.uint16))
    assert grey(thermal, levels=(29_000, 31_000)) == [0, 128, 255, 255, 0]
    assert grey(saved(tmp_path / "b.tif", np.full((1, 1), 0.5, np.float32)), levels=(0, 1)) == [128]
    with pytest.raises(ValueError, match="black below white"):
        Reading(levels=(5, 5))


def test_a_tiffs_fourth_band_is_dropped_and_a_pngs_is_alpha(tmp_path):
    bands = Image.merge("RGBA", [Image.new("L", (1, 1), v) for v in (10, 20, 30, 0)])
    bands.save(tmp_path / "a.tif")
    bands.save(tmp_path / "a.png")
    Image.merge("LA", [Image.new("L", (1, 1), v) for v in (77, 0)]).save(tmp_path / "b.tif")
    assert open_image(tmp_path / "a.tif").getpixel((0, 0)) == (10, 20, 30)
    assert open_image(tmp_path / "a.png").getpixel((0, 0)) == (255, 255, 255)
    assert open_image(tmp_path / "b.tif").getpixel((0, 0)) == (77, 77, 77)


def png_of_16_bits(path, values):
    """Pillow writes no colours of 16 bits; a PNG is a signature, a header, packed rows and an end."""
    height, width, _ = values.shape

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 16, 2, 0, 0, 0))
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b""))
    return path


def test_colours_of_sixteen_bits_are_read_and_those_of_twelve_in_them_refused(tmp_path):
    full = png_of_16_bits(tmp_path / "a.png", np.full((2, 2, 3), 65_535))
    assert open_image(full).getpixel((0, 0)) == (255, 255, 255)
    low = png_of_16_bits(tmp_path / "b.png", np.full((2, 2, 3), 4_095))
    with pytest.raises(DataError, match="b.png has 16 bits a colour and uses the lowest 12 at most"):
        open_image(low)


def samples_of(*paths):
    return Samples(images=list(paths), labels=[i % 2 for i in range(len(paths))], classes=("a", "b"))


def test_the_check_says_how_deep_pictures_were_read(tmp_path):
    twelve = [saved(tmp_path / f"{i}.png", np.linspace(0, 4_000 + i, 64).astype(np.uint16)[None]) for i in range(3)]
    ten = saved(tmp_path / "ten.png", np.linspace(0, 1_000, 64).astype(np.uint16)[None])
    with pytest.warns(DataWarning, match="^3 pictures have more than 8 bits; black to white are 0 to 4,095 in 3$"):
        check_images(samples_of(*twelve))
    with pytest.warns(DataWarning, match="0 to 4,095 in 3; 0 to 1,023 in 1, each by its own range; levels="):
        check_images(samples_of(*twelve, ten))


def test_the_check_says_if_next_to_nothing_would_be_seen(tmp_path):
    thermal = [saved(tmp_path / f"{i}.png", np.linspace(29_000, 31_000, 99).astype(np.uint16)[None]) for i in range(2)]
    with pytest.warns(DataWarning) as caught:
        check_images(samples_of(*thermal))
    told = "2 of them have fewer than 16 grey levels left; their values are 29,000 to 31,000, which --set levels=29000,"
    assert str(caught[1].message).startswith(told)


def test_the_check_says_if_a_file_holds_several_pictures(tmp_path):
    pages = [Image.fromarray(np.full((4, 4), i, np.uint8)) for i in (1, 2)]
    pages[0].save(tmp_path / "stack.tif", save_all=True, append_images=pages[1:])
    pages[0].save(tmp_path / "film.gif", save_all=True, append_images=pages[1:])
    pages[0].save(tmp_path / "one.tif")
    with pytest.warns(DataWarning, match="2 files hold several pictures .* first is read: .*stack.tif, .*film.gif$"):
        check_images(samples_of(*(tmp_path / name for name in ("stack.tif", "one.tif", "film.gif"))))
    assert open_image(tmp_path / "stack.tif").getpixel((0, 0)) == (1, 1, 1)


def test_a_telephones_preview_is_no_second_picture(tmp_path):
    pictures = [Image.new("RGB", (8, 8), (i, 0, 0)) for i in (1, 2)]
    pictures[0].save(tmp_path / "a.jpg", "MPO", save_all=True, append_images=pictures[1:])
    assert not read_image(tmp_path / "a.jpg").has_more
