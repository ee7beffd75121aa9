"""Which files are images: what telephones, NAS, Macs, Windows and notebooks leave beside them is none."""

import os
import shutil
from pathlib import Path

import pytest
from PIL import Image

from sidetune.data import files
from sidetune.data.files import Finder, holds_images, images_under
from sidetune.errors import DataError, DataWarning


def put(path, content=b"x"):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def names(root, paths):
    return [p.relative_to(root).as_posix() for p in paths]


@pytest.mark.parametrize(
    "left",
    [
        ".ipynb_checkpoints/a-checkpoint.jpg",
        "@eaDir/a.jpg/SYNOPHOTO_THUMB_XL.jpg",
        "__MACOSX/a.jpg",
        "deep/__MACOSX/._a.jpg",
        ".thumbnails/a.jpg",
        "lost+found/a.jpg",
        "LOST.DIR/a.jpg",
        "#recycle/a.jpg",
        "@Recycle/a.jpg",
        ".@__thumb/a.jpg",
        "$RECYCLE.BIN/a.jpg",
        "System Volume Information/a.jpg",
        "Lightroom Previews.lrdata/a.jpg",
        "._a.jpg",
        ".trashed-1-a.jpg",
        "Thumbs.db",
        "desktop.ini",
        "Icon\r",
    ],
)
def test_what_systems_leave_is_neither_taken_nor_mentioned(tmp_path, left):
    put(tmp_path / "a.jpg")
    put(tmp_path / left)
    assert names(tmp_path, images_under(tmp_path)) == ["a.jpg"]


def test_the_extensions_of_images_in_either_case(tmp_path):
    for suffix in ("JPG", "jpeg", "jfif", "png", "webp", "avif", "gif", "bmp", "tif", "TIFF", "jp2", "pgm", "tga"):
        put(tmp_path / f"{suffix}.{suffix}")
    assert len(images_under(tmp_path)) == 13


@pytest.fixture
def heif(monkeypatch):
    """Installs the reader of HEIC, or takes it away."""

    def install(there):
        monkeypatch.setattr(files.importlib.util, "find_spec", lambda name: there or None)
        files.readable.cache_clear()

    yield install
    files.readable.cache_clear()


def test_what_is_passed_over_is_counted_by_extension(tmp_path, heif):
    heif(False)
    for name in ("a.jpg", "b.heic", "c.HEIC", "d.mp4", "e.txt", "notes"):
        put(tmp_path / name)
    with pytest.warns(
        DataWarning, match=r"5 files that are no images here: 2 .heic, 1 .mp4, 1 .txt, 1 without ext.*pil"
    ):
        assert len(images_under(tmp_path)) == 1


def test_heic_is_an_image_where_its_reader_is_installed(tmp_path, heif):
    put(tmp_path / "a.heic")
    heif(True)
    assert len(images_under(tmp_path)) == 1


def test_a_file_without_an_extension_is_what_its_first_bytes_say(tmp_path):
    for kind in ("PNG", "JPEG", "GIF", "WEBP", "TIFF", "JPEG2000"):
        Image.new("RGB", (4, 4)).save(tmp_path / f"picture of {kind}", kind)
    Image.new("RGB", (4, 4)).save(tmp_path / "frame.0001", "PNG")
    Image.new("RGB", (4, 4)).save(tmp_path / "Mr. Smith", "PNG")
    Image.new("RGB", (4, 4)).save(tmp_path / "backup.jpg_original", "JPEG")
    put(tmp_path / "README", b"not an image")
    with pytest.warns(DataWarning, match="2 files .* 1 .jpg_original, 1 without"):
        assert len(images_under(tmp_path)) == 8


def test_a_link_back_into_the_set_is_followed_to_nothing(tmp_path):
    for name in ("cat/1.jpg", "cat/deep/2.jpg", "dog/3.jpg"):
        put(tmp_path / name)
    (tmp_path / "cat/self").symlink_to(".")
    (tmp_path / "cat/deep/up").symlink_to("../..")
    (tmp_path / "cat/round").symlink_to("round")
    (tmp_path / "ant").mkdir()
    (tmp_path / "ant/cats").symlink_to("../cat")
    finder = Finder()
    found = finder.find([tmp_path / name for name in ("ant", "cat", "dog")])
    assert [names(tmp_path, images) for images in found.values()] == [
        [],
        ["cat/1.jpg", "cat/deep/2.jpg"],
        ["dog/3.jpg"],
    ]
    assert sorted(names(tmp_path, finder.passed.links)) == ["ant/cats", "cat/deep/up", "cat/self"]
    assert names(tmp_path, finder.passed.broken) == ["cat/round"]
    assert "found without them" in finder.passed.told()[0] and "links to nothing" in finder.passed.told()[1]


def test_links_to_folders_elsewhere_are_followed_once(tmp_path):
    for name in ("all/cat/1.jpg", "all/dog/2.jpg"):
        put(tmp_path / name)
    (tmp_path / "train").mkdir()
    (tmp_path / "train/cat").symlink_to("../all/cat")
    (tmp_path / "train/dog").symlink_to("../all/dog")
    (tmp_path / "train/same").symlink_to("../all/dog")
    finder = Finder()
    found = finder.find([tmp_path / "train" / name for name in ("cat", "dog", "same")])
    assert [len(images) for images in found.values()] == [1, 1, 0]
    assert names(tmp_path, finder.passed.links) == ["train/same"]


def test_linked_folders_that_hold_each_other_end(tmp_path):
    for name in "ab":
        (tmp_path / name).mkdir()
    (tmp_path / "a/b").symlink_to("../b")
    (tmp_path / "b/a").symlink_to("../a")
    assert not holds_images(tmp_path / "a")
    put(tmp_path / "b/1.jpg")
    assert holds_images(tmp_path / "a")
    finder = Finder()
    assert names(tmp_path, finder.find([tmp_path / "a"])[tmp_path / "a"]) == ["a/b/1.jpg"]


def test_broken_links_and_pipes_are_no_images(tmp_path):
    put(tmp_path / "a.jpg")
    (tmp_path / "gone.jpg").symlink_to("nowhere.jpg")
    os.mkfifo(tmp_path / "pipe.jpg")
    with pytest.warns(DataWarning, match="links to nothing: .*gone.jpg"):
        assert names(tmp_path, images_under(tmp_path)) == ["a.jpg"]


def test_a_folder_that_cannot_be_listed_is_named(tmp_path, monkeypatch):
    def refuse(path):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(files.os, "scandir", refuse)
    with pytest.raises(DataError, match=f"{tmp_path} cannot be listed: Permission denied"):
        images_under(tmp_path)


def test_an_order_that_does_not_depend_on_the_disk(tmp_path, monkeypatch):
    for name in ("b/2.jpg", "a/1.jpg", "c.jpg", "b.jpg"):
        put(tmp_path / name)
    expected = [Path(tmp_path, name) for name in ("a/1.jpg", "b/2.jpg", "b.jpg", "c.jpg")]
    assert images_under(tmp_path) == sorted(expected)
    shutil.move(tmp_path / "a", tmp_path / "z")
    assert names(tmp_path, images_under(tmp_path))[-1] == "z/1.jpg"


def test_everything_that_pillow_opens_by_itself_is_taken():
    Image.init()
    others = {"EPS", "WMF", "BUFR", "GRIB", "HDF5", "MPEG", "IPTC", "FLI"}  # programs of others, films, no pictures
    opened = {suffix for suffix, kind in Image.registered_extensions().items() if kind in Image.OPEN}
    known = {suffix for suffix in opened if Image.EXTENSION[suffix] not in others} - files.HEIF
    assert known <= files.SUFFIXES
    assert not files.SUFFIXES & files.UNREAD
