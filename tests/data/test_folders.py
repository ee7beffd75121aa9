"""Image folders and file lists, good and bad."""

import shutil

import pytest
from PIL import Image

from sidetune.data.check import check_images
from sidetune.data.folders import read_folder, read_splits
from sidetune.data.sources import read_data
from sidetune.errors import DataError


def test_a_folder_with_parts(folder):
    splits = read_splits(folder)
    assert {part: len(s) for part, s in splits.parts().items()} == {"train": 33, "val": 9, "test": 6}
    assert splits.train.classes == splits.test.classes == ("dark", "grey", "light")
    assert all(
        path.parent.name == splits.val.classes[label]
        for path, label in zip(splits.val.images, splits.val.labels, strict=True)
    )


def test_one_folder_of_classes_is_split_alike_each_time(folder):
    root = folder.parent / "one"
    shutil.copytree(folder / "train", root)
    first, again = read_splits(root), read_splits(root)
    parts = [set(s.images) for s in first.parts().values()]
    assert sum(map(len, parts)) == 33 == len(set.union(*parts))
    assert all(a.images == b.images for a, b in zip(first.parts().values(), again.parts().values(), strict=True))
    assert all(set(s.labels) == {0, 1, 2} for s in first.parts().values())
    assert read_splits(root, seed=1).test.images != first.test.images


def test_a_missing_val_is_split_off_and_a_missing_test_stays_missing(folder):
    shutil.rmtree(folder / "val")
    shutil.rmtree(folder / "test")
    splits = read_splits(folder)
    assert splits.test is None and len(splits.val) == 3 and len(splits.train) == 30


def test_upper_case_extensions_and_deeper_folders_are_found_and_hidden_files_are_not(folder):
    some = next((folder / "train/dark").iterdir())
    (folder / "train/dark/deeper").mkdir()
    shutil.move(some, folder / "train/dark/deeper/A B.PNG")
    (folder / "train/dark/._junk.png").write_text("x")
    (folder / "train/.hidden").mkdir()
    assert len(read_folder(folder / "train")) == 33


def only_dark(folder):
    for part in ("train", "val", "test"):
        for name in ("grey", "light"):
            shutil.rmtree(folder / part / name)


def loose(folder):
    shutil.rmtree(folder)
    folder.mkdir()
    Image.new("L", (4, 4)).save(folder / "1.png")


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (shutil.rmtree, "no folder at"),
        (lambda f: (shutil.rmtree(f), f.mkdir()), "holds nothing; expected one folder a class"),
        (lambda f: (shutil.rmtree(f), f.write_text("x")), "is a file; expected a folder"),
        (loose, "holds 1 images but no class folders"),
        (lambda f: shutil.rmtree(f / "train"), "but no .*train"),
        (only_dark, r"has one class only \(dark\); a classifier needs at least two"),
        (lambda f: (f / "test/dark").rename(f / "test/pink"), "has classes that the training images do not: pink"),
    ],
)
def test_folders_that_cannot_be_used_say_why(folder, spoil, message):
    spoil(folder)
    with pytest.raises(DataError, match=message):
        read_data(folder)


def test_bad_images_are_named_and_skipped_only_on_request(folder):
    bad = folder / "train/dark/0.png"
    bad.write_bytes(bad.read_bytes()[:60])
    samples = read_folder(folder / "train")
    with pytest.raises(DataError, match=r"1 image cannot be used:\n.*dark/0.png.*\n.*--skip-bad"):
        check_images(samples)
    good, complaints = check_images(samples, skip_bad=True)
    assert len(good) == len(samples) - 1 and len(complaints) == 1
    assert bad not in good.images


def test_skipping_must_not_empty_a_class(folder):
    for path in (folder / "train/dark").iterdir():
        path.write_text("x")
    with pytest.raises(DataError, match="a class is empty: dark"):
        check_images(read_folder(folder / "train"), skip_bad=True)
