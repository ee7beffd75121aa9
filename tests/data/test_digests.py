"""Pictures that stand in several places are named."""

import shutil

import pytest

from sidetune.data.digests import TAIL, same_bytes
from sidetune.data.sources import read_data, read_training
from sidetune.errors import DataError, DataWarning


def test_files_are_the_same_only_if_all_their_bytes_are(tmp_path):
    start, end = b"a" * 10_000, b"z" * TAIL
    contents = {"1": start + end, "2": start + end, "3": b"b" + start[1:] + end, "4": start + end[:-1] + b"y", "5": b""}
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
    groups = same_bytes(sorted(tmp_path.iterdir()))
    assert [[p.name for p in group] for group in groups] == [["1", "2"]]


def test_a_test_set_that_was_trained_on_is_named(folder):
    shutil.copytree(folder / "train/dark", folder / "test/dark", dirs_exist_ok=True)
    count = len(list((folder / "train/dark").iterdir()))
    with pytest.warns(DataWarning, match=rf"squares: {count} identical .* in several parts, .*train/dark/.*png = "):
        read_data(folder)


def test_one_picture_under_two_labels_is_named(folder):
    shutil.copy(folder / "train/dark/0.png", folder / "train/light/copy.png")
    with pytest.warns(
        DataWarning, match="1 identical .* under several classes: train/dark/0.png = train/light/copy.png"
    ):
        read_data(folder)


def test_a_picture_twice_and_a_link_to_one_are_named(folder):
    shutil.copy(folder / "train/dark/0.png", folder / "train/dark/copy.png")
    first = next((folder / "train/light").iterdir())
    (folder / "train/light/link.png").symlink_to(first.name)
    with pytest.warns(DataWarning, match="2 identical pictures .* several times in one part"):
        read_data(folder)


def test_a_folder_that_is_trained_on_whole_is_looked_at_too(folder):
    shutil.copy(folder / "train/dark/0.png", folder / "train/light/copy.png")
    with pytest.warns(DataWarning, match="train: 1 identical pictures .* under several classes"):
        read_training(folder / "train")


def test_a_file_that_two_lists_name_is_named(folder):
    images = sorted(p.relative_to(folder) for p in (folder / "train").rglob("*.png"))
    rows = [f"{path} {i % 2}" for i, path in enumerate(images)]
    (folder / "train800val200.txt").write_text("\n".join(rows))
    (folder / "test.txt").write_text("\n".join(rows[:3]))
    with pytest.warns(DataWarning, match="3 identical pictures .* in several parts"):
        read_data(folder)


def test_a_file_that_vanished_is_named(tmp_path):
    with pytest.raises(DataError, match="gone.png cannot be read: No such file"):
        same_bytes([tmp_path / "gone.png", tmp_path / "gone.png"])
