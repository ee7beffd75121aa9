"""Pascal VOC XML as tools leave it: what is read, what is swapped or dropped and said, what is refused."""

import numpy as np
import pytest
from annotated import boxes, by_name, picture, read, thing, voc, write

from sidetune.data.boxlayout import has_objects
from sidetune.errors import DataError


@pytest.fixture
def root(tmp_path):
    """labelImg's way: a picture; tests write its XML beside it."""
    picture(tmp_path / "a.jpg")
    return tmp_path


def refused(root, *told, **how):
    with pytest.raises(DataError) as caught:
        read(root, **how)
    for words in told:
        assert words in str(caught.value), str(caught.value)


def alone(root, *objects, **how):
    return write(root / "a.xml", voc(*objects, **how))


def test_corners_are_counted_from_1_and_known_by_their_tags(root):
    turned = (
        "<object><name>nut</name><bndbox><xmin>1</xmin><xmax>64</xmax><ymin>1</ymin><ymax>48</ymax></bndbox></object>"
    )
    alone(root, turned, thing(box=(11, 21, 30, 40)))
    said = []
    assert has_objects(root)
    train = read(root, said).train
    assert boxes(train, "a.jpg") == [[0, 0, 64, 48], [10, 20, 30, 40]]
    assert train.classes == ("bolt", "nut") and train.labels[0].labels.tolist() == [1, 0] and said == []


def test_a_corner_at_0_says_that_the_whole_set_counts_from_0(root):
    alone(root, thing(box=(0, 4, 10, 20)))
    picture(root / "b.jpg")
    write(root / "b.xml", voc(thing(box=(11, 11, 30, 30))))
    said = []
    train = read(root, said).train
    assert (boxes(train, "a.jpg"), boxes(train, "b.jpg")) == ([[0, 4, 10, 20]], [[11, 11, 30, 30]])
    assert sum("counted from 0" in note for note in said) == 1


def test_a_box_over_the_left_edge_does_not_count_from_0(root):
    alone(root, thing(box=(-3, 5, 10, 20)))
    said = []
    assert boxes(read(root, said).train, "a.jpg") == [[0, 4, 10, 20]]
    assert any("1 boxes reach over the edge" in note for note in said)


def test_corners_with_decimals_are_not_cut_to_whole_numbers(root):
    alone(root, thing(box=(11.3, 12.5, 30.25, 31.75)))
    assert np.allclose(boxes(read(root).train, "a.jpg"), [[10.3, 11.5, 30.25, 31.75]])


def test_difficult_ones_are_kept_aside(root):
    flags = (
        "<pose>Left</pose><truncated>1</truncated>",
        "<difficult>1</difficult>",
        "<difficult>Unspecified</difficult>",
    )
    alone(
        root, *(thing(box=(5 + i, 5, 20, 20), more=flag) for i, flag in enumerate((*flags, "<difficult>0</difficult>")))
    )
    said = []
    assert read(root, said).train.labels[0].aside.tolist() == [False, True, False, False] and said == []


def test_where_all_are_difficult_none_is_kept_aside(root):
    alone(root, thing(more="<difficult>1</difficult>"))
    said = []
    assert read(root, said).train.labels[0].aside.tolist() == [False]
    assert any("crowd or difficult" in note for note in said)


@pytest.mark.parametrize("size", [None, (0, 0)])
def test_a_size_that_is_absent_or_0_is_the_pictures(root, size):
    alone(root, thing(), size=size)
    said = []
    assert read(root, said).train.labels[0].size == (48, 64) and said == []


def test_another_size_than_the_pictures_is_refused(root):
    alone(root, thing(), size=(640, 480))
    refused(root, "1 of 1 pictures have another size", "a.jpg has 64 x 48 pixels, not 640 x 480")


@pytest.mark.parametrize("filename", ["a", "", "D:\\photos\\b.jpg", "old name.jpg"])
def test_a_picture_is_known_by_the_stem_of_its_xml(root, filename):
    picture(root / "b.jpg")
    write(root / "b.xml", voc(thing(), filename="b.jpg"))
    alone(root, thing(box=(1, 1, 5, 5)), filename=filename)
    said = []
    assert boxes(read(root, said).train, "a.jpg") == [[0, 0, 5, 5]] and said == []


def test_an_xml_of_another_stem_is_of_the_picture_that_it_names_which_is_said(root):
    write(root / "0001.xml", voc(thing()))
    said = []
    assert len(read(root, said).train) == 1 and any("found by <filename>" in note for note in said)


def test_an_xml_without_a_picture_is_refused(root):
    alone(root, thing())
    write(root / "gone.xml", voc(thing(), filename="gone.jpg"))
    refused(root, "1 of 2 XML files have no picture", "gone.xml")


def test_one_xml_and_two_pictures_are_refused_unless_it_names_one(root):
    alone(root, thing())
    picture(root / "a.png")
    assert [path.name for path in read(root).train.images] == ["a.jpg"]
    alone(root, thing(), filename="a")
    refused(root, "could be of any of a.jpg, a.png")


RING = "<polygon><x1>11</x1><y1>11</y1><x2>30</x2><y2>11</y2><x3>30</x3><y3>30</y3><x4>11</x4><y4>30</y4></polygon>"


def test_a_polygon_without_bndbox_is_an_object(root):
    alone(root, thing(box=None, more=RING), thing(box=(1, 1, 5, 5)))
    said = []
    assert boxes(read(root, said).train, "a.jpg") == [[10, 10, 30, 30], [0, 0, 5, 5]] and said == []
    found = read(root, said, masks=True).train.labels[0]
    assert len(found) == 1 and any("1 objects have a box and no mask" in note for note in said)
    mask = found.outlines[0].mask(48, 64)
    assert mask[12:29, 12:29].all() and mask.sum() <= 400 and not mask[:10].any() and not mask[:, 30:].any()


def test_boxes_alone_are_refused_as_instances(root):
    alone(root, thing())
    refused(root, "boxes only", "--task detection", masks=True)


def test_a_turned_box_is_read_by_the_upright_one_around_it(root):
    robndbox = "<robndbox><cx>20</cx><cy>20</cy><w>20</w><h>10</h><angle>1.5707963</angle></robndbox>"
    alone(root, thing(box=None, more=robndbox))
    assert np.allclose(boxes(read(root).train, "a.jpg"), [[14, 9, 25, 30]], atol=0.01)


def test_blanks_around_names_are_trimmed_and_capitals_are_not(root):
    alone(root, *(thing(n, (5 + i, 5, 20, 20)) for i, n in enumerate(("bolt", "bolt \n", "Bolt"))))
    said = []
    train = read(root, said).train
    assert train.classes == ("Bolt", "bolt") and train.labels[0].labels.tolist() == [1, 1, 0]
    assert any("differ only by capitals" in note and "Bolt and bolt" in note for note in said)


def test_corners_the_wrong_way_round_are_swapped_and_said(root):
    alone(root, thing(), thing(box=(30, 40, 11, 21)))
    said = []
    assert boxes(read(root, said).train, "a.jpg")[1] == [10, 20, 30, 40]
    assert any("swapped back" in note and note.startswith(f"{root}: 1 boxes") and "a.xml" in note for note in said)


def test_what_a_mac_leaves_is_no_data(root):
    alone(root, thing())
    for name in ("._a.xml", "._a.jpg", ".DS_Store", "__MACOSX/._a.xml", "__MACOSX/a.xml"):
        (root / name).parent.mkdir(exist_ok=True)
        (root / name).write_bytes(b"\0\5\x16\7Mac OS X")
    said = []
    assert len(read(root, said).train) == 1 and said == []


def test_odd_names_are_found_and_a_picture_without_xml_stays_out(tmp_path):
    for name in ("a b [1]", "it's (2)", "c"):
        picture(tmp_path / f"{name}.jpg")
    for name in ("a b [1]", "it's (2)"):
        write(tmp_path / f"{name}.xml", voc(thing()))
    said = []
    assert {path.stem for path in read(tmp_path, said).train.images} == {"a b [1]", "it's (2)"}
    assert any("1 pictures have no annotations" in note and "c.jpg" in note for note in said)


def devkit(tmp_path, year="VOC2007", names=("a b", "c", "d", "e"), **lists):
    top = tmp_path / "VOCdevkit" / year
    for name in names:
        picture(top / "JPEGImages" / f"{name}.jpg")
        picture(top / "SegmentationClass" / f"{name}.png")
        write(top / "Annotations" / f"{name}.xml", voc(thing(), filename=f"{name}.jpg"))
    for name, lines in lists.items():
        write(top / "ImageSets" / "Main" / f"{name}.txt", "\n".join(lines) + "\n")
    return tmp_path / "VOCdevkit"


def test_the_lists_of_a_devkit_decide_by_whole_lines(tmp_path):
    root = devkit(tmp_path, train=["a b", "c"], val=["d"], bolt_train=["a b  1", "c -1"])
    assert has_objects(root) and has_objects(root / "VOC2007")
    said = []
    splits = read(root, said)
    assert {part: [path.name for path in s.images] for part, s in splits.parts().items()} == {
        "train": ["a b.jpg", "c.jpg"],
        "val": ["d.jpg"],
    }
    assert len(said) == 1 and "1 annotated pictures are in no list" in said[0] and "e.xml" in said[0]


def test_both_years_are_joined_and_trainval_is_trained_on(tmp_path):
    devkit(tmp_path, names=("a", "b", "t"), trainval=["a", "b"], test=["t"])
    root = devkit(tmp_path, "VOC2012", names=("a", "z"), trainval=["a", "z"])
    splits = read(root, val=0.25)
    assert len(splits.train) == 3 and len(splits.val) == 1 and [p.stem for p in splits.test.images] == ["t"]


def test_a_listed_picture_that_is_not_there_is_refused_and_one_without_xml_stays_out(tmp_path):
    root = devkit(tmp_path, train=["a b", "x"], val=["d"])
    refused(root, "train.txt names 1 pictures", "line 2 (x)")
    picture(root / "VOC2007" / "JPEGImages" / "x.jpg")
    said = []
    assert len(read(root, said).train) == 1
    assert any("have no XML" in note and "line 2 (x)" in note for note in said)


def test_folders_of_parts_are_parts(tmp_path):
    for part in ("train", "valid"):
        picture(tmp_path / "images" / part / "1.jpg")
        write(tmp_path / "annotations" / part / "1.xml", voc(thing(), filename="1.jpg"))
    splits = read(tmp_path)
    assert [path.parent.name for s in splits.parts().values() for path in s.images] == ["train", "valid"]


def test_a_class_that_is_not_trained_on_is_refused(tmp_path):
    for part, name in (("train", "bolt"), ("val", "nut")):
        picture(tmp_path / part / f"{part}.jpg")
        write(tmp_path / part / f"{part}.xml", voc(thing(name)))
    refused(tmp_path, "classes that are not known: nut", "known: bolt", "val.xml, line 4")


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (voc(thing(box=("nan", 1, 5, 5))), "a.xml, line 4: <xmin> is nan"),
        (voc(thing(), thing(box=(1, "x", 5, 5))), "a.xml, line 5: expected a number in <ymin>, got 'x'"),
        (voc(thing(box=(1, 2, 3))), "a.xml, line 4: expected a number in <ymax>, got ''"),
        (voc(thing(name=" ")), "a.xml, line 4: an object without <name>"),
        (voc(thing())[:-20], "a.xml, line "),
        (voc(), "none of its 1 pictures has an object"),
        (voc(thing(box=None)), "neither a box nor a shape"),
        ("<annotations><version>1.1</version><image/></annotations>", "CVAT's own XML"),
    ],
)
def test_what_cannot_be_understood_is_refused_with_its_line(root, text, told):
    write(root / "a.xml", text)
    refused(root, told)


def test_boxes_turn_with_a_photograph_whose_stored_pixels_were_annotated(tmp_path):
    picture(tmp_path / "a.jpg", orientation=6)
    alone(tmp_path, thing(box=(1, 1, 20, 10)))
    assert boxes(read(tmp_path).train, "a.jpg") == [[38, 0, 48, 20]]


def test_xml_of_something_else_is_passed_over(root):
    alone(root, thing())
    write(root / "a.jpg.aux.xml", "<PAMDataset></PAMDataset>")
    said = []
    assert len(read(root, said).train) == 1 and any("are no annotations of a picture" in note for note in said)


def test_encodings_of_east_asia_are_read(root):
    text = "<?xml version='1.0' encoding='gb2312'?>\n" + voc(thing("螺栓"))
    (root / "a.xml").write_bytes(text.encode("gb2312"))
    assert read(root).train.classes == ("螺栓",)


def test_lists_may_lie_in_imagesets_itself(tmp_path):
    for name in "ab":
        picture(tmp_path / "JPEGImages" / f"{name}.jpg")
        write(tmp_path / "Annotations" / f"{name}.xml", voc(thing()))
        write(tmp_path / "ImageSets" / f"{'train' if name == 'a' else 'val'}.txt", f"{name}.jpg\n")
    assert [path.stem for s in read(tmp_path).parts().values() for path in s.images] == ["a", "b"]


def test_objects_that_an_xml_does_not_have_make_a_background(root):
    alone(root, thing())
    picture(root / "b.jpg")
    write(root / "b.xml", voc())
    assert len(by_name(read(root).train)["b.jpg"]) == 0


def test_masks_of_the_pictures_names_are_not_the_pictures(tmp_path):
    picture(tmp_path / "images" / "a.jpg")
    for folder in ("trimaps", "outlines"):
        picture(tmp_path / "annotations" / folder / "a.png")
    write(tmp_path / "annotations" / "xmls" / "a.xml", voc(thing()))
    assert has_objects(tmp_path) and [path.name for path in read(tmp_path).train.images] == ["a.jpg"]
