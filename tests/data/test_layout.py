"""Parts, classes, or data sets: decided by what is inside, and in doubt the message says how to say it."""

import shutil
import tempfile
import warnings
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from sidetune.data.folders import read_folder, read_splits
from sidetune.data.layout import part_in, part_of, parts_of
from sidetune.data.sources import read_data, read_scored, read_training
from sidetune.errors import DataError, DataWarning


@pytest.fixture
def tree(tmp_path):
    """Puts different pictures into folders, so many in each."""
    rng = np.random.default_rng(0)

    def grow(**counts):
        for folder, count in counts.items():
            path = tmp_path / "photos" / folder.replace("__", "/")
            path.mkdir(parents=True, exist_ok=True)
            for i in range(count):
                Image.fromarray(rng.integers(0, 255, (6, 6, 3), dtype=np.uint8)).save(path / f"{i}.png")
        return tmp_path / "photos"

    return grow


def sizes(splits):
    return {part: len(samples) for part, samples in splits.parts().items()}


def test_classes_may_be_called_train_test_and_val(tree):
    splits = read_data(tree(bus=10, car=10, train=10, test=10, val=10))
    assert splits.train.classes == ("bus", "car", "test", "train", "val")
    assert sizes(splits) == {"train": 35, "val": 5, "test": 10}


def test_a_class_called_train_inside_parts(tree):
    splits = read_data(tree(train__bus=3, train__train=3, test__train=2, test__bus=1))
    assert splits.train.classes == ("bus", "train") and sorted(splits.test.labels) == [0, 1, 1]


@pytest.mark.parametrize("name", ["Train", "TRAINING", "train"])
def test_parts_in_any_case(tree, name):
    splits = read_data(tree(**{f"{name}__cat": 3, f"{name}__dog": 3, "Valid__cat": 1, "Valid__dog": 1}))
    assert sizes(splits) == {"train": 6, "val": 2}


def test_in_doubt_the_message_says_what_was_seen_and_how_to_say_it(tree):
    root = tree(bus=4, car=4, train__steam=4, train__electric=4)
    with pytest.raises(
        DataError, match=r"train/ holds folders \(electric, steam\); bus/ holds 4 images itself.*layout="
    ):
        read_data(root)
    assert read_data(root, layout="classes").train.classes == ("bus", "car", "train")
    assert read_data(root, layout="parts").train.classes == ("electric", "steam")
    root = tree(test__steam=2)
    assert read_data(root).train.classes == ("electric", "steam"), "with another part there is no doubt"


def test_the_level_above_data_sets_is_noticed(tree):
    root = tree(pets__cat=3, pets__dog=3, trees__oak=3, trees__fir=3)
    with pytest.raises(
        DataError, match=r"\(pets, trees\) would be the classes.*pets/ has cat, dog.*such as .*photos/pets"
    ):
        read_data(root)
    assert read_data(root, layout="classes").train.classes == ("pets", "trees")
    assert read_data(root / "pets").train.classes == ("cat", "dog")
    shutil.rmtree(root / "trees")
    tree(pets__train__cat=1, flowers=5)
    shutil.rmtree(root / "pets/cat")
    shutil.rmtree(root / "pets/dog")
    with pytest.raises(DataError, match=r"pets/ has train\)"):
        read_data(root)


def test_the_level_is_noticed_inside_parts_too(tree):
    root = tree(train__pets__cat=2, train__pets__dog=2, train__trees__fir=2, train__trees__oak=2)
    with pytest.raises(DataError, match=r"would be the classes.*layout=parts"):
        read_data(root)
    assert read_data(root, layout="parts").train.classes == ("pets", "trees")


def test_a_folder_inside_each_class_is_no_data_set(tree):
    assert read_data(tree(train__cat__images=3, train__dog__images=3)).train.classes == ("cat", "dog")


def test_unlabelled_test_images_are_left_for_predict(tree):
    root = tree(train__cat=5, train__dog=5, test=4)
    with pytest.warns(DataWarning, match=r"its 4 images have no labels.*`sidetune predict MODEL .*photos/test`"):
        assert sizes(read_data(root)) == {"train": 8, "val": 2}
    shutil.rmtree(root / "test")
    with pytest.warns(DataWarning, match=r"its 6 images have no labels \(no folder in it is one of cat, dog"):
        assert read_data(tree(test__unknown=6)).test is None


def test_unlabelled_val_images_are_replaced_by_training_images(tree):
    with pytest.warns(DataWarning, match="val: its 4 images have no labels"):
        assert sizes(read_data(tree(train__cat=5, train__dog=5, val=4, test__cat=1))) == {
            "train": 8,
            "val": 2,
            "test": 1,
        }


def test_folders_without_images_are_passed_over_and_said(tree):
    root = tree(train__cat=2, train__dog=2, val__cat=1, val__dog=0, val__logs=0, train__empty=0)
    (root / "val/logs/notes.txt").write_text("x")
    with pytest.warns(DataWarning) as caught:
        splits = read_data(root)
    said = " ".join(str(w.message) for w in caught)
    assert "train: passed over folders without images: empty" in said
    assert "val: passed over folders without images: dog, logs" in said and "1 .txt" in said
    assert splits.train.classes == ("cat", "dog") and splits.val.labels == [0]


def test_a_class_that_only_val_has_is_refused(tree):
    root = tree(train__cat=2, train__dog=0, train__fox=2, val__cat=1, val__dog=2)
    with (
        pytest.warns(DataWarning, match="without images: dog"),
        pytest.raises(DataError, match="do not: dog; known: c"),
    ):
        read_data(root)


def test_a_class_of_pictures_that_nothing_here_reads_is_not_passed_over(tree):
    root = tree(cat=3, dog=3, fox=0)
    (root / "fox/IMG_1.CR2").write_bytes(b"x")
    with pytest.raises(DataError, match=r"photos/fox holds no images that can be read \(it holds 1 .cr2\)"):
        read_data(root)


def test_images_beside_the_class_folders_are_said(tree):
    root = tree(cat=3, dog=3)
    Image.new("L", (4, 4)).save(root / "cover.png")
    with pytest.warns(DataWarning, match="1 images beside the class folders: cover.png"):
        assert len(read_folder(root)) == 6


def test_one_image_a_class_trains_without_validation(tree):
    with pytest.warns(DataWarning, match="classes with a single image are trained on and not validated: a, b, c"):
        assert sizes(read_data(tree(a=1, b=1, c=1))) == {"train": 3}
    with pytest.warns(DataWarning, match="not validated: a$"):
        assert sizes(read_splits(tree(b=9, c=9))) == {"train": 13, "val": 2, "test": 4}


def test_two_folders_for_one_part_are_refused(tree):
    with pytest.raises(DataError, match="two folders for val: val and validation"):
        read_data(tree(train__a=1, train__b=1, val__a=1, validation__a=1))


def test_names_that_are_no_utf8_become_classes_that_can_be_saved(tree):
    splits = read_data(tree(**{"train__caf\udce9": 2, "train__tea": 2, "test__caf\udce9": 1}))
    assert splits.train.classes == ("caf\\xe9", "tea") and splits.test.labels == [0]
    "".join(splits.train.classes).encode()


def test_a_letter_is_the_same_however_it_is_composed(tree):
    splits = read_data(tree(**{"train__\u00e9": 2, "train__z": 2, "test__e\u0301": 1}))
    assert splits.train.classes == ("z", "\u00e9") and splits.test.labels == [1]
    with pytest.warns(DataWarning, match="are one class: \u00e9"):
        assert Counter(read_folder(tree(**{"train__e\u0301": 1}) / "train").labels) == {0: 2, 1: 3}


def test_training_takes_the_training_part_and_a_folder_of_classes_whole(tree):
    root = tree(train__a=4, train__b=4, val__a=1, val__b=1)
    train, val = read_training(root)
    assert (len(train), len(val)) == (8, 2)
    train, val = read_training(root / "train")
    assert len(train) == 8 and val is None
    assert [len(part) for part in read_training("sprites-location")] == [1000, 200]


def test_scoring_takes_the_test_part_or_any_folder_beside_train(tree):
    root = tree(train__a=4, train__b=4, test__a=2, test__b=1, night__b=3)
    classes = ("a", "b")
    assert [len(read_scored(root, classes, part=part)[1]) for part in (None, "train", "night")] == [3, 8, 3]
    assert read_scored(root, classes)[0] == f"{root} (test)"
    assert len(read_scored(root / "test", classes)[1]) == 3
    with pytest.raises(ValueError, match=r"unknown part of .* 'tset'; did you mean test"):
        read_scored(root, classes, part="tset")
    assert read_scored(tree(), ("a", "b", "c"), part="night")[1].labels == [1, 1, 1]


def test_scoring_knows_the_classes_and_so_what_a_folder_holds(tree):
    root = tree(bus=2, train=2, test=2)
    assert len(read_scored(root, ("bus", "test", "train"))[1]) == 6
    root = tree(train__steam=2, train__electric=2)
    assert len(read_scored(root, ("bus", "test", "train"))[1]) == 10
    with pytest.warns(DataWarning, match="2 images beside the class folders"):
        assert len(read_scored(root, ("electric", "steam"), part="train")[1]) == 4


def files(root, *names):
    """Empty files called like images: who tells folders apart opens none."""
    for name in names:
        path = Path(root, name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return Path(root)


CLASSES = st.sets(st.sampled_from(["bus", "car", "Dog", "tree"]), min_size=1)
SPELLED = st.fixed_dictionaries(
    {"train": st.sampled_from(["train", "Train", "TRAINING"])},
    optional={
        "val": st.sampled_from(["val", "Valid", "validation", "VAL"]),
        "test": st.sampled_from(["test", "Testing", "TEST"]),
    },
)


@given(parts=st.sets(st.sampled_from(["train", "val", "test"])), others=CLASSES)
def test_folders_that_hold_images_themselves_are_classes_whatever_they_are_called(parts, others):
    with tempfile.TemporaryDirectory() as root:
        files(root, *(f"{name}/{i}.jpg" for name in (*parts, *others) for i in range(3)))
        assert parts_of(Path(root)) is None
        assert parts_of(Path(root), classes=(*parts, *others)) is None


@given(spelled=SPELLED, classes=CLASSES, extra=st.sampled_from([None, "notes", ".cache"]))
def test_folders_of_folders_are_parts_in_any_spelling(spelled, classes, extra):
    with tempfile.TemporaryDirectory() as root:
        files(root, *(f"{name}/{c}/1.jpg" for name in spelled.values() for c in classes))
        if extra is not None:
            Path(root, extra).mkdir()
        expected = {part: Path(root, name) for part, name in spelled.items()}
        assert parts_of(Path(root)) == expected
        assert parts_of(Path(root), "parts") == expected
        assert parts_of(Path(root), classes=tuple(classes)) == expected
        assert parts_of(Path(root), "classes") is None
        assert parts_of(Path(root), classes=(*spelled.values(), "more")) is None, "these are the known classes"
        for part in ("train", "val", "test"):
            assert part_in(Path(root), part, "auto", tuple(classes)) == expected.get(part)
            assert part_in(Path(root), part, "classes", tuple(classes)) is None
            assert part_in(Path(root), part, "auto", (*spelled.values(), extra or "more")) is None


@given(spelled=SPELLED.filter(lambda spelled: len(spelled) > 1), classes=CLASSES)
def test_parts_without_train_are_refused_with_those_that_are_there(spelled, classes):
    there = [name for part, name in spelled.items() if part != "train"]
    with tempfile.TemporaryDirectory() as root:
        files(root, *(f"{name}/{c}/1.jpg" for name in there for c in classes))
        with pytest.raises(DataError, match=f"{root} has .*{there[0]}.* but no .*train$"):
            parts_of(Path(root))
        with pytest.raises(DataError, match="but no .*train$"):
            parts_of(Path(root), "parts")


def test_said_to_be_parts_a_folder_of_classes_has_none(tmp_path):
    with pytest.raises(DataError, match="has none of the folders train, val, test but no .*train$"):
        parts_of(files(tmp_path, "cat/1.jpg", "dog/1.jpg"), "parts")
    assert parts_of(tmp_path) is None


@pytest.mark.parametrize(
    ("name", "part"),
    [("train", "train"), ("Training", "train"), ("valid", "val"), ("VALIDATION", "val"), ("val", "val"),
     ("test", "test"), ("testing", "test"), ("trains", None), ("test2", None), ("tes", None), ("", None)],
)  # fmt: skip
def test_parts_are_called_by_seven_names(name, part):
    assert part_of(name) == part


def test_folders_that_share_a_name_with_train_are_more_data_of_parts(tmp_path):
    """night/ has a class of train/'s, so that train is a part; called apart from it, and with images in it, it may
    not be."""
    root = files(tmp_path / "a", "train/a/1.jpg", "train/b/1.jpg", "night/b/1.jpg", "loose/1.jpg")
    assert parts_of(root) == {"train": root / "train"}
    root = files(tmp_path / "b", "train/a/1.jpg", "train/b/1.jpg", "night/c/1.jpg", "loose/1.jpg")
    with pytest.raises(
        DataError, match=r"could hold the parts .* train/ holds folders \(a, b\); loose/ holds 1 images it"
    ):
        parts_of(root)
    root = files(tmp_path / "c", "train/a/1.jpg", "train/b/1.jpg", "night/c/1.jpg")
    assert parts_of(root) == {"train": root / "train"}, "no other folder holds images itself"
    root = files(tmp_path / "d", "train/1.jpg", "test/a/1.jpg", "bus/1.jpg")
    with pytest.raises(DataError, match="test/ holds folders .a.; train/ holds 1 images itself; bus/ holds 1 images"):
        parts_of(root)


def test_what_stands_in_doubt_is_told_of_three_folders_at_most(tmp_path):
    root = files(tmp_path, "train/a/1.jpg", *(f"{name}/1.jpg" for name in "pqrs"))
    with pytest.raises(
        DataError, match=r"p/ holds 1 images itself; q/ .*; r/ holds 1 images itself\. Say which: --set"
    ):
        parts_of(root)


def test_the_level_is_looked_at_in_every_folder_that_holds_images_and_none_of_its_own(tmp_path):
    def classes(**layout):
        shutil.rmtree(tmp_path / "set", ignore_errors=True)
        root = files(tmp_path / "set", *(f"{name}/{image}" for name, images in layout.items() for image in images))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DataWarning)
            return read_folder(root).classes

    several = ("x/1.jpg", "y/1.jpg")
    with pytest.raises(
        DataError, match=r"\(a, b\) would be the classes, .* \(a/ has x, y\): name one data set, such as"
    ):
        classes(a=several, b=several)
    assert classes(a=several, b=(*several, "1.jpg")) == ("a", "b"), "b has an image of its own"
    assert classes(a=several, b=("x/1.jpg",)) == ("a", "b"), "b has one folder, as a class may"
    with pytest.raises(DataError, match="would be the classes"):
        classes(a=several, b=several, c=("notes.txt",))
    with pytest.raises(DataError, match=r"b/ has train\): name one data set"):
        classes(a=("1.jpg",), b=("train/1.jpg",))
    assert classes(a=("1.jpg",), b=("train/1.jpg", "1.jpg")) == ("a", "b")
