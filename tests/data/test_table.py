"""Tables beside images: what their columns are, their parts, and errors that name the line."""

import pytest
from PIL import Image

from sidetune import read_data
from sidetune.data.sources import read_scored, read_training
from sidetune.data.table import read_table
from sidetune.errors import DataError


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "images").mkdir()
    for i in range(20):
        Image.new("RGB", (4, 4), (i, i, i)).save(tmp_path / "images" / f"{i}.png")
    return tmp_path


def write(folder, *lines, file="labels.csv"):
    (folder / file).write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder / file


@pytest.mark.parametrize(
    ("lines", "task", "classes", "labels"),
    [
        (["image,sun,rain", "0.png,1,0", "1.png,0,0"], "multilabel", ("sun", "rain"), [(1, 0), (0, 0)]),
        (["image,labels", "0.png,sun|rain", "1.png,"], "multilabel", ("rain", "sun"), [(1, 1), (0, 0)]),
        (["image,age", "0.png,20.5", "1.png,31"], "regression", ("age",), [(20.5,), (31,)]),
        (["image,age,height", "0.png,20,1.5", "1.png,1,2"], "regression", ("age", "height"), [(20, 1.5), (1, 2)]),
        (["image,kind", "0.png,dog", "1.png,cat"], "classification", ("cat", "dog"), [1, 0]),
        (["image;kind", "images/0.png;dog", "", "1.png; cat"], "classification", ("cat", "dog"), [1, 0]),
        (["\ufeffimage\tkind", "0.png\tdog", '1.png\t"a cat"'], "classification", ("a cat", "dog"), [1, 0]),
    ],
)
def test_what_columns_are(folder, lines, task, classes, labels):
    samples = read_table(write(folder, *lines))
    assert (samples.task, samples.classes, list(samples.labels)) == (task, classes, labels)
    assert [path.name for path in samples.images] == ["0.png", "1.png"]


def test_whole_numbers_alone_are_asked_about(folder):
    table = write(folder, "image,count", "0.png,10", "1.png,9", "2.png,9")
    with pytest.raises(DataError, match="under count could be classes or amounts; say --task classification"):
        read_table(table)
    assert read_table(table, "regression").labels == [(10.0,), (9.0,), (9.0,)]
    classes = read_table(table, "classification")
    assert (classes.classes, list(classes.labels)) == (("9", "10"), [1, 0, 0])
    binary = read_table(write(folder, "image,sun", "0.png,1", "1.png,0"), "multilabel")
    assert (binary.classes, binary.labels) == (("sun",), [(1.0,), (0.0,)])


@pytest.mark.parametrize(
    ("lines", "task", "complaint"),
    [
        (["image,age,size", "0.png,20.5,1", "1.png,old,1"], None, r"labels.csv, line 3: expected a number under age"),
        (["image,age", "0.png,20.5", "1.png,nan"], "regression", r"line 3: expected a number under age, got 'nan'"),
        (["image,sun,rain", "0.png,1,2"], "multilabel", "line 2: a label is 0 or 1, but rain is 2"),
        (["image,kind", "0.png,"], "classification", "line 2: no class is given"),
        (["image,kind,other", "0.png,a,b"], "classification", "has 2 columns beside the image's"),
        (["image,kind", "0.png,a", "1.png,b,c"], None, "line 3: 3 cells under 2 headings"),
        (["image,kind", "0.png,a", "77.png,b"], None, r"names 1 images that are not under .*: line 3 \(77.png\)"),
        (["image,kind"], None, "has no rows"),
        (["image", "0.png"], None, "has one column"),
        (["image,kind,kind", "0.png,a,b"], None, "several columns called kind"),
    ],
)
def test_what_cannot_be_understood_is_named_with_its_line(folder, lines, task, complaint):
    with pytest.raises(DataError, match=complaint):
        read_table(write(folder, *lines), task)


def test_missing_images_can_be_left_out(folder):
    table = write(folder, "image,kind", "0.png,a", "77.png,b", "1.png,b")
    assert list(read_table(table, skip_missing=True).labels) == [0, 1]
    with pytest.raises(DataError, match="none of the 1 images"):
        read_table(write(folder, "image,kind", "77.png,b"), skip_missing=True)


def test_one_table_is_split_and_three_are_parts(folder):
    write(folder, "image,age", *(f"{i}.png,{i + 0.5}" for i in range(20)))
    splits = read_data(folder)
    assert {part: len(s) for part, s in splits.parts().items()} == {"train": 14, "val": 2, "test": 4}
    paths = [path for s in splits.parts().values() for path in s.images]
    assert len(set(paths)) == 20
    assert read_data(folder).test.images == splits.test.images, "the same split each time"
    write(folder, "image,age", "3.png,1.5", "4.png,2.5", file="train.csv")
    write(folder, "image,age", "5.png,1", file="val.csv")
    write(folder, "image,age", "6.png,2", file="test.csv")
    parts = read_data(folder).parts()
    assert {part: list(s.labels) for part, s in parts.items()} == {
        "train": [(1.5,), (2.5,)],
        "val": [(1.0,)],
        "test": [(2.0,)],
    }


def test_classes_of_a_table_are_split_by_class(folder):
    write(folder, "image,kind", *(f"{i}.png,{'ab'[i % 2]}" for i in range(20)))
    parts = read_data(folder).parts()
    assert {part: (s.labels.count(0), s.labels.count(1)) for part, s in parts.items()} == {
        "train": (7, 7),
        "val": (1, 1),
        "test": (2, 2),
    }


def test_parts_with_other_columns_are_refused_and_reordered_ones_are_not(folder):
    write(folder, "image,age,size", "3.png,1.5,2", "4.png,2.5,3", file="train.csv")
    write(folder, "image,size,age", "5.png,1,7", file="test.csv")
    write(folder, "image,size,age", "6.png,1,7", file="val.csv")
    assert list(read_data(folder).test.labels) == [(7.0, 1.0)]
    write(folder, "image,size", "5.png,1", file="test.csv")
    with pytest.raises(DataError, match="test.csv has no column age; it has size"):
        read_data(folder)


def test_labels_that_training_images_lack_are_refused(folder):
    write(folder, "image,labels", "3.png,a|b", "4.png,b|c", file="train.csv")
    write(folder, "image,labels", "5.png,a|z", file="test.csv")
    with pytest.raises(DataError, match="test.csv, line 2: unknown labels z; known: a, b, c"):
        read_data(folder)


def test_a_table_is_trained_and_scored_on_whole(folder):
    write(folder, "image,age", *(f"{i}.png,{i + 0.5}" for i in range(20)))
    train, val = read_training(folder)
    assert len(train) == 20 and val is None
    assert len(read_scored(folder, ("age",), task="regression")[1]) == 20
    name, part = read_scored(folder, ("age",), task="regression", split=True)
    assert len(part) == 4 and name.endswith("(test)")


def test_a_task_that_needs_a_table_says_so(folder):
    with pytest.raises(DataError, match="has no labels.csv or train.csv; regression needs a table"):
        read_data(folder, task="regression")
