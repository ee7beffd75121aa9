"""What labels a folder's pictures: found in an order, asked for by task, or refused in words."""

import json
import warnings

import numpy as np
import pytest
from annotated import SIZE, coco, dump, image, mark, thing, voc, write
from PIL import Image

from sidetune.data.boxlayout import like_classes
from sidetune.data.check import check_images
from sidetune.data.forms import KNOWN, form_of
from sidetune.data.reading import Reading
from sidetune.data.sources import Source, read_data, read_scored, read_training
from sidetune.data.table import read_table
from sidetune.edge.images import read_items
from sidetune.errors import DataError, DataWarning


def picture(path):
    """Unlike those of other names."""
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(list(path.name.encode())).integers(0, 256, (*SIZE[::-1], 3), np.uint8)
    Image.fromarray(noise).save(path)


ROW = "0 0.5 0.5 0.25 0.5\n"


def yolo(root, count=10, part="", rows=ROW):
    """Pictures of different bytes, each with a text."""
    for i in range(count):
        picture(root / "images" / part / f"{part}{i}.jpg")
        write(root / "labels" / part / f"{part}{i}.txt", rows)
    return root


def masks(root, count=10):
    for i in range(count):
        picture(root / "images" / f"m{i}.jpg")
        (root / "masks").mkdir(exist_ok=True)
        Image.fromarray(np.arange(SIZE[0] * SIZE[1], dtype=np.uint8).reshape(SIZE[::-1]) % 3).save(
            root / "masks" / f"m{i}.png"
        )
    return root


def classes(root, *parts):
    for part in parts or ("",):
        for name in ("cat", "dog"):
            for i in range(6):
                picture(root / part / name / f"{part}{name}{i}.jpg")
    return root


def roboflow(root, *parts):
    for part in parts:
        picture(root / part / f"{part}.jpg")
        dump(root / part / "_annotations.coco.json", coco([image(1, f"{part}.jpg")], [mark(1, 1, category=2)]))
    return root


def vocdir(root, count=10):
    for i in range(count):
        picture(root / "JPEGImages" / f"v{i}.jpg")
        write(root / "Annotations" / f"v{i}.xml", voc(thing(), filename=f"v{i}.jpg"))
    return root


def table(root, count=10):
    for i in range(count):
        picture(root / f"t{i}.jpg")
    write(root / "labels.csv", "image,age\n" + "".join(f"t{i}.jpg,{i}.5\n" for i in range(count)))
    return root


# What is found


@pytest.mark.parametrize(
    ("make", "form"),
    [(yolo, "boxes"), (vocdir, "boxes"), (masks, "masks"), (table, "table"), (classes, "folders")],
)
def test_each_is_known_by_itself(tmp_path, make, form):
    make(tmp_path)
    assert form_of(tmp_path) == form
    tasks = {"boxes": "detection", "masks": "segmentation", "table": "regression", "folders": "classification"}
    assert read_data(tmp_path).train.task == tasks[form] and read_training(tmp_path)[0].task == tasks[form]


def test_cocos_and_roboflows_trees_are_no_classes(tmp_path):
    for part in ("train2017", "val2017"):
        picture(tmp_path / "a" / part / "1.jpg")
        dump(tmp_path / f"a/annotations/instances_{part}.json", coco([image(1, "1.jpg")], [mark(1, 1)]))
    roboflow(tmp_path / "b", "train", "valid", "test")
    assert form_of(tmp_path / "a") == form_of(tmp_path / "b") == "boxes"


def test_of_several_the_first_in_the_order_counts_where_no_task_is_asked_for(tmp_path):
    assert list(KNOWN) == ["table", "masks", "lists", "boxes"]
    yolo(tmp_path)
    assert form_of(tmp_path) == "boxes"
    write(tmp_path / "train800.txt", "images/0.jpg 0\n")
    assert form_of(tmp_path) == "lists"
    masks(tmp_path)
    assert form_of(tmp_path) == "masks"
    table(tmp_path)
    assert form_of(tmp_path) == "table"
    asked = {"detection": "boxes", "segmentation": "masks", "regression": "table", "classification": "table"}
    assert {task: form_of(tmp_path, task) for task in asked} == asked


def test_a_layout_is_for_folders_of_classes(tmp_path):
    yolo(classes(tmp_path))
    assert form_of(tmp_path, layout="classes") == "folders"
    assert form_of(tmp_path, "detection", layout="classes") == "boxes"


@pytest.mark.parametrize("parts", [(), ("train", "val")])
def test_annotations_beside_folders_of_classes_are_to_be_told_apart_by_the_user(tmp_path, parts):
    classes(tmp_path, *parts)
    names = [f"{part}/{n}/{part}{n}{i}.jpg" for part in parts or ("",) for n in ("cat", "dog") for i in range(6)]
    pictures = [image(i, name.lstrip("/")) for i, name in enumerate(names)]
    dump(tmp_path / "all.json", coco(pictures, [mark(i, i) for i in range(len(names))]))
    for read in (read_data, read_training, read_items):
        with pytest.raises(DataError, match=r"could be classes \(cat, dog\).*--task detection.*--task classification"):
            read(tmp_path)
    assert read_data(tmp_path, task="classification").train.classes == ("cat", "dog")
    assert read_data(tmp_path, layout="parts" if parts else "classes").train.task == "classification"
    assert read_data(tmp_path, task="detection").train.classes == ("bolt", "nut")


def test_folders_that_annotated_sets_have_are_no_classes(tmp_path):
    for name in ("images", "val2017", "VOC2007"):
        picture(tmp_path / name / "1.jpg")
        picture(tmp_path / "cat/1.jpg")
        assert like_classes(tmp_path) == []
        (tmp_path / name / "1.jpg").unlink()
    picture(tmp_path / "dog/1.jpg")
    assert [folder.name for folder in like_classes(tmp_path)] == ["cat", "dog"]


# What is asked for and is not there


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (masks, r"; it has pictures with masks: --task segmentation \(in Python: task='segmentation'\)$"),
        (table, "; it has a table$"),
        (classes, "or images/1.jpg and labels/1.txt$"),
    ],
)
def test_detection_without_annotations_says_what_is_expected_and_what_there_is(tmp_path, make, told):
    make(tmp_path)
    expected = f"has no annotations of objects; expected COCO JSON, Pascal VOC XML or YOLO's texts.*{told}"
    for read in (read_data, read_training):
        with pytest.raises(DataError, match=expected):
            read(tmp_path, task="detection")
    with pytest.raises(DataError, match=expected):
        read_scored(tmp_path, ("bolt",), task="detection")


def test_other_tasks_of_a_folder_with_boxes_are_told_that_there_are_boxes(tmp_path):
    yolo(tmp_path)
    for task, lacks in (("segmentation", "no pictures with masks"), ("regression", "no labels.csv or train.csv")):
        with pytest.raises(DataError, match=f"{lacks}.*; it has annotations of objects: --task detection"):
            read_data(tmp_path, task=task)
    with pytest.raises(ValueError, match="unknown task"):
        read_data(tmp_path, task="detecton")


def test_masks_of_objects_are_refused_in_words_and_their_boxes_taken(tmp_path):
    polygon = "0 0.1 0.1 0.5 0.1 0.5 0.9\n"
    yolo(tmp_path, rows=polygon)
    for read in (read_data, read_training):
        with pytest.raises(ValueError, match=r"instances.*cannot be learned yet; --task detection .*takes the boxes"):
            read(tmp_path, task="instances")
    train = read_data(tmp_path).train
    assert train.task == "detection" and train.labels[0].outlines is None
    np.testing.assert_allclose(train.labels[0].boxes, [[6.4, 4.8, 32, 43.2]], rtol=1e-6)


def test_a_table_of_boxes_is_refused_in_words(tmp_path):
    with pytest.raises(DataError, match="a table is for classification, multilabel, regression, not for detection"):
        read_table(table(tmp_path) / "labels.csv", "detection")


def test_a_path_that_leads_nowhere_or_to_a_file_is_no_folder(tmp_path):
    path = write(tmp_path / "a.txt", ROW)
    for task in (None, "detection"):
        with pytest.raises(DataError, match="no folder at"):
            read_data(tmp_path / "nowhere", task=task)
        with pytest.raises(DataError, match="a.txt (is a file|has no annotations)"):
            read_data(path, task=task)


def test_the_device_refuses_boxes(tmp_path):
    with pytest.raises(DataError, match="annotations of objects; the device learns one label an image"):
        read_items(yolo(tmp_path))


# Parts


def test_a_set_without_parts_is_trained_and_scored_on_whole_or_split_the_same_way(tmp_path):
    yolo(tmp_path)
    samples, val = read_training(tmp_path, task="detection")
    assert len(samples) == 10 and val is None
    name, scored = read_scored(tmp_path, samples.classes, task="detection")
    assert (name, len(scored)) == (str(tmp_path), 10)
    splits = read_data(tmp_path)
    assert [len(part) for part in splits.parts().values()] == [7, 1, 2]
    for part in ("train", "val", "test"):
        name, again = read_scored(tmp_path, samples.classes, part=part, task="detection")
        assert name.endswith(f"({part})") and again.images == splits.parts()[part].images
    assert read_scored(tmp_path, samples.classes, split=True)[1].images == splits.test.images


def test_of_parts_the_test_images_are_scored_or_those_that_are_named(tmp_path):
    roboflow(tmp_path, "train", "valid", "test", "night")
    with pytest.warns(DataWarning, match="1 pictures have no annotations that are read.*night"):
        train, val = read_training(tmp_path)
    assert [path.name for path in (*train.images, *val.images)] == ["train.jpg", "valid.jpg"]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DataWarning)
        found = {
            part: read_scored(tmp_path, ("nut", "bolt"), part=part, task="detection")
            for part in (None, "val", "train", "night")
        }
        with pytest.raises(ValueError, match="unknown part of .*'nigt'"):
            read_scored(tmp_path, ("nut", "bolt"), part="nigt", task="detection")
    assert {part: samples.images[0].name for part, (_, samples) in found.items()} == {
        None: "test.jpg",
        "val": "valid.jpg",
        "train": "train.jpg",
        "night": "night.jpg",
    }
    assert found[None][0].endswith("(test)") and found["night"][0].endswith("(night)")


def test_a_models_classes_decide_numbers_by_name_and_training_images_are_not_needed(tmp_path):
    roboflow(tmp_path, "valid")
    for order, number in ((("nut", "bolt"), 0), (("screw", "bolt", "nut"), 2)):
        _, scored = read_scored(tmp_path, order, task="detection")
        assert scored.classes == order and scored.labels[0].labels.tolist() == [number]
    with pytest.raises(DataError, match="classes that are not known: nut; known: bolt"):
        read_scored(tmp_path, ("bolt",), task="detection")
    with pytest.raises(DataError, match="none of train"):
        read_training(tmp_path, task="detection")
    with pytest.raises(DataError, match="has val and no train"):
        read_training(tmp_path, ("bolt", "nut"), task="detection")


def test_a_source_is_read_again_as_it_was(tmp_path):
    roboflow(tmp_path, "train", "valid")
    first, again = (Source(name=str(tmp_path), task=task).read() for task in ("detection", None))
    assert first.train.digest() == again.train.digest() and first.val.digest() == again.val.digest()
    assert first.final().train.digest() != first.train.digest() and len(first.final().train) == 2


def test_the_same_picture_with_other_objects_is_said(tmp_path):
    yolo(tmp_path, 3)
    (tmp_path / "images/1.jpg").write_bytes((tmp_path / "images/2.jpg").read_bytes())
    with pytest.warns(DataWarning, match="several times in one part"):
        read_training(tmp_path)
    write(tmp_path / "labels/1.txt", "0 0.5 0.5 0.5 0.5\n")
    with pytest.warns(DataWarning, match="stand with other objects each time"):
        read_training(tmp_path)


# What is left out on request


def refused_or_left_out(root, told, count):
    with pytest.raises(DataError, match=rf"{told}.*--skip-bad \(skip_bad=True\)"):
        read_data(root, task="detection")
    with pytest.warns(DataWarning, match=f"left out: .*{told}"):
        splits = read_data(root, task="detection", skip_bad=True)
    assert sum(len(part) for part in splits.parts().values()) == count


def test_pictures_that_coco_lists_and_that_are_not_there(tmp_path):
    for i in range(4):
        picture(tmp_path / f"images/{i}.jpg")
    listed = [image(i, f"{i}.jpg") for i in range(6)]
    dump(tmp_path / "annotations.json", coco(listed, [mark(i, i) for i in range(6)]))
    refused_or_left_out(tmp_path, "lists 2 of 6 pictures that are not under", 4)


def test_xml_without_a_picture(tmp_path):
    vocdir(tmp_path, 5)
    (tmp_path / "JPEGImages/v2.jpg").unlink()
    refused_or_left_out(tmp_path, "1 of 5 XML files have no picture", 4)
    write(tmp_path / "ImageSets/Main/train.txt", "v0\nv1\nv2\nv3\n")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DataWarning)
        splits = read_data(tmp_path, skip_bad=True)
    assert len(splits.final().train) == 3


def test_texts_without_a_picture_and_lists_of_missing_ones(tmp_path):
    yolo(tmp_path, 5)
    write(tmp_path / "labels/gone.txt", ROW)
    refused_or_left_out(tmp_path, "1 of 6 label files have no picture", 5)
    (tmp_path / "labels/gone.txt").unlink()
    write(tmp_path / "data.yaml", "names: [bolt]\ntrain: train.txt\n")
    write(tmp_path / "train.txt", "".join(f"images/{name}.jpg\n" for name in (*range(5), "gone")))
    with pytest.raises(DataError, match=r"train.txt names 1 of 6 pictures.*--skip-bad"):
        read_data(tmp_path)
    with pytest.warns(DataWarning, match="left out: train.txt names 1 of 6 pictures"):
        splits = read_data(tmp_path, skip_bad=True)
    assert len(splits.final().train) == 5


def test_a_damaged_picture_is_left_to_the_check_of_all_images(tmp_path):
    yolo(tmp_path, 5)
    (tmp_path / "images/2.jpg").write_bytes(b"no picture")
    with pytest.raises(DataError, match="2.jpg cannot be read"):
        read_data(tmp_path)
    parts = read_data(tmp_path, skip_bad=True).parts().values()
    samples = [check_images(part, skip_bad=True, all_classes=False) for part in parts]
    assert sum(len(good) for good, _ in samples) == 4 and sum(len(bad) for _, bad in samples) == 1
    assert all(len(objects) == 1 for good, _ in samples for objects in good.labels)


def test_bad_images_are_not_left_out_where_no_object_would_be_left(tmp_path):
    for i in range(3):
        picture(tmp_path / f"images/{i}.jpg")
    write(tmp_path / "labels/0.txt", ROW)
    samples, _ = read_training(tmp_path)
    (tmp_path / "images/0.jpg").write_bytes(b"no picture")
    with pytest.raises(DataError, match="without its bad images no object is left\n1 image .*\n.*0.jpg"):
        check_images(samples, skip_bad=True)
    assert len(check_images(samples, skip_bad=True, all_classes=False)[0]) == 2


def test_a_picture_of_another_size_than_its_boxes_were_held_against_is_bad(tmp_path):
    train = read_data(yolo(tmp_path, 3)).final().train
    Image.new("RGB", (30, 20)).save(train.images[0])
    with pytest.raises(DataError, match=r"has 30 x 20 pixels, the picture of its boxes 64 x 48"):
        check_images(train)
    assert len(check_images(train, skip_bad=True)[0]) == 1


def test_large_pictures_are_read_as_the_reading_allows(tmp_path, monkeypatch):
    yolo(tmp_path, 3)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    for read in (read_data, read_training):
        with pytest.raises(DataError, match="too many pixels.*max_pixels allows more"):
            read(tmp_path)
    with pytest.raises(DataError, match="max_pixels"):
        read_scored(tmp_path, ("0",), task="detection")
    large = Reading(max_pixels=SIZE[0] * SIZE[1])
    for samples in (read_data(tmp_path, reading=large).train, read_scored(tmp_path, ("0",), reading=large)[1]):
        assert samples.image(0).size == SIZE and len(samples.labels[0]) == 1


def test_annotations_are_described_as_json(tmp_path):
    found = read_data(roboflow(tmp_path, "train", "valid")).train.labels[0]
    assert json.loads(json.dumps(found.described()))["boxes"] == [[10, 10, 30, 30]]
