"""COCO JSON as tools leave it: what is read, what is cut or dropped and said, what is refused."""

import json

import numpy as np
import pytest
from annotated import boxes, by_name, coco, dump, image, mark, picture, read
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from sidetune.data.boxlayout import has_objects
from sidetune.data.detections import read_objects
from sidetune.data.images import open_image
from sidetune.data.objects import Objects
from sidetune.data.outlines import Polygons, Runs, polygons_of, unpacked
from sidetune.data.turning import turned_mask, turned_points
from sidetune.errors import DataError

TREE = [[10, 10, 30, 10, 30, 30, 10, 30]]


@pytest.fixture
def root(tmp_path):
    """Two pictures; tests write what is said of them."""
    for name in ("a.jpg", "b.jpg"):
        picture(tmp_path / "images" / name)
    return tmp_path


def alone(root, annotations, images=None, names=("bolt", "nut"), **how):
    images = [image(1, "a.jpg"), image(2, "b.jpg")] if images is None else images
    return dump(root / "result.json", coco(images, annotations, names))


def refused(root, *told, **how):
    with pytest.raises(DataError) as caught:
        read(root, **how)
    for words in told:
        assert words in str(caught.value), str(caught.value)


def test_category_ids_are_names_and_classes_are_numbered_by_us(root):
    names = [{"id": 81234567, "name": "nut"}, {"id": 0, "name": "bolt"}, {"id": 7, "name": "pin"}]
    alone(root, [mark(1, 1, category=81234567), mark(2, 1, (0, 0, 5, 5), category=0)], names=names)
    assert has_objects(root)
    said = []
    train = read(root, said).train
    assert train.classes == ("bolt", "pin", "nut") and train.task == "detection"
    assert by_name(train)["a.jpg"].labels.tolist() == [2, 0]
    assert boxes(train, "a.jpg") == [[10, 10, 30, 30], [0, 0, 5, 5]]
    assert by_name(train)["a.jpg"].size == (48, 64) and len(by_name(train)["b.jpg"]) == 0
    assert said == []


def roboflow(tmp_path, annotate_root=False):
    names = [{"id": 0, "name": "gadgets", "supercategory": "none"}]
    names += [{"id": i, "name": n, "supercategory": "gadgets"} for i, n in ((1, "bolt"), (2, "nut"))]
    for part in ("train", "valid", "test"):
        picture(tmp_path / part / f"{part}.jpg", quality=90)
        category = 0 if annotate_root and part == "test" else 2
        data = coco([image(0, f"{part}.jpg")], [mark(0, 0, category=category)], names)
        dump(tmp_path / part / "_annotations.coco.json", data)


def test_roboflows_made_up_root_is_no_class(tmp_path):
    roboflow(tmp_path)
    said = []
    assert has_objects(tmp_path)
    splits = read(tmp_path, said)
    assert splits.train.classes == ("bolt", "nut")
    assert [samples.labels[0].labels.tolist() for samples in splits.parts().values()] == [[1], [1], [1]]
    assert list(splits.parts()) == ["train", "val", "test"]
    assert any("left out" in note and "gadgets" in note for note in said)


def test_a_root_that_has_objects_in_some_part_is_a_class(tmp_path):
    roboflow(tmp_path, annotate_root=True)
    splits = read(tmp_path)
    assert splits.train.classes == ("gadgets", "bolt", "nut")
    assert splits.test.labels[0].labels.tolist() == [0]


def test_boxes_are_cut_to_the_picture_and_empty_ones_dropped(root):
    bad = [(-5, 40, 15, 20), (100, 100, 5, 5), (5, 5, 0, 5), (20, 20, -4, 4)]
    alone(root, [mark(i, 1, box) for i, box in enumerate([(1, 2, 3, 4), *bad], start=1)])
    said = []
    assert boxes(read(root, said).train, "a.jpg") == [[1, 2, 4, 6], [0, 40, 10, 48]]
    assert any("1 boxes reach over the edge" in note and "annotation 2" in note for note in said)
    assert any("3 boxes are empty" in note and "annotation 3" in note for note in said)


def test_absent_area_iscrowd_and_supercategory_are_not_missed(root):
    alone(root, [{"image_id": 1, "category_id": 1, "bbox": ["10", "10", "20", "20"]}])
    said = []
    found = by_name(read(root, said).train)["a.jpg"]
    assert found.boxes.tolist() == [[10, 10, 30, 30]] and not found.aside.any() and said == []


RUNS = {"size": [48, 64], "counts": [48 * 10 + 5, 20, 48 * 64 - 48 * 10 - 25]}


def test_where_every_object_is_a_crowd_each_is_read_and_why_is_said(root):
    alone(root, [mark(1, 1, iscrowd=1, segmentation=RUNS), mark(2, 2, iscrowd=1, segmentation=RUNS)])
    said = []
    train = read(root, said, masks=True).train
    assert not any(found.aside.any() for found in train.labels) and all(map(len, train.labels))
    assert sum("every object is marked as crowd" in note for note in said) == 1


def test_real_crowds_are_kept_aside(root):
    alone(root, [mark(1, 1, iscrowd=1, segmentation=RUNS), mark(2, 1, (0, 0, 5, 5)), mark(3, 2, iscrowd=0)])
    said = []
    assert by_name(read(root, said).train)["a.jpg"].aside.tolist() == [True, False] and said == []


def test_run_lengths_are_read_as_list_and_packed_down_the_columns(root):
    counts = [485, 20, 28, 20, 48 * 64 - 553]
    packed = packed_by_hand(counts)
    wanted = np.zeros((48, 64), dtype=bool)
    wanted[5:25, 10:12] = True
    alone(root, [mark(i, i, segmentation={"size": [48, 64], "counts": c}) for i, c in ((1, counts), (2, packed))])
    for found in read(root, masks=True).train.labels:
        assert (found.outlines[0].mask(48, 64) == wanted).all()


def packed_by_hand(counts):
    """COCO's packing, written from its description apart from the reader."""
    text = ""
    for i, count in enumerate(counts):
        value = count - (counts[i - 2] if i > 2 else 0)
        while True:
            low, value = value & 31, value >> 5
            done = value == (-1 if low & 16 else 0)
            text += chr(48 + low + (0 if done else 32))
            if done:
                break
    return text


def test_a_flat_list_is_one_polygon(root):
    alone(root, [mark(1, 1, segmentation=TREE[0]), mark(2, 2, segmentation=[[10, 10], [30, 10], [30, 30], [10, 30]])])
    said = []
    for found in read(root, said, masks=True).train.labels:
        assert found.outlines[0].mask(48, 64).sum() == 400
    assert said == []


def test_polygons_of_two_and_four_numbers_are_no_masks_and_their_boxes_are_good(root):
    alone(root, [mark(1, 1, segmentation=[[10, 10, 30, 30]]), mark(2, 1, (1, 1, 4, 4), segmentation=[[5, 5]]),
                 mark(3, 1, (2, 2, 9, 9), segmentation=TREE)])  # fmt: skip
    said = []
    assert len(by_name(read(root, said).train)["a.jpg"]) == 3 and said == []
    assert boxes(read(root, said, masks=True).train, "a.jpg") == [[2, 2, 11, 11]]
    assert any("2 objects have a box and no mask" in note and "annotation 1" in note for note in said)


@pytest.mark.parametrize("nothing", [[], None, "absent"])
def test_boxes_alone_are_refused_as_instances(root, nothing):
    alone(root, [mark(1, 1, **({} if nothing == "absent" else {"segmentation": nothing}))])
    refused(root, "boxes only", "--task detection", masks=True)
    assert len(by_name(read(root).train)["a.jpg"]) == 1


def test_a_missing_box_is_the_one_around_the_polygon(root):
    alone(root, [mark(1, 1, None, segmentation=TREE), mark(2, 2, None, segmentation=RUNS, bbox=None),
                 mark(3, 2, (), segmentation=TREE)])  # fmt: skip
    said = []
    train = read(root, said).train
    assert boxes(train, "a.jpg") == [[10, 10, 30, 30]]
    assert boxes(train, "b.jpg") == [[10, 5, 11, 25], [10, 10, 30, 30]] and said == []


def test_windows_paths_are_read_also_those_that_lead_out_of_the_folder(root):
    picture(root.parent / "a.jpg")  # outside: never meant
    alone(root, [mark(1, 1)], [image(1, "..\\..\\old\\a.jpg"), image(2, "images\\b.jpg")])
    assert [path.parent for path in read(root).train.images] == [root / "images"] * 2


def test_names_are_taken_literally_first_and_percent_decoded_second(root):
    picture(root / "images" / "my bolt.jpg")
    for name in ("at%3A5.jpg", "at:5.jpg"):
        picture(root / "images" / name)
    alone(root, [mark(1, 1)], [image(1, "my%20bolt.jpg"), image(2, "at%3A5.jpg")])
    assert [path.name for path in read(root).train.images] == ["my bolt.jpg", "at%3A5.jpg"]


def test_another_extension_is_found_by_the_stem_and_said(tmp_path):
    for name in ("a.JPG", "a.png", "b.jpg"):
        picture(tmp_path / name)
    alone(tmp_path, [mark(1, 1)], [image(1, "a.jpg"), image(2, "b.jpeg")])
    said = []
    assert [path.name for path in read(tmp_path, said).train.images] == ["a.JPG", "b.jpg"]
    assert any("2 pictures have another extension" in note and "a.jpg -> a.JPG" in note for note in said)


def test_a_guessed_picture_of_another_size_is_refused(tmp_path):
    picture(tmp_path / "a.png", (32, 32))
    alone(tmp_path, [mark(1, 1)], [image(1, "a.jpg")])
    refused(tmp_path, "1 of 1 pictures have another size", "a.png has 32 x 32", "not 64 x 48")


def test_two_entries_that_could_be_of_one_picture_are_refused(tmp_path):
    picture(tmp_path / "a.jpg")
    alone(tmp_path, [mark(1, 1)], [image(1, "a.png"), image(2, "a.bmp")])
    refused(tmp_path, "a.png", "a.bmp", "are both of the picture")


@pytest.mark.parametrize("side", [-1, 0, None])
def test_sizes_that_say_nothing_are_those_of_the_pictures(root, side):
    alone(root, [mark(1, 1)], [image(1, "a.jpg", side, side), image(2, "b.jpg", "64", "48")])
    said = []
    assert by_name(read(root, said).train)["a.jpg"].size == (48, 64) and said == []


@pytest.mark.parametrize("orientation", range(2, 9))
def test_boxes_and_masks_turn_with_a_photograph_whose_stored_pixels_were_annotated(tmp_path, orientation):
    """Proved on the pixels: what is white in the file is what the box and the mask hold when it is upright."""
    pixels = np.zeros((48, 64), dtype=np.uint8)
    pixels[5:20, 40:60] = 255
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(pixels).save(tmp_path / "a.png", exif=exif)
    picture(tmp_path / "b.jpg", orientation=6)  # tells that the set is of stored pixels where `a` does not
    ring = [40, 5, 60, 5, 60, 20, 40, 20]
    changes = np.flatnonzero(np.diff(pixels.T.ravel().astype(int), prepend=0)).tolist()
    runs = {"size": [48, 64], "counts": np.diff([0, *changes, 48 * 64]).tolist()}
    marks = [mark(1, 1, (40, 5, 20, 15), segmentation=[ring]), mark(2, 1, (40, 5, 20, 15), segmentation=runs)]
    alone(tmp_path, [*marks, mark(3, 2, segmentation=TREE)], [image(1, "a.png"), image(2, "b.jpg")])
    found = by_name(read(tmp_path, masks=True).train)["a.png"]
    upright = np.asarray(open_image(tmp_path / "a.png"))[:, :, 0] > 0
    assert found.size == upright.shape
    for box, outline in zip(found.boxes.astype(int), found.outlines, strict=True):
        assert (outline.mask(*found.size) == upright).all()
        inside = np.zeros_like(upright)
        inside[box[1] : box[3], box[0] : box[2]] = True
        assert (inside == upright).all()


def test_boxes_on_the_upright_view_of_a_turned_photograph_stay(tmp_path):
    picture(tmp_path / "a.jpg", orientation=6)
    alone(tmp_path, [mark(1, 1, (10, 30, 20, 30))], [image(1, "a.jpg", 48, 64)])
    said = []
    train = read(tmp_path, said).train
    assert boxes(train, "a.jpg") == [[10, 30, 30, 60]] and train.labels[0].size == (64, 48) and said == []


def test_without_a_size_the_frame_is_the_one_that_boxes_fit_in(tmp_path):
    picture(tmp_path / "a.jpg", orientation=6)
    alone(tmp_path, [mark(1, 1, (40, 10, 24, 20))], [image(1, "a.jpg", 0, 0)])
    assert boxes(read(tmp_path).train, "a.jpg") == [[18, 40, 38, 64]]


def test_where_nothing_tells_the_frame_it_is_said(tmp_path):
    picture(tmp_path / "a.jpg", (64, 64), orientation=6)
    alone(tmp_path, [mark(1, 1)], [image(1, "a.jpg", 64, 64)])
    said = []
    assert boxes(read(tmp_path, said).train, "a.jpg") == [[10, 10, 30, 30]]
    assert any("turned by their EXIF" in note and "upright view" in note for note in said)


def test_annotations_that_share_an_id_are_both_read(root):
    alone(root, [mark(1, 1), mark(1, 2, (1, 1, 5, 5))])
    assert [len(found) for found in read(root).train.labels] == [1, 1]


def test_pictures_that_share_an_id_are_refused(root):
    alone(root, [mark(1, 1)], [image(1, "a.jpg"), image(1, "b.jpg")])
    refused(root, "a.jpg", "b.jpg", "share the image id 1")


def test_a_picture_that_is_not_there_is_refused(root):
    alone(root, [mark(1, 1)], [image(1, "a.jpg"), image(2, "gone.jpg")])
    refused(root, "1 of 2 pictures", "gone.jpg")


def test_listed_pictures_are_backgrounds_and_others_stay_out(root):
    picture(root / "images" / "c.jpg")
    alone(root, [mark(1, 1)])
    said = []
    train = read(root, said).train
    assert [len(found) for found in train.labels] == [1, 0]
    assert by_name(train)["b.jpg"].boxes.shape == (0, 4)
    assert any("1 pictures have no annotations" in note and "c.jpg" in note for note in said)


@pytest.mark.parametrize("encoding", ["utf-16", "utf-8-sig"])
def test_other_encodings_are_read(root, encoding):
    path = alone(root, [mark(1, 1)], names=("Schraube ö", "nut"))
    path.write_text(json.dumps(json.loads(path.read_bytes()), ensure_ascii=False), encoding=encoding)
    assert has_objects(root) and read(root).train.classes == ("Schraube ö", "nut")


@pytest.mark.parametrize("value", ["NaN", "Infinity", "-Infinity", "1e400", '"nan"'])
def test_numbers_that_are_not_finite_are_refused(root, value):
    path = alone(root, [mark(1, 1), mark(55, 1, (987, 1, 2, 2))])
    path.write_text(path.read_text().replace("987", value))
    refused(root, "result.json, annotation 55", value.strip('"').lower()[:3].replace("1e4", "inf"))


def parted(root, train=None, val=None):
    for part, data in (("train", train), ("val", val)):
        for entry in data["images"]:
            picture(root / f"{part}2017" / entry["file_name"].rpartition("/")[2])
        dump(root / "annotations" / f"instances_{part}2017.json", data)


def test_parts_are_matched_by_the_names_of_classes(tmp_path):
    train = coco([image(1, "train2017/1.jpg")], [mark(1, 1, category=2)])
    val = coco([image(1, "val2017/1.jpg")], [mark(1, 1, category=1)], ("nut", "bolt"))
    parted(tmp_path, train, val)
    splits = read(tmp_path)
    assert splits.val.classes == ("bolt", "nut")
    assert splits.train.labels[0].labels.tolist() == splits.val.labels[0].labels.tolist() == [1]
    assert [path.parent.name for path in splits.val.images] == ["val2017"]


def test_a_trained_models_classes_decide_the_numbers(root):
    alone(root, [mark(1, 1, category=2)])
    train = read(root, classes=("pin", "nut")).train
    assert train.classes == ("pin", "nut") and train.labels[0].labels.tolist() == [1]
    refused(root, "nut", "not known", "annotation 1", classes=("pin",))


def test_pictures_that_are_in_two_parts_are_said(root):
    for part in ("train", "val"):
        dump(root / f"{part}.json", coco([image(1, "a.jpg"), image(2, "b.jpg")][: 2 - (part == "val")], [mark(1, 1)]))
    said = []
    assert len(read(root, said).val) == 1
    assert any("1 of 1 val pictures are train pictures too" in note for note in said)


def test_labelmes_json_is_refused_by_name(root):
    for name in ("a", "b"):
        shapes = [{"label": "bolt", "points": [[1, 1], [5, 5]], "shape_type": "rectangle"}]
        dump(
            root / "images" / f"{name}.json",
            {"version": "5", "flags": {}, "shapes": shapes, "imagePath": f"{name}.jpg"},
        )
    assert has_objects(root)
    refused(root, "labelme's JSON", "export COCO")


@pytest.mark.parametrize(
    ("annotations", "told"),
    [
        ([mark(1, 1), mark(7, 99)], ("annotation 7", "1 of 2 annotations are of images that are not listed")),
        ([mark(7, 1, category=9)], ("annotation 7", "category 9 is not listed")),
        ([mark(7, 1, (1, 2, 3))], ("annotation 7", "got 3 numbers")),
        ([mark(7, 1, (1, 2, None, 3))], ("annotation 7", "expected numbers as bbox")),
        ([mark(7, 1, (0.1, 0.1, 0.5, 0.5))], ("annotation 7", "look like fractions")),
        ([mark(i, 1, (40 + i, 30, 60, 45)) for i in range(3)], ("they look like x1, y1, x2, y2",)),
        ([mark(7, 1, (100, 100, 5, 5))], ("none of its 2 pictures has an object", "outside of their pictures")),
        ([], ("none of its 2 pictures has an object",)),
    ],
)
def test_what_contradicts_itself_or_leaves_nothing_is_refused(root, annotations, told):
    alone(root, annotations)
    refused(root, *told)


@pytest.mark.parametrize("broken", [{"size": [48, 64], "counts": [5, 5]}, {"size": [48, 64], "counts": "_"},
                                    {"size": [64, 48], "counts": [10, 10, 48 * 64 - 20]}])  # fmt: skip
def test_run_lengths_of_another_size_are_refused(root, broken):
    alone(root, [mark(7, 1, segmentation=broken)])
    refused(root, "annotation 7", masks=True)


def test_categories_of_one_name_and_of_one_id_are_refused(root):
    alone(root, [mark(1, 1)], names=("bolt", "bolt "))
    refused(root, "categories 1 and 2 are both called bolt")
    alone(root, [mark(1, 1)], names=[{"id": 1, "name": "bolt"}, {"id": 1, "name": "nut"}])
    refused(root, "'bolt' and 'nut' share the category id 1")


def test_a_damaged_json_is_refused_with_its_line(root):
    write = alone(root, [mark(1, 1)])
    write.write_text(json.dumps(json.loads(write.read_text()), indent=1)[:-20])
    refused(root, "result.json, line ")


def test_several_files_for_one_part_are_refused_and_captions_passed_over(tmp_path):
    data = coco([image(1, "1.jpg")], [mark(1, 1)])
    parted(tmp_path, data, data)
    dump(tmp_path / "annotations" / "captions_train2017.json", {"images": [], "annotations": []})
    assert len(read(tmp_path).train) == 1
    dump(tmp_path / "annotations" / "instances_train2014.json", data)
    refused(tmp_path, "several COCO files for train", "instances_train2014.json")


def test_one_file_without_parts_is_split_alike_each_time(tmp_path):
    for i in range(20):
        picture(tmp_path / f"{i}.jpg")
    dump(tmp_path / "annotations" / "instances_default.json",
         coco([image(i, f"{i}.jpg") for i in range(20)], [mark(i, i) for i in range(20)], ("bolt",)))  # fmt: skip
    first, again = (read_objects(tmp_path, val=0.1, test=0.2) for _ in range(2))
    assert {part: len(s) for part, s in first.parts().items()} == {"train": 14, "val": 2, "test": 4}
    assert first.train.images == again.train.images and first.train.digest() == again.train.digest()
    assert first.final().train.digest() != first.train.digest()


def test_a_test_set_without_objects_is_left_out_and_a_val_set_refused(tmp_path):
    roboflow(tmp_path)
    path = tmp_path / "test" / "_annotations.coco.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"annotations": []}))
    said = []
    assert read(tmp_path, said).test is None and any("none of the 1 test pictures" in note for note in said)
    path = tmp_path / "valid" / "_annotations.coco.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"annotations": []}))
    refused(tmp_path, "none of its 1 val pictures has an object")


@given(st.lists(st.integers(0, 2000), min_size=1, max_size=12))
def test_packed_run_lengths_come_back(counts):
    assert unpacked(packed_by_hand(counts)) == tuple(counts)


@given(st.integers(1, 9), st.integers(1, 9), st.data())
def test_run_lengths_are_the_mask_they_were_made_of(height, width, data):
    bits = np.array(data.draw(st.lists(st.booleans(), min_size=height * width, max_size=height * width)))
    wanted = bits.reshape(height, width)
    counts, inside, length = [], False, 0
    for column in range(width):
        for row in range(height):
            if bool(wanted[row, column]) != inside:
                counts, inside, length = [*counts, length], not inside, 0
            length += 1
    assert (Runs(size=(height, width), counts=(*counts, length)).mask(height, width) == wanted).all()


@given(st.lists(st.tuples(st.floats(-5, 25), st.floats(-5, 25)), min_size=3, max_size=7))
def test_a_polygons_mask_is_of_the_pixels_whose_middle_it_holds(corners):
    found = Polygons(points=(np.array(corners),)).mask(12, 20)
    for row, column in ((r, c) for r in range(12) for c in range(20)):
        x, y, inside = column + 0.5, row + 0.5, False
        for (xa, ya), (xb, yb) in zip(corners, [*corners[1:], corners[0]], strict=True):
            if (ya <= y) != (yb <= y):
                across = xa + (y - ya) * (xb - xa) / (yb - ya)
                if abs(across - x) < 1e-9:
                    return
                inside ^= across < x
        assert found[row, column] == inside


@pytest.mark.parametrize("orientation", range(1, 9))
def test_points_turn_as_masks_do(orientation):
    mask = np.zeros((4, 7), dtype=bool)
    mask[1, 5] = True
    (row,), (column,) = np.nonzero(turned_mask(mask, orientation))
    assert turned_points(np.array([[5.5, 1.5]]), orientation, (4, 7)).tolist() == [[column + 0.5, row + 0.5]]


def test_polygons_without_an_area_are_none():
    assert polygons_of([[1, 1, 5, 5, 9, 9], [1, 1, 2, 2]]) is None
    assert len(polygons_of([[1, 1, 5, 5, 9, 9], [0, 0, 4, 0, 4, 4]]).points) == 1


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"boxes": np.zeros((1, 4))}, "boxes: expected float32"),
        ({"boxes": np.array([[0, 0, 9, 5]], np.float32)}, "boxes must lie in the picture of 8 x 6"),
        ({"boxes": np.array([[0, 0, np.nan, 5]], np.float32)}, "boxes must lie in the picture"),
        ({"boxes": np.array([[3, 0, 3, 5]], np.float32)}, "boxes must have a width and a height"),
        ({"labels": np.array([-1])}, "labels must be 0 or more"),
        ({"aside": np.zeros(2, bool)}, "aside: expected bool of shape"),
        ({"outlines": ()}, "outlines: expected one of each of 1 objects"),
    ],
)
def test_objects_are_checked(changed, told):
    right = {"boxes": np.array([[0, 0, 8, 6]], np.float32), "labels": np.array([0]), "aside": np.zeros(1, bool)}
    assert len(Objects(**right, outlines=None, size=(6, 8))) == 1
    with pytest.raises(ValueError, match=told):
        Objects(**{"outlines": None, "size": (6, 8)} | right | changed)


def test_a_data_sets_digest_changes_with_any_object(root):
    digests = set()
    for more in ({}, {"iscrowd": 1}, {"segmentation": TREE}, {"box": (10, 10, 20, 21)}, {"category": 2}):
        alone(root, [mark(1, 1, **{"segmentation": RUNS} | more), mark(2, 1, (0, 0, 3, 3), segmentation=TREE)])
        digests.add(read(root, masks=True).train.digest())
    assert len(digests) == 5


def test_one_class_is_enough(root):
    alone(root, [mark(1, 1)], names=("bolt",))
    assert read(root).train.classes == ("bolt",)


def test_a_root_of_the_only_classs_name_is_left_out_all_the_same(root):
    names = [{"id": 0, "name": "bolt", "supercategory": "none"}, {"id": 1, "name": "bolt", "supercategory": "bolt"}]
    alone(root, [mark(1, 1)], names=names)
    assert read(root).train.classes == ("bolt",)


def test_the_same_object_twice_is_read_once_and_another_shape_in_the_same_box_is_another(root):
    other = [[10, 10, 30, 10, 30, 30]]
    alone(root, [mark(1, 1, segmentation=TREE), mark(2, 1, segmentation=other), mark(3, 1, segmentation=TREE)])
    said = []
    assert len(read(root, said, masks=True).train.labels[0]) == 2
    assert any("1 objects are written twice" in note and "annotation 3" in note for note in said)


def test_a_picture_that_is_listed_twice_has_the_objects_of_both_entries(root):
    alone(root, [mark(1, 1), mark(2, 9, (0, 0, 4, 4))], [image(1, "a.jpg"), image(9, "a.jpg")])
    said = []
    assert [len(found) for found in read(root, said).train.labels] == [2]
    assert any("1 pictures are listed twice" in note for note in said)


def test_names_of_pictures_in_several_folders_are_told_apart_by_their_folders(tmp_path):
    for folder in ("x", "y"):
        picture(tmp_path / "photos" / folder / "a.jpg")
    alone(tmp_path, [mark(1, 1)], [image(1, "C:\\old\\y\\a.jpg")])
    assert [path.parent.name for path in read(tmp_path).train.images] == ["y"]
    alone(tmp_path, [mark(1, 1)], [image(1, "C:\\old\\a.jpg")])
    refused(tmp_path, "could be any of photos/x/a.jpg, photos/y/a.jpg")


def test_a_damaged_picture_is_left_to_the_check_of_all_images(root):
    (root / "images" / "b.jpg").write_bytes(b"no picture")
    alone(root, [mark(1, 1)])
    assert len(read(root).train) == 2
    alone(root, [mark(1, 1)], [image(1, "a.jpg"), image(2, "b.jpg", 0, 0)])
    refused(root, "b.jpg cannot be read")


@pytest.mark.parametrize(
    ("segmentation", "told"),
    [
        ("1 2 3", "expected polygons or run lengths"),
        ([[1, 2, 3, "x", 5, 6]], "expected numbers as segmentation"),
        ({"size": [48, 64], "counts": "é"}, "no character of packed run lengths"),
        ({"size": [48], "counts": [1]}, "expected height and width"),
        ({"counts": [1]}, "the size of run lengths"),
        ([RUNS, RUNS], "expected one mask as run lengths, got 2"),
    ],
)
def test_shapes_that_cannot_be_understood_are_refused(root, segmentation, told):
    alone(root, [mark(7, 1, segmentation=segmentation)])
    refused(root, "annotation 7", told, masks=True)


@pytest.mark.parametrize(
    ("data", "told"),
    [
        ({"images": [{"id": 1}], "annotations": [], "categories": []}, "image number 1 lacks its id or file_name"),
        (
            {"images": [image(1, "a.jpg")], "annotations": [], "categories": [{"id": 1, "name": " "}]},
            "lacks its id or name",
        ),
        ({"images": [image(1, "a.jpg")], "annotations": []}, "expected a list of objects under 'categories'"),
    ],
)
def test_what_is_no_coco_is_refused(root, data, told):
    dump(root / "a.json", data)
    refused(root, "a.json", told)
