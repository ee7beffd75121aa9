"""File lists as people's programs write them."""

import unicodedata

import pytest

from sidetune.data.filelist import read_list
from sidetune.data.samples import split_off
from sidetune.data.sources import read_data
from sidetune.errors import DataError, DataWarning


@pytest.fixture
def vtab(folder):
    lines = {"train800.txt": [], "val200.txt": [], "test.txt": []}
    for part, name in (("train", "train800.txt"), ("val", "val200.txt"), ("test", "test.txt")):
        for label, samples in enumerate(("dark", "grey", "light")):
            lines[name] += [f"{p.relative_to(folder)} {label}" for p in sorted((folder / part / samples).iterdir())]
    lines["train800val200.txt"] = lines["train800.txt"] + lines["val200.txt"]
    for name, content in lines.items():
        (folder / name).write_text("\n".join(content) + "\n")
    return folder


@pytest.fixture
def files(tmp_path):
    """Two files, one in a folder, and what makes a list beside them."""
    (tmp_path / "cat").mkdir()
    for name in ("cat/0.jpg", "a b.png"):
        (tmp_path / name).write_bytes(b"x")

    def write(content):
        path = tmp_path / "list.txt"
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return write


def read(path):
    samples = read_list(path)
    return [p.relative_to(path.parent).as_posix() for p in samples.images], samples.labels, samples.classes


def test_vtabs_file_lists(vtab):
    splits = read_data(vtab, tune=True)
    assert {part: len(s) for part, s in splits.parts().items()} == {"train": 33, "val": 9, "test": 6}
    assert {part: len(s) for part, s in read_data(vtab).parts().items()} == {"train": 42, "test": 6}
    assert splits.final().train.images == read_data(vtab).train.images
    assert splits.train.image(0).size == (16, 16)


@pytest.mark.parametrize(
    "text",
    [
        "cat/0.jpg 0\na b.png 1\n",
        "cat/0.jpg\t0\r\na b.png\t1\r\n",
        "cat/0.jpg,0\na b.png , 1",
        "cat/0.jpg;0\n\n  a b.png;1  \n",
        'path,label\n"cat/0.jpg",0\n"a b.png",1\n',
        "filename label\ncat/0.jpg 0\na b.png 1\n",
        "# two images\ncat\\0.jpg 0\na b.png 1\n",
        "cat/0.jpg 000\na b.png 001\n",
        "\ufeffcat/0.jpg 0\r\na b.png 1\r\n",
        "cat/0.jpg 0\na b.png 1\n".encode("utf-16"),
    ],
)
def test_the_ways_to_write_a_list(files, text):
    assert read(files(text)) == (["cat/0.jpg", "a b.png"], [0, 1], ("0", "1"))


def test_labels_may_begin_at_one_and_are_called_so(files):
    assert read(files("cat/0.jpg 1\na b.png 3\n")) == (["cat/0.jpg", "a b.png"], [0, 2], ("1", "2", "3"))
    assert read(files("cat/0.jpg 2\na b.png 3\n")) == (["cat/0.jpg", "a b.png"], [2, 3], ("0", "1", "2", "3"))


def test_lists_of_one_folder_begin_at_the_same_label(vtab):
    for name in ("train800.txt", "val200.txt", "train800val200.txt", "test.txt"):
        rows = [line.rsplit(" ", 1) for line in (vtab / name).read_text().splitlines()]
        (vtab / name).write_text("\n".join(f"{path} {int(label) + 1}" for path, label in rows))
    splits = read_data(vtab, tune=True)
    assert splits.train.classes == splits.test.classes == ("1", "2", "3") and set(splits.test.labels) == {0, 1, 2}
    dark = [line for line in (vtab / "train800.txt").read_text().splitlines() if line.endswith((" 2", " 3"))]
    (vtab / "train800.txt").write_text("\n".join(dark))
    assert read_data(vtab, tune=True).train.classes == ("1", "2", "3"), "the others still have 1"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a b.png\n", "line 1: expected 'path label'"),
        ("a b.png 0\ncat/0.jpg x\n", "line 2: expected 'path label' .* white space, a comma or a semicolon between"),
        ("\n", "is empty"),
        ("path,label\n", "is empty"),
        ("a b.png -1\n", "line 1"),
        ("a b.png 0.0\n", "line 1"),
        ("a b.png 12345678901234567890\n", "line 1"),
        ("a b.png 0\nheading label\n", "line 2"),
        ("a b.png 0\ncat/1.jpg 1\n", r"names 1 files that are not under .*: line 2 \(cat/1.jpg\); correct the list"),
        ("a b.png 0\n".encode("utf-16")[2:], "line 1: holds NUL bytes, as UTF-16 without its mark does"),
        ("a b.png 0\n".encode("utf-16")[:-1], "begins as UTF-16 but is damaged at byte"),
    ],
)
def test_file_lists_that_cannot_be_used_say_where(files, text, message):
    with pytest.raises(DataError, match=message):
        read_list(files(text))


def test_files_that_are_missing_are_left_out_only_if_that_was_asked_for(files):
    path = files("a b.png 0\ncat/1.jpg 1\ncat/0.jpg 1\n")
    with pytest.warns(DataWarning, match=r"line 2 \(cat/1.jpg\)"):
        samples = read_list(path, skip_missing=True)
    assert samples.labels == [0, 1] and len(samples.images) == 2
    with pytest.warns(DataWarning), pytest.raises(DataError, match="none of the 1 files"):
        read_list(files("x.png 0\n"), skip_missing=True)


def test_names_that_are_no_utf8_or_have_letters_in_two_parts_are_found(files, tmp_path):
    (tmp_path / "caf\udce9.png").write_bytes(b"x")
    (tmp_path / unicodedata.normalize("NFD", "é.png")).write_bytes(b"x")
    path = files(b"caf\xe9.png 0\n" + unicodedata.normalize("NFC", "é.png").encode() + b" 1\n")
    assert [p.name for p in read_list(path).images] == ["caf\udce9.png", "e\u0301.png"]


def test_labels_beyond_the_training_classes_are_refused(files, tmp_path):
    path = files("a b.png 3\n")
    assert read_list(path).images == [tmp_path / "a b.png"]
    with pytest.raises(DataError, match="line 1: label 3, but the training images have only classes 0 to 2"):
        read_list(path, num_classes=3)
    with pytest.raises(DataError, match="line 1: label 3, but .* classes 1 to 2"):
        read_list(path, num_classes=2, first=1)
    with pytest.raises(DataError, match="no file list"):
        read_list(tmp_path / "none.txt")


def test_splitting_off_takes_its_share_of_each_class(samples):
    rest, part = split_off(samples, 0.25, seed=0)
    assert [part.labels.count(c) for c in range(3)] == [4, 4, 4]
    assert len(rest) == 36
    with pytest.raises(ValueError, match="between 0 and 1"):
        split_off(samples, 1.0, seed=0)
