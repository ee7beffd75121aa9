"""Image folders and file lists, good and bad."""

import shutil
import tempfile
import warnings
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from sidetune.data.check import check_images
from sidetune.data.folders import read_folder, read_splits
from sidetune.data.sources import read_data
from sidetune.errors import DataError, DataWarning


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


def grown(root, counts):
    """Files called like images under `root`: by folder, how many. Folders are read without opening any."""
    for name, count in counts.items():
        folder = Path(root, name)
        folder.mkdir(parents=True, exist_ok=True)
        for i in range(count):
            (folder / f"{i}.jpg").touch()
    return Path(root)


NAMES = ("10", "9", "Bee", "ant", "cat 2", "zebra", "\u00e9p\u00e9e")  # in the order of their characters
COUNTS = st.dictionaries(st.sampled_from(NAMES), st.integers(0, 4))


@given(train=COUNTS.filter(lambda counts: sum(map(bool, counts.values())) > 1), val=COUNTS, test=COUNTS)
def test_every_part_is_labelled_by_the_training_folders_that_hold_images(train, val, test):
    classes = [name for name in NAMES if train.get(name)]
    parts = {"train": train, "val": val, "test": test}
    with tempfile.TemporaryDirectory() as root, warnings.catch_warnings():
        warnings.simplefilter("ignore", DataWarning)
        grown(root, {f"{part}/{name}": count for part, counts in parts.items() for name, count in counts.items()})
        expected = {}
        for part, counts in parts.items():
            there = [name for name in NAMES if counts.get(name)]
            expected[part] = [(f"{part}/{name}/{i}.jpg", name) for name in there for i in range(counts[name])]
        for part in ("test", "val"):  # as they stand in the folder
            strange = {name for _, name in expected[part]} - set(classes)
            if strange and len(strange) < len({name for _, name in expected[part]}):
                with pytest.raises(DataError, match=f"{part} has classes that the training images do not"):
                    read_splits(root)
                return
            if strange:
                expected[part] = []  # none of its folders is a class, so it is one of pictures to predict
        read = read_splits(root).parts()
        found = {
            part: [(p.relative_to(root).as_posix(), classes[n]) for p, n in zip(s.images, s.labels, strict=True)]
            for part, s in read.items()
        }
    assert all(list(s.classes) == classes for s in read.values())
    assert found.get("test", []) == expected["test"]
    if expected["val"]:
        assert found["train"] == expected["train"] and found["val"] == expected["val"]
    else:
        split = found.get("val", [])
        assert sorted(found["train"] + split) == sorted(expected["train"])
        assert Counter(name for _, name in split) == {name: 1 for name in classes if train[name] > 1}


@given(n=st.integers(1, 60), test=st.sampled_from([0.1, 0.2, 0.5]), val=st.sampled_from([0.1, 0.25, 0.4]))
def test_shares_are_of_all_images_of_a_class(n, test, val):
    with tempfile.TemporaryDirectory() as root, warnings.catch_warnings():
        warnings.simplefilter("ignore", DataWarning)
        splits = read_splits(grown(root, {"a": n, "b": 20}), val=val, test=test)
    for label, of_class in ((0, n), (1, 20)):
        found = [Counter(part.labels)[label] for part in (splits.train, splits.val, splits.test)]
        num_test = max(1, round(test * of_class)) if of_class > 1 else 0
        rest = of_class - num_test
        num_val = max(1, round(val / (1 - test) * rest)) if rest > 1 else 0
        assert found == [rest - num_val, num_val, num_test]


def test_the_shares_that_are_taken_unless_others_are_said(tmp_path):
    splits = read_splits(grown(tmp_path / "one", {"a": 100, "b": 200}))
    assert [Counter(part.labels) for part in splits.parts().values()] == [
        {0: 70, 1: 140},
        {0: 10, 1: 20},
        {0: 20, 1: 40},
    ]
    splits = read_splits(grown(tmp_path / "parts", {"train/a": 100, "train/b": 200}))
    assert [Counter(part.labels) for part in splits.parts().values()] == [{0: 90, 1: 180}, {0: 10, 1: 20}]


def test_the_seed_decides_what_is_validated_and_tested_on(tmp_path):
    one = grown(tmp_path / "one", {"a": 40, "b": 40})
    parts = grown(tmp_path / "parts", {"train/a": 40, "train/b": 40})
    for root, chosen in ((one, ("val", "test")), (parts, ("val",))):
        for part in chosen:
            drawn = [tuple(read_splits(root, seed=seed).parts()[part].images) for seed in (0, 1, 2, 0)]
            assert len(set(drawn)) == 3 and drawn[0] == drawn[3]
    places = set()
    for seed in range(3):
        splits = read_splits(one, seed=seed)
        rest = sorted([*splits.train.images, *splits.val.images])
        places.add(tuple(rest.index(image) for image in splits.val.images))
    assert len(places) == 3, "what is validated on is drawn by itself, not by what is left behind the test images"
    assert read_splits(parts).val.images == read_splits(parts, seed=0).val.images


def test_names_of_data_sets_are_their_folders(tmp_path, monkeypatch):
    grown(tmp_path / "one", {"a": 4, "b": 4})
    grown(tmp_path / "parts", {"train/a": 4, "train/b": 4})
    for name in ("one", "parts"):
        monkeypatch.chdir(tmp_path / name)
        assert read_splits(".").name == name


def test_classes_with_one_image_are_told_where_validation_is_split_off_training_folders(tmp_path):
    root = grown(tmp_path, {"train/a": 1, "train/b": 5, "train/c": 1})
    with pytest.warns(DataWarning, match="classes with a single image are trained on and not validated: a, c$"):
        assert read_splits(root).val.labels == [1]


def test_known_classes_number_the_labels_of_a_folder_and_of_parts(tmp_path):
    known = ("b", "a", "x")
    assert read_folder(grown(tmp_path / "one", {"a": 3, "b": 3}), known).labels == [1, 1, 1, 0, 0, 0]
    whole = read_splits(tmp_path / "one", classes=known)
    assert whole.train.classes == known and all(set(part.labels) == {0, 1} for part in whole.parts().values())
    parts = read_splits(grown(tmp_path / "parts", {"train/a": 2, "train/b": 1, "val/x": 1, "test/b": 1}), classes=known)
    assert (parts.train.labels, parts.val.labels, parts.test.labels) == ([1, 1, 0], [2], [0])


def test_a_folder_of_classes_tells_what_is_passed_over_too(tmp_path):
    (grown(tmp_path, {"a": 1, "b": 1}) / "b/notes.txt").touch()
    with pytest.warns(DataWarning, match=f"^{tmp_path}: passed over 1 files that are no images here: 1 .txt$"):
        assert read_folder(tmp_path).labels == [0, 1]


def test_folders_that_are_no_known_class_are_named_with_those_that_are(tmp_path):
    known = tuple(f"k{i:02}" for i in range(23))
    root = grown(tmp_path, {"k03": 1, "new": 1, "newer": 2, "empty": 0})
    with pytest.raises(
        DataError, match=f"{root} has classes that the training images do not: new, newer; known: k00, .*k19 and 3 more"
    ):
        read_folder(root, known)


def test_known_classes_without_images_are_told_by_what_lies_there(tmp_path):
    root = grown(tmp_path, {"a": 0, "b": 0})
    with pytest.raises(DataError, match=r"holds no images \(it is empty\); expected .*/CLASS/1.jpg"):
        read_folder(root, ("a", "b"))
    for name in ("a/1.TXT", "a/2.txt", "a/3.txt", "b/1.mp4", "b/2.mp4", "b/1.md", "b/2.md", "b/1.c", "b/note", "a/x.h"):
        (root / name).touch()
    (root / "a/folder.with.dots").mkdir()
    with pytest.raises(DataError, match=r"holds no images \(it holds 3 .txt, 2 .\w+, 2 .\w+, 1 [.\w]+\); expected"):
        read_folder(root, ("a", "b"))
    (root / "b/photo.CR2").touch()
    with pytest.raises(DataError, match=r"b holds no images that can be read \(it holds .*\.mp4"):
        read_folder(grown(root, {"a": 1}))
    with pytest.warns(DataWarning) as caught:
        assert read_folder(root, ("a", "b")).labels == [0]
    assert any("without images: b" in str(w.message) for w in caught)


def test_a_part_that_holds_no_images_is_passed_over_and_said(tmp_path):
    root = grown(tmp_path, {"train/a": 4, "train/b": 4, "val/a": 0, "test": 0})
    with pytest.warns(DataWarning) as caught:
        splits = read_splits(root)
    said = [str(w.message) for w in caught]
    assert said == [f"{root}/test: passed over, it holds no images", f"{root}/val: passed over, it holds no images"]
    assert splits.test is None and splits.val.labels == [0, 1] and len(splits.train) == 6


def test_unlabelled_images_are_counted_wherever_they_lie(tmp_path):
    root = grown(tmp_path, {"train/a": 4, "train/b": 4, "test": 2, "test/later": 3})
    with pytest.warns(DataWarning, match=r"its 5 images have no labels \(no folder in it is one of a, b, so that"):
        assert read_splits(root).test is None


def test_images_beside_class_folders_are_counted_and_named(tmp_path):
    root = grown(tmp_path, {"a": 2, "b": 2, "": 4})
    with pytest.warns(DataWarning, match=r"passed over 4 images beside the class folders: 0.jpg, 1.jpg, 2.jpg and 1"):
        assert len(read_folder(root)) == 4


def test_files_that_are_no_images_are_told_once_for_all_parts(tmp_path):
    root = grown(tmp_path, {"train/a": 2, "train/b": 2, "val/a": 1, "test/b": 1})
    for part in ("train/a", "val/a", "test/b"):
        (root / part / "notes.txt").touch()
    with pytest.warns(DataWarning) as caught:
        read_splits(root)
    assert [str(w.message) for w in caught] == [f"{root}: passed over 3 files that are no images here: 3 .txt"]
