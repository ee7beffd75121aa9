"""YOLO's texts as tools leave them: what is read, what is dropped and said, what is refused; the formats alike."""

import tempfile
from pathlib import Path

import numpy as np
import pytest
from annotated import boxes, by_name, coco, dump, image, mark, picture, read, thing, voc, write
from hypothesis import given, settings
from hypothesis import strategies as st

from sidetune.data.boxlayout import has_objects
from sidetune.data.plainyaml import read_yaml
from sidetune.errors import DataError

MIDDLE = "0 0.5 0.5 0.25 0.5"
"""24, 12, 40, 36."""


def refused(root, *told, **how):
    with pytest.raises(DataError) as caught:
        read(root, **how)
    for words in told:
        assert words in str(caught.value), str(caught.value)


@pytest.fixture
def root(tmp_path):
    """Three pictures and the names of two classes; tests write what is said of `a`."""
    for name in "abc":
        picture(tmp_path / "images" / f"{name}.jpg")
    write(tmp_path / "labels" / "b.txt", MIDDLE)
    write(tmp_path / "classes.txt", "bolt\nnut\n")
    return tmp_path


def alone(root, *rows):
    return write(root / "labels" / "a.txt", "\n".join(rows) + "\n")


def test_a_box_is_its_middle_and_its_sides_in_fractions(root):
    alone(root, "1 0.25 0.5 0.25 0.5", "0 0.5 0.5 1 1")
    said = []
    assert has_objects(root)
    train = read(root, said).train
    assert boxes(train, "a.jpg") == [[8, 12, 24, 36], [0, 0, 64, 48]]
    assert train.classes == ("bolt", "nut") and by_name(train)["a.jpg"].labels.tolist() == [1, 0] and said == []


def test_boxes_over_the_edge_are_cut_and_said(root):
    alone(root, "0 0.5 0.5 1.0006 0.5", "0 0.9 0.5 0.5 0.5", "0 1.2 0.5 0.1 0.1", MIDDLE)
    said = []
    found = boxes(read(root, said).train, "a.jpg")
    assert np.allclose(found, [[0, 12, 64, 36], [41.6, 12, 64, 36], [24, 12, 40, 36]])
    assert any("2 boxes reach over the edge" in note and "a.txt, line 1" in note for note in said)
    assert any("1 boxes are empty" in note and "a.txt, line 3" in note for note in said)


def test_rounding_to_six_digits_is_not_said(root):
    alone(root, "0 0.666667 0.5 0.666667 0.5")
    said = []
    assert boxes(read(root, said).train, "a.jpg")[0][2] == 64 and said == []


def test_pixels_are_refused(root):
    alone(root, MIDDLE, "0 32 24 16 24")
    refused(root, "a.txt, line 2", "look like pixels")


def test_corners_for_middle_and_sides_are_refused(root):
    alone(root, "0 0.5 0.5 0.9 0.9", "0 0.6 0.5 0.9 0.8", "0 0.7 0.4 0.95 0.9")
    write(root / "labels" / "b.txt", "0 0.6 0.6 0.9 0.9")
    refused(root, "look like x1 y1 x2 y2")


def test_a_confidence_is_dropped_and_said(root):
    alone(root, f"{MIDDLE} 0.93", "1 0.1 0.1 0.3 0.1 0.3 0.3 0.8")
    said = []
    assert len(by_name(read(root, said).train)["a.jpg"]) == 2
    assert any("2 rows" in note and "look like a model's predictions" in note for note in said)


def test_nine_numbers_are_a_polygon(root):
    alone(root, "1 0.25 0.25 0.75 0.25 0.75 0.75 0.25 0.75")
    said = []
    assert boxes(read(root, said).train, "a.jpg") == [[16, 12, 48, 36]] and said == []
    found = by_name(read(root, said, masks=True).train)["a.jpg"]
    assert found.outlines[0].mask(48, 64)[12:36, 16:48].all() and found.outlines[0].mask(48, 64).sum() == 24 * 32
    assert any("1 objects have a box and no mask" in note and "b.txt, line 1" in note for note in said)


def test_boxes_alone_are_refused_as_instances(root):
    refused(root, "boxes only", "--task detection", masks=True)


def test_points_behind_the_boxes_are_dropped_where_the_yaml_tells_of_them(root):
    write(root / "data.yaml", "train: images\nnames: [bolt, nut]\nkpt_shape: [2, 3]\n")
    rows = f"{MIDDLE} 0.1 0.1 2 0.2 0.2 2"
    alone(root, rows)
    write(root / "labels" / "b.txt", rows)
    said = []
    assert boxes(read(root, said).train, "a.jpg") == [[24, 12, 40, 36]] and any("kpt_shape" in note for note in said)


def roboflow(tmp_path, entries, names="names: ['bolt', 'nut']\nnc: 2"):
    for part in ("train", "valid"):
        picture(tmp_path / part / "images" / f"{part}.jpg")
        write(tmp_path / part / "labels" / f"{part}.txt", MIDDLE.replace("0", "1", 1))
    write(tmp_path / "data.yaml", "\n".join(f"{part}: {entry}" for part, entry in entries.items()) + f"\n{names}\n")
    return tmp_path


@pytest.mark.parametrize("train", ["../train/images", "gadgets-1/train/images", "train/images", "C:\\g\\train\\images"])
def test_roboflows_paths_that_lead_nowhere_are_tried_beside_the_yaml(tmp_path, train):
    root = tmp_path / "gadgets"
    roboflow(root, {"train": train, "val": "gadgets-1/valid/images", "test": "../test/images"})
    picture(tmp_path / "train" / "images" / "another set's.jpg")
    said = []
    assert has_objects(root)
    splits = read(root, said)
    assert [path.name for s in splits.parts().values() for path in s.images] == ["train.jpg", "valid.jpg"]
    assert splits.test is None and any("there are no test images" in note for note in said)


def test_training_images_that_are_not_there_are_refused(tmp_path):
    roboflow(tmp_path, {"train": "../elsewhere/images", "val": "valid/images"})
    refused(tmp_path, "data.yaml names ../elsewhere/images as train")


def test_the_numbers_of_a_mapping_decide(tmp_path):
    roboflow(tmp_path, {"train": "train/images"}, "names:\n  2: pin\n  1: nut\n  0: bolt")
    train = read(tmp_path).train
    assert train.classes == ("bolt", "nut", "pin") and train.labels[0].labels.tolist() == [1]


def test_pictures_without_a_text_with_an_empty_one_and_with_blanks_are_backgrounds(root):
    picture(root / "images" / "d.jpg")
    alone(root)
    write(root / "labels" / "c.txt", " \n\t\n")
    said = []
    train = read(root, said).train
    assert {name: found.boxes.shape for name, found in by_name(train).items()} == {
        "a.jpg": (0, 4), "b.jpg": (1, 4), "c.jpg": (0, 4), "d.jpg": (0, 4)}  # fmt: skip
    assert said == []


def test_the_nearest_images_is_exchanged_for_labels(tmp_path):
    root = tmp_path / "images"  # above the data set: not meant
    picture(root / "images" / "train" / "images" / "a.jpg")
    write(root / "images" / "train" / "labels" / "a.txt", MIDDLE)
    write(root / "labels" / "train" / "images" / "a.txt", "0 0.1 0.1 0.1 0.1")  # the farther one
    write(root / "data.yaml", "train: images/train/images\nnames: [bolt]\n")
    train = read(root).train
    assert boxes(train, "a.jpg") == [[24, 12, 40, 36]] and train.classes == ("bolt",)


def test_parts_below_images_and_labels(tmp_path):
    for part in ("train", "val"):
        picture(tmp_path / "images" / part / "deep" / f"{part}.jpg")
        write(tmp_path / "labels" / part / "deep" / f"{part}.txt", MIDDLE)
    assert has_objects(tmp_path)
    assert [len(samples.labels[0]) for samples in read(tmp_path).parts().values()] == [1, 1]


def test_a_set_without_any_label_is_refused_and_told_where_they_were_looked_for(root):
    for name in ("labels/b.txt", "classes.txt"):
        (root / name).unlink()
    write(root / "label" / "a.txt", MIDDLE)
    write(root / "data.yaml", "train: images\nnames: [bolt]\n")
    refused(root, "no labels for any of 3 train pictures", str(root / "labels" / "a.txt"))
    (root / "data.yaml").unlink()
    assert has_objects(root)
    refused(root, "no labels for any of 3 pictures")


def test_a_set_of_backgrounds_alone_is_refused(root):
    write(root / "labels" / "b.txt", "\n")
    refused(root, "none of its 3 pictures has an object")


def test_a_row_that_is_written_twice_is_read_once(root):
    alone(root, MIDDLE, MIDDLE, "1 0.5 0.5 0.25 0.5")
    said = []
    assert by_name(read(root, said).train)["a.jpg"].labels.tolist() == [0, 1]
    assert any("1 objects are written twice" in note and "a.txt, line 2" in note for note in said)


def test_label_studios_export_is_read(root):
    write(root / "classes.txt", "\ufeffbolt\r\nnut\r\n\r\n", newline="")
    dump(root / "notes.json", {"categories": [{"id": 0, "name": "bolt"}, {"id": 1, "name": "nut"}], "info": {}})
    alone(root, "1 0.5 0.5 0.25 0.5\r")
    said = []
    train = read(root, said).train
    assert train.classes == ("bolt", "nut") and by_name(train)["a.jpg"].labels.tolist() == [1] and said == []


def test_texts_beside_pictures_and_cvats_lists_are_read(tmp_path):
    for name in "ab":
        picture(tmp_path / "obj_train_data" / f"{name}.jpg")
        write(tmp_path / "obj_train_data" / f"{name}.txt", MIDDLE)
    write(tmp_path / "obj.names", "bolt\n")
    assert has_objects(tmp_path) and len(read(tmp_path).train) == 2
    write(tmp_path / "data.yaml", "path: .\ntrain: train.txt\nnames:\n  0: bolt\n")
    write(tmp_path / "train.txt", "data/obj_train_data/b.jpg\n\n")
    said = []
    assert [path.name for path in read(tmp_path, said).train.images] == ["b.jpg"]
    assert any("1 pictures have no annotations that are read" in note for note in said)
    write(tmp_path / "train.txt", "data/obj_train_data/b.jpg\ngone.jpg\n")
    refused(tmp_path, "train.txt names 1 of 2 pictures", "line 2 (gone.jpg)")


def test_without_names_classes_are_called_by_their_numbers(root):
    (root / "classes.txt").unlink()
    alone(root, "2 0.5 0.5 0.25 0.5")
    assert read(root).train.classes == ("0", "1", "2")


@pytest.mark.parametrize(
    ("row", "told"),
    [
        ("0 0.5 nan 0.1 0.1", "nan is no finite number"),
        ("0 0.5 1e400 0.1 0.1", "inf is no finite number"),
        ("7 0.5 0.5 0.1 0.1", "class 7 has no name; known: 0 bolt, 1 nut"),
        ("-1 0.5 0.5 0.1 0.1", "expected the number of a class"),
        ("0 0.5 0.5 0.1", "expected 'class x y width height'"),
        ("0 0.5 0.5 0.1 x", "expected numbers, got 'x'"),
        ("0 0,5 0,5 0,1 0,1", "expected numbers, got '0,5'"),
        ("bolt 0.5 0.5 0.1 0.1", "expected numbers, got 'bolt'"),
    ],
)
def test_rows_that_cannot_be_understood_are_refused_with_their_line(root, row, told):
    alone(root, MIDDLE, row)
    refused(root, "a.txt, line 2", told)
    alone(root, row, MIDDLE)
    assert has_objects(root)


def test_texts_without_a_picture_and_pictures_that_share_one_are_refused(root):
    write(root / "labels" / "gone.txt", MIDDLE)
    refused(root, "1 of 2 label files have no picture", "gone.txt")
    (root / "labels" / "gone.txt").unlink()
    picture(root / "images" / "b.png")
    refused(root, "b.txt could be of any of", "b.png")


@pytest.mark.parametrize(
    ("yaml", "told"),
    [
        ("names: [bolt, nut]\nnc: 3", "nc is 3, but there are 2 names"),
        ("names: [bolt, nut, bolt]", "classes 0 and 2 are both called bolt"),
        ("names: [bolt, nut", "data.yaml, line 2: expected , or ]"),
        ("names: bolt", "expected a list of names"),
        ("names: [bolt, pin]", "name other classes"),
    ],
)
def test_names_that_contradict_each_other_are_refused(root, yaml, told):
    write(root / "data.yaml", f"train: images\n{yaml}\n")
    if "other" not in told:
        (root / "classes.txt").unlink()
    refused(root, told)


def test_a_turned_photograph_is_taken_as_annotated_upright_and_that_is_said(root):
    picture(root / "images" / "b.jpg", orientation=6)
    said = []
    assert boxes(read(root, said).train, "b.jpg") == [[18, 16, 30, 48]]
    assert any("1 pictures are turned by their EXIF" in note for note in said)


def test_folders_of_pictures_and_of_masks_hold_no_objects(tmp_path):
    picture(tmp_path / "images" / "a.jpg")
    picture(tmp_path / "labels" / "a.png")
    picture(tmp_path / "train" / "cat" / "a.jpg")
    write(tmp_path / "labels.csv", "image,kind\na.jpg,cat\n")
    dump(tmp_path / "result.json", {"scores": [1, 2]})
    assert not has_objects(tmp_path)
    refused(tmp_path, "holds no annotations of objects", "COCO JSON")


YAML = """
path: ../datasets/coco8 # where
train:  # two
  - images/train
  - more/train
val: C:\\data\\val
test:
names:
- a
- 'it''s: b, c'
- "d # e"
download: |
  names: [1]
  # no comment

  more
flip_idx: [0,
  'x]', {1: y, "z": w v}]
'q r': s
"""


def test_yaml_is_read_as_text():
    assert read_yaml(YAML) == {
        "path": "../datasets/coco8",
        "train": ["images/train", "more/train"],
        "val": "C:\\data\\val",
        "test": None,
        "names": ["a", "it's: b, c", "d # e"],
        "download": "",
        "flip_idx": ["0", "x]", {"1": "y", "z": "w v"}],
        "q r": "s",
    }


@pytest.mark.parametrize("text", ["a: [b", "a: b\n   c: d", "a: {b c", "a: 1\na: 2", "a: [b] c", "- a\nb: c"])
def test_yaml_that_is_none_is_refused_with_its_line(text):
    with pytest.raises(ValueError, match="line [12]"):
        read_yaml(text)


CORNER = st.tuples(st.integers(0, 62), st.integers(0, 46))
SIDES = st.tuples(st.integers(1, 64), st.integers(1, 48))
NAMES = ("bolt", "nut", "pin")


@settings(max_examples=15)
@given(st.lists(st.tuples(CORNER, SIDES, st.sampled_from(range(3))), min_size=1, max_size=6, unique=True))
def test_the_same_boxes_are_read_from_all_three_formats(drawn):
    # the last boxes make all three classes occur, for VOC has only those that do
    rows = [(x, y, min(x + w, 64), min(y + h, 48), label) for (x, y), (w, h), label in drawn]
    rows = list(dict.fromkeys([*rows, *((0, 0, 64, 48, label) for label in range(3))]))
    with tempfile.TemporaryDirectory() as folder:
        roots = [Path(folder) / name for name in ("coco", "voc", "yolo")]
        for root in roots:
            picture(root / "a.png")
        marks = [mark(i, 5, (x, y, r - x, b - y), label + 1) for i, (x, y, r, b, label) in enumerate(rows)]
        dump(roots[0] / "a.json", coco([image(5, "a.png")], marks, NAMES))
        write(roots[1] / "a.xml", voc(*(thing(NAMES[la], (x + 1, y + 1, r, b)) for x, y, r, b, la in rows)))
        middles = [(la, (x + r) / 128, (y + b) / 96, (r - x) / 64, (b - y) / 48) for x, y, r, b, la in rows]
        write(roots[2] / "a.txt", "\n".join(" ".join(f"{v:.6f}" if v else "0" for v in row) for row in middles))
        write(roots[2] / "classes.txt", "\n".join(NAMES))
        for root in roots:
            said = []
            train = read(root, said).train
            assert train.classes == NAMES and said == []
            assert np.allclose(boxes(train, "a.png"), [row[:4] for row in rows], atol=1e-3)
            assert train.labels[0].labels.tolist() == [row[4] for row in rows]


def test_capitals_of_folders_and_extensions_do_not_lose_labels(tmp_path):
    picture(tmp_path / "Images" / "a.JPG")
    write(tmp_path / "Labels" / "a.TXT", MIDDLE)
    assert has_objects(tmp_path) and len(read(tmp_path).train.labels[0]) == 1


def test_cvats_folders_are_parts(tmp_path):
    for part in ("train", "valid"):
        picture(tmp_path / f"obj_{part}_data" / f"{part}.jpg")
        write(tmp_path / f"obj_{part}_data" / f"{part}.txt", MIDDLE)
    write(tmp_path / "obj.names", "bolt")
    assert list(read(tmp_path).parts()) == ["train", "val"]
