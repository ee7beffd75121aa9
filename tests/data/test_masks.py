"""Pictures with masks: what values and colours mean, which mask is whose, and what is refused."""

import json
import warnings
from dataclasses import asdict, replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from sidetune.data.check import check_images
from sidetune.data.images import UPRIGHT, open_image
from sidetune.data.masks import IGNORED, Coding, read_mask
from sidetune.data.segments import has_masks, read_segments, read_whole
from sidetune.data.sources import read_data, read_scored, read_training
from sidetune.edge.images import read_items
from sidetune.errors import DataError, DataWarning

CELLS = np.array([[0, 1, 2, 2], [0, 1, 1, 2], [0, 0, 1, 1]], np.uint8)
VOC = [0, 0, 0, 128, 0, 0, 0, 128, 0] + [0] * 750 + [224, 224, 192]
MAP = "# label:color_rgb:parts:actions\nbackground:0,0,0::\nroad:128,64,128::\ncar:0,0,142::\n"
COLOURS = np.array([[0, 0, 0], [128, 64, 128], [0, 0, 142]], np.uint8)


def picture(path, size=(4, 3), orientation=None):
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(len(str(path)) + sum(map(ord, path.name))).integers(0, 256, (size[1], size[0], 3))
    exif = Image.Exif()
    if orientation:
        exif[0x0112] = orientation
    Image.fromarray(pixels.astype(np.uint8)).save(path, exif=exif)


def mask(path, values, palette=None, mode=None):
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(np.asarray(values))
    if palette:
        image.putpalette(palette)
    (image.convert(mode) if mode else image).save(path)


def flat(root, *masks, pictures="images", folder="masks", **how):
    """A set without parts of one picture a mask."""
    for i, values in enumerate(masks):
        picture(root / pictures / f"{i}.jpg", np.shape(values)[1::-1])
        mask(root / folder / f"{i}.png", values, **how)
    return root


def parts(root, **masks):
    for part, values in masks.items():
        picture(root / "images" / part / "1.jpg", np.shape(values)[1::-1])
        mask(root / "masks" / part / "1.png", values)
    return root


def read(root, **more):
    """All samples of a set without parts, and what was said."""
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        samples = read_whole(root, **more)
    return samples, " | ".join(str(w.message) for w in said)


def refused(root, match, **more):
    with pytest.raises(DataError, match=match), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        read_segments(root, val=0.1, test=0.2, **more)


# What values and colours mean


def test_the_indices_of_a_palette_are_classes_and_255_is_ignored(tmp_path):
    bordered = CELLS.copy()
    bordered[0] = 255
    samples, said = read(flat(tmp_path, bordered, CELLS, palette=VOC))
    assert samples.classes == ("0", "1", "2") and not said
    assert samples.target(0).dtype == np.int16
    np.testing.assert_array_equal(samples.target(0)[1:], CELLS[1:])
    assert (samples.target(0)[0] == IGNORED).all()


def test_the_largest_value_does_not_count_classes(tmp_path):
    values = np.where(CELLS == 0, 255, CELLS - 1).astype(np.uint8)
    values[2, 0] = 2
    samples, said = read(flat(tmp_path, values))
    assert samples.classes == ("0", "1", "2") and not said
    assert samples.target(0).min() == IGNORED


def test_cvats_label_map_says_colours_and_names(tmp_path):
    flat(tmp_path, COLOURS[CELLS], pictures="JPEGImages", folder="SegmentationClass")
    mask(tmp_path / "SegmentationObject/0.png", COLOURS[CELLS[::-1]])
    (tmp_path / "labelmap.txt").write_text(MAP, encoding="utf-8-sig", newline="\r\n")
    (tmp_path / "ImageSets/Segmentation").mkdir(parents=True)
    (tmp_path / "ImageSets/Segmentation/default.txt").write_text("0\n")
    samples, said = read(tmp_path)
    assert samples.classes == ("background", "road", "car") and not said
    np.testing.assert_array_equal(samples.target(0), CELLS)


@pytest.mark.parametrize("palette", [COLOURS.ravel().tolist(), [9, 9, 9, 8, 8, 8, 7, 7, 7]])
def test_palettes_beside_a_label_map_mean_its_colours_or_else_its_places(tmp_path, palette):
    (tmp_path / "labelmap.txt").write_text(MAP)
    turned = CELLS if palette[0] else np.uint8([2, 0, 1])[CELLS]
    used = palette if palette[0] else [palette[i : i + 3] for i in (3, 6, 0)]
    flat(tmp_path, turned, palette=used if palette[0] else sum(used, []))
    samples, said = read(tmp_path)
    np.testing.assert_array_equal(samples.target(0), CELLS)
    assert ("places in labelmap.txt" in said) == bool(palette[0])


def test_a_colour_that_the_map_does_not_hold_is_named_with_its_pixels(tmp_path):
    colours = COLOURS[CELLS]
    colours[0, :2] = 200, 1, 2
    flat(tmp_path, colours)
    (tmp_path / "labelmap.txt").write_text(MAP)
    refused(tmp_path, r"0\.png holds the colour #c80102 in 2 pixels")


def test_names_without_colours_do_not_name_colours(tmp_path):
    (tmp_path / "classes.txt").write_text("a\nb\nc\n")
    refused(flat(tmp_path, COLOURS[CELLS]), "classes.txt does not say which is what; a labelmap.txt")


def test_what_a_map_calls_ignored_is_no_class(tmp_path):
    (tmp_path / "labelmap.txt").write_text(MAP + "ignored:224,224,192::\n")
    colours = COLOURS[CELLS]
    colours[0] = 224, 224, 192
    samples, said = read(flat(tmp_path, colours))
    assert len(samples.classes) == 3 and "ignored" in said
    assert (samples.target(0)[0] == IGNORED).all()


def test_three_equal_channels_are_one(tmp_path):
    samples, said = read(flat(tmp_path, np.stack([CELLS] * 3, -1), CELLS))
    assert samples.classes == ("0", "1", "2") and not said
    np.testing.assert_array_equal(samples.target(0), CELLS)


def test_where_only_red_varies_it_is_the_class(tmp_path):
    red = np.zeros((*CELLS.shape, 3), np.uint8)
    red[..., 0] = CELLS
    samples, said = read(flat(tmp_path, red, np.zeros_like(red)))
    assert samples.classes == ("0", "1", "2") and "red channel" in said
    np.testing.assert_array_equal(samples.target(0), CELLS)
    assert not samples.target(1).any()


def test_without_a_map_every_colour_is_a_class(tmp_path):
    samples, said = read(flat(tmp_path, COLOURS[CELLS], COLOURS[CELLS * 0]))
    assert samples.classes == ("#000000", "#00008e", "#804080") and "every colour" in said
    np.testing.assert_array_equal(samples.target(0), np.array([0, 2, 1])[CELLS])
    many = np.zeros((10, 10, 3), np.uint8)
    many[..., 0], many[..., 1] = np.arange(10), np.arange(10)[:, None]
    refused(flat(tmp_path / "many", many), "100 colours, and at most 64.*labelmap.txt")


def test_colours_beside_numbers_are_refused(tmp_path):
    refused(flat(tmp_path, COLOURS[CELLS], CELLS), r"1 masks in colours \(0.png\) and 1 with one channel \(1.png\)")


def test_palettes_that_contradict_each_other_are_refused(tmp_path):
    flat(tmp_path, CELLS, palette=VOC)
    picture(tmp_path / "images/1.jpg")
    mask(tmp_path / "masks/1.png", CELLS, palette=[0, 0, 0, 0, 128, 0, 128, 0, 0])
    refused(tmp_path, r"contradict each other: the index 1 is #800000 in .*0.png and #008000 in .*1.png")


@pytest.mark.parametrize("mode", [None, "1", "RGB", "P"])
def test_black_and_white_masks_are_background_and_foreground(tmp_path, mode):
    white = np.where(CELLS > 0, 255, 0).astype(np.uint8)
    samples, said = read(flat(tmp_path, white, white * 0, mode=mode))
    assert samples.classes == ("background", "foreground") and "0 and 255 only" in said
    np.testing.assert_array_equal(samples.target(0), CELLS > 0)


def test_black_and_white_is_decided_over_the_whole_set(tmp_path):
    white = np.where(CELLS > 0, 255, 0).astype(np.uint8)
    samples, said = read(flat(tmp_path, white, CELLS))
    assert samples.classes == ("0", "1", "2") and not said
    assert samples.target(0).max() == 0 and samples.target(0).min() == IGNORED


def test_two_names_are_those_of_black_and_white(tmp_path):
    (tmp_path / "classes.txt").write_text("sky\nbird\n")
    samples, said = read(flat(tmp_path, np.where(CELLS > 0, 255, 0).astype(np.uint8)))
    assert samples.classes == ("sky", "bird") and "255 is bird" in said
    assert samples.target(0).max() == 1


def test_values_with_gaps_are_numbered_and_named_by_value(tmp_path):
    samples, said = read(flat(tmp_path, np.uint8([0, 7, 200])[CELLS]))
    assert samples.classes == ("0", "7", "200") and "0, 7, 200 of the masks are numbered 0 to 2" in said
    np.testing.assert_array_equal(samples.target(0), CELLS)


def test_sixteen_bits_are_values(tmp_path):
    samples, _ = read(flat(tmp_path, np.uint16([0, 300, 65535])[CELLS], np.uint16([0, 300, 4000])[CELLS]))
    assert samples.classes == ("0", "300", "4000")
    np.testing.assert_array_equal(samples.target(0), np.array([0, 1, IGNORED])[CELLS])
    np.testing.assert_array_equal(samples.target(1), CELLS)


def test_255_is_a_class_where_it_is_named(tmp_path):
    (tmp_path / "classes.txt").write_text("".join(f"c{i}\n" for i in range(256)))
    samples, _ = read(flat(tmp_path, np.uint8([0, 7, 255])[CELLS]))
    assert samples.target(0).max() == 255


def test_one_class_is_refused_and_alpha_that_varies_is_said(tmp_path):
    refused(flat(tmp_path / "plain", CELLS * 0), r"hold one class only \(0\)$")
    refused(flat(tmp_path / "void", np.where(CELLS > 1, 255, 1).astype(np.uint8)), r"only \(1\); 255 is ignored")
    black = np.zeros((*CELLS.shape, 4), np.uint8)
    black[..., 3] = CELLS * 100
    refused(flat(tmp_path / "alpha", black, black), "one class only .*the alpha channel varies in 2 of them")
    grey = black[..., 2:]
    refused(flat(tmp_path / "grey", grey), "one class only .*the alpha channel varies in 1 of them")


def test_names_do_not_save_a_set_of_one_class(tmp_path):
    (tmp_path / "classes.txt").write_text("a\nb\n")
    refused(flat(tmp_path, CELLS * 0), r"one class only \(a\)")


@pytest.mark.parametrize("name", ["0.jpg", "0.png", "0.webp"])
def test_masks_in_a_format_that_smears_are_refused(tmp_path, name):
    flat(tmp_path, np.where(CELLS > 0, 255, 0).astype(np.uint8))
    (tmp_path / "masks/0.png").unlink()
    kind = "WEBP" if name.endswith("webp") else "JPEG"
    Image.fromarray(CELLS * 100).convert("RGB").save(tmp_path / "masks" / name, kind)
    refused(tmp_path, rf"{name} is a {kind}, which changes .* as PNG")


def test_lossless_webp_is_read(tmp_path):
    flat(tmp_path, CELLS)
    Image.fromarray(np.stack([CELLS] * 3, -1)).save(tmp_path / "masks/0.webp", lossless=True)
    (tmp_path / "masks/0.png").unlink()
    np.testing.assert_array_equal(read(tmp_path)[0].target(0), CELLS)


def test_black_and_white_with_smeared_edges_is_refused(tmp_path):
    ramp = np.repeat(np.uint8([[0, 0, 0, 0, 0, 0, 0, 3, 9, 20, 90, 170, 240, 247, 253, 255, 255, 255, 255, 255]]), 3, 0)
    refused(flat(tmp_path, np.concatenate([ramp[:, :7], ramp], 1)), "smeared.*PNG")


def test_a_value_beyond_the_names_is_named_with_its_pixels(tmp_path):
    (tmp_path / "classes.txt").write_text("road\ncar\n\n", encoding="utf-8-sig", newline="\r\n")
    refused(flat(tmp_path, CELLS % 2, np.uint8([0, 1, 7])[CELLS]), r"1\.png holds the value 7 in 3 pixels.*known: 0, 1")


def test_names_may_be_more_than_the_values_that_occur(tmp_path):
    (tmp_path / "classes.txt").write_text("a\nb\nc\nd\n")
    assert read(flat(tmp_path, CELLS % 2))[0].classes == ("a", "b", "c", "d")


def test_classes_counted_from_1_are_said(tmp_path):
    (tmp_path / "classes.txt").write_text("a\nb\nc\n")
    samples, said = read(flat(tmp_path, CELLS + np.uint8(1)))
    assert "from 1" in said
    np.testing.assert_array_equal(samples.target(0), CELLS)


@pytest.mark.parametrize(
    ("file", "text", "match"),
    [
        ("classes.txt", "a\n\nb\n", "line 2: no name"),
        ("classes.txt", "a\na\n", "the class a more than once"),
        ("classes.txt", "\n", "names no class"),
        ("labelmap.txt", "a:1,2::\n", "line 1: expected 'name:red,green,blue::'"),
        ("labelmap.txt", "a:1,2,300::\n", "line 1"),
        ("labelmap.txt", "a:1,2,3::\nb:1,2,3::\n", "the colour #010203 more than once"),
        ("objectInfo150.txt", "Idx\tRatio\n1\t0.1\n", "columns Idx and Name"),
        ("objectInfo150.txt", "Idx\tName\nx\ta\n", "line 2"),
    ],
)
def test_files_of_names_that_say_no_names_are_refused(tmp_path, file, text, match):
    (tmp_path / file).write_text(text)
    refused(flat(tmp_path, CELLS), match)


# ADE20K


def ade(root, train, val, info=True):
    for part, values in (("training", train), ("validation", val)):
        picture(root / "images" / part / f"ADE_{part}.jpg", values.shape[::-1])
        mask(root / "annotations" / part / f"ADE_{part}.png", values)
    if info:
        rows = "".join(f"{i}\t0.1\t10\t1\t1\tthing {i}, object {i}\n" for i in range(1, 151))
        (root / "objectInfo150.txt").write_text("Idx\tRatio\tTrain\tVal\tStuff\tName\n" + rows)
    return root


def test_ade20k_has_150_classes_and_0_is_ignored(tmp_path):
    every = np.arange(151, dtype=np.uint8)[None].repeat(2, 0)
    splits = read_segments(ade(tmp_path, every, every[:, :5]), val=0.1, test=0.2)
    assert len(splits.train.classes) == 150 and splits.train.classes[0] == "thing 1, object 1"
    np.testing.assert_array_equal(splits.train.target(0)[0], np.arange(151) - 1)
    assert splits.val.target(0).max() == 3 and splits.test is None


def test_ade20ks_folders_alone_do_not_make_it_ade20k(tmp_path):
    splits = read_segments(ade(tmp_path, CELLS, CELLS, info=False), val=0.1, test=0.2)
    assert splits.train.classes == ("0", "1", "2")
    np.testing.assert_array_equal(splits.train.target(0), CELLS)


# Sizes and frames


def test_a_mask_of_another_size_is_refused_with_both_sizes_and_how_many(tmp_path):
    flat(tmp_path, CELLS, CELLS, CELLS)
    for i in (1, 2):
        picture(tmp_path / f"images/{i}.jpg", (7, 3))
    refused(tmp_path, r"2 of 3 masks .*1\.png has 4 x 3 pixels, its picture .*1\.jpg 7 x 3")


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("frame", ["stored", "upright"])
def test_masks_turn_with_their_pictures_where_they_have_the_stored_frame(tmp_path, orientation, frame):
    picture(tmp_path / "images/0.jpg", (4, 3), orientation)
    picture(tmp_path / "images/1.jpg", (4, 3), 6)  # which shows the frame of those that do not
    turn = UPRIGHT.get(orientation)
    upright = np.asarray(Image.fromarray(CELLS).transpose(turn)) if turn is not None else CELLS
    mask(tmp_path / "masks/0.png", CELLS if frame == "stored" else upright)
    mask(tmp_path / "masks/1.png", CELLS if frame == "stored" else CELLS.T)
    samples, said = read(tmp_path)
    np.testing.assert_array_equal(samples.target(0), upright)
    assert samples.target(0).shape[::-1] == open_image(samples.images[0]).size
    assert ("do not tell" in said) == (orientation in (2, 3, 4))


def test_a_masks_own_orientation_counts(tmp_path):
    picture(tmp_path / "images/0.jpg", (4, 3), 6)
    exif = Image.Exif()
    exif[0x0112] = 6
    (tmp_path / "masks").mkdir()
    Image.fromarray(CELLS).save(tmp_path / "masks/0.png", exif=exif)
    np.testing.assert_array_equal(read(tmp_path)[0].target(0), np.rot90(CELLS, -1))


# Which mask is whose


def test_a_picture_without_a_mask_is_refused_or_left_out_on_request(tmp_path):
    flat(tmp_path, CELLS, CELLS)
    picture(tmp_path / "images/lonely.jpg")
    refused(tmp_path, r"1 of 3 pictures have no mask in .*masks: lonely\.jpg")
    samples, said = read(tmp_path, skip_bad=True)
    assert len(samples) == 2 and "lonely.jpg" in said


@pytest.mark.parametrize(
    ("photo", "over"),
    [
        ("a.jpg", "a.png"),
        ("a.v2.jpg", "a.v2.png"),
        ("a.jpg", "a_mask.png"),
        ("a.jpg", "a-mask.gif"),
        ("a.jpg", "a_gt.tif"),
        ("a.jpg", "a_labelIds.png"),
        ("a.JPG", "A.png"),
        ("a.jpg", "a.jpg.png"),
        ("berlin_1_leftImg8bit.png", "berlin_1_gtFine_labelIds.png"),
        ("town/a [1].jpg", "town/a [1]_seg.png"),
        ("e\u0301.jpg", "\u00e9.png"),
    ],
)
def test_masks_are_found_by_the_names_that_tools_give(tmp_path, photo, over):
    picture(tmp_path / "images" / photo)
    mask(tmp_path / "masks" / over, CELLS)
    mask(tmp_path / "masks/other_color.png", CELLS)
    samples, said = read(tmp_path)
    assert samples.labels == [tmp_path / "masks" / over]
    assert "1 masks without a picture: other_color.png" in said
    np.testing.assert_array_equal(samples.target(0), CELLS)


def test_plain_names_come_first_and_subfolders_keep_apart(tmp_path):
    for name in ("x/a", "y/a", "x/a_mask"):
        picture(tmp_path / f"images/{name}.jpg")
        mask(tmp_path / f"masks/{name}.png", CELLS)
    samples, said = read(tmp_path)
    assert [p.relative_to(tmp_path / "images").with_suffix("") for p in samples.images] == [
        p.relative_to(tmp_path / "masks").with_suffix("") for p in samples.labels
    ]
    assert not said


def test_several_masks_or_pictures_of_one_name_are_refused(tmp_path):
    flat(tmp_path / "masks2", CELLS)
    mask(tmp_path / "masks2/masks/0.bmp", CELLS)
    refused(tmp_path / "masks2", r"several masks fit the picture .*0\.jpg")
    flat(tmp_path / "pictures2", CELLS)
    picture(tmp_path / "pictures2/images/0.png")
    refused(tmp_path / "pictures2", r"several pictures have the name of the mask .*0\.png")


# Layouts


@pytest.mark.parametrize(
    ("pictures", "folder"),
    [
        ("images", "masks"),
        ("Image", "Mask"),
        ("imgs", "labels"),
        ("img", "annotations"),
        ("JPEGImages", "SegmentationClass"),
    ],
)
def test_folders_are_known_by_their_names(tmp_path, pictures, folder):
    flat(tmp_path, *[CELLS] * 10, pictures=pictures, folder=folder)
    (tmp_path / "images.zip").write_bytes(b"")
    assert has_masks(tmp_path)
    splits = read_segments(tmp_path, val=0.1, test=0.2)
    assert [len(s) for s in splits.parts().values()] == [7, 1, 2]
    again = read_segments(tmp_path, val=0.1, test=0.2)
    assert [s.labels for s in again.parts().values()] == [s.labels for s in splits.parts().values()]
    assert all(i.stem == m.stem for s in splits.parts().values() for i, m in zip(s.images, s.labels, strict=True))


def test_boxes_are_no_masks(tmp_path):
    picture(tmp_path / "images/0.jpg")
    for folder in ("labels", "annotations"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "0.txt").write_text("0 .5 .5 .1 .1")
    assert not has_masks(tmp_path) and not has_masks(tmp_path / "nowhere")


@pytest.mark.parametrize("inside", [True, False])
def test_parts_lie_inside_or_outside_of_the_two_folders(tmp_path, inside):
    for part, count in (("train", 10), ("valid", 2), ("night", 1)):
        for i in range(count):
            where = ("{kind}/{part}" if inside else "{part}/{kind}") + f"/{part}{i}"
            picture(tmp_path / (where.format(kind="images", part=part) + ".jpg"))
            mask(tmp_path / (where.format(kind="masks", part=part) + ".png"), CELLS)
    assert has_masks(tmp_path)
    splits = read_segments(tmp_path, val=0.1, test=0.2)
    assert (len(splits.train), len(splits.val), splits.test) == (10, 2, None)
    assert len(splits.final().train) == 12 and splits.final().train.target(11).shape == CELLS.shape
    name, night = read_scored(tmp_path, splits.train.classes, part="night", task="segmentation")
    assert "night" in name and [p.name for p in night.labels] == ["night0.png"]


def test_a_part_without_masks_is_left_for_predict_and_a_missing_val_is_split_off(tmp_path):
    for i in range(10):
        picture(tmp_path / f"images/train/{i}.jpg")
        mask(tmp_path / f"masks/train/{i}.png", CELLS)
    picture(tmp_path / "images/test/0.jpg")
    with pytest.warns(DataWarning, match="test has no masks"):
        splits = read_segments(tmp_path, val=0.2, test=0.2)
    assert (len(splits.train), len(splits.val), splits.test) == (8, 2, None)
    picture(tmp_path / "images/valid/0.jpg")
    (tmp_path / "images/train").rename(tmp_path / "images/first")
    refused(tmp_path, "but no .*train")


def test_vocs_lists_say_the_parts_by_whole_lines(tmp_path):
    for name in ("a 1", "b", "c", "unlisted"):
        picture(tmp_path / f"JPEGImages/{name}.jpg")
        mask(tmp_path / f"SegmentationClass/{name}.png", CELLS, palette=VOC)
    picture(tmp_path / "JPEGImages/box only.jpg")
    lists = tmp_path / "ImageSets/Segmentation"
    lists.mkdir(parents=True)
    (tmp_path / "Annotations").mkdir()
    for name, text in (("train", "a 1\r\nb\r\n"), ("val", "c\n"), ("trainval", "a 1\nb\nc\n"), ("test", "box only\n")):
        (lists / f"{name}.txt").write_text(text)
    with pytest.warns(DataWarning) as said:
        splits = read_segments(tmp_path, val=0.1, test=0.2)
    assert ([p.stem for p in splits.train.images], [p.stem for p in splits.val.images]) == (["a 1", "b"], ["c"])
    told = " | ".join(str(w.message) for w in said)
    assert "test has no masks" in told and "passed over 1 pictures that stand in no list" in told
    (lists / "val.txt").write_text("c\nd\n")
    refused(tmp_path, r"1 of 2 listed pictures are not in .*: d")


def test_what_only_validation_holds_is_refused_with_file_value_and_pixels(tmp_path):
    parts(tmp_path, train=CELLS, val=np.uint8([0, 1, 9])[CELLS])
    refused(tmp_path, r"val.1\.png holds the value 9 in 3 pixels.*those of train")


# A trained model's classes


def test_a_trained_models_classes_decide_the_numbers(tmp_path):
    (tmp_path / "classes.txt").write_text("road\ncar\nsky\n")
    flat(tmp_path, CELLS)
    samples, _ = read(tmp_path, classes=("sky", "tree", "road", "car"))
    np.testing.assert_array_equal(samples.target(0), np.array([2, 3, 0])[CELLS])
    refused(tmp_path, "classes that the training images do not: sky; known: road, car", classes=("road", "car"))


def test_a_set_scored_later_may_lack_classes(tmp_path):
    flat(tmp_path / "a", np.uint8([7, 7, 7])[CELLS])
    samples, _ = read(tmp_path / "a", classes=("0", "7", "200"))
    assert (samples.target(0) == 1).all() and samples.classes == ("0", "7", "200")
    flat(tmp_path / "b", np.full_like(CELLS, 255))
    samples, _ = read(tmp_path / "b", classes=("background", "foreground"))
    assert (samples.target(0) == 1).all()


# Samples, sources, checks


def test_digests_change_with_masks_and_with_their_coding(tmp_path):
    flat(tmp_path, CELLS, CELLS)
    first = read(tmp_path)[0]
    digest, print_ = first.digest(), first.fingerprint()
    (tmp_path / "classes.txt").write_text("0\n1\n2\n")
    assert read(tmp_path)[0].digest() == digest
    mask(tmp_path / "masks/1.png", CELLS[::-1])
    assert first.digest() != digest and first.fingerprint() != print_
    swapped = Coding(**{**asdict(first.coding), "classes": ((0, 1), (1, 0), (2, 2))})
    assert replace(first, coding=swapped).digest() != first.digest()
    assert first.subset([1]).labels == [tmp_path / "masks/1.png"]


def test_a_coding_survives_json():
    coding = Coding(by="colour", classes=((1, 0), (2, 1)), ignored=(255,), is_stored=True)
    assert Coding(**json.loads(json.dumps(asdict(coding)))) == coding


def test_a_mask_is_read_beside_a_size_and_what_does_not_fit_is_named(tmp_path):
    mask(tmp_path / "m.png", CELLS)
    coding = Coding(classes=((0, 0), (1, 1)))
    with pytest.raises(DataError, match=r"m\.png holds the value 2 in 3 pixels"):
        read_mask(tmp_path / "m.png", coding, picture=(4, 3))
    with pytest.raises(DataError, match=r"m\.png has 4 x 3 pixels, its picture 3 x 4"):
        read_mask(tmp_path / "m.png", coding, picture=(3, 4))
    with pytest.raises(DataError, match="no mask at"):
        read_mask(tmp_path / "n.png", coding, picture=(3, 4))
    mask(tmp_path / "c.png", COLOURS[CELLS])
    with pytest.raises(DataError, match="has colours"):
        read_mask(tmp_path / "c.png", coding, picture=(4, 3))


def test_a_damaged_mask_is_a_bad_image(tmp_path):
    flat(tmp_path, *[CELLS] * 4)
    whole = (tmp_path / "masks/2.png").read_bytes()
    (tmp_path / "masks/2.png").write_bytes(whole[: len(whole) // 2])
    samples, _ = read(tmp_path)
    with pytest.raises(DataError, match=r"1 image cannot be used:\n.*masks/2\.png is damaged"):
        check_images(samples)
    good, bad = check_images(samples, skip_bad=True)
    assert [p.name for p in good.labels] == ["0.png", "1.png", "3.png"] and len(bad) == 1


def test_a_mask_of_another_size_can_be_left_out(tmp_path):
    flat(tmp_path, *[CELLS] * 10)
    picture(tmp_path / "images/1.jpg", (9, 9))
    splits = read_data(tmp_path, skip_bad=True)
    assert sum(len(check_images(s, skip_bad=True)[0]) for s in splits.parts().values()) == 9


def test_a_folder_with_masks_is_recognised_and_a_table_stays_one(tmp_path):
    flat(tmp_path, *[CELLS] * 10)
    assert read_data(tmp_path).train.task == "segmentation"
    samples, val = read_training(tmp_path)
    assert len(samples) == 10 and val is None
    name, scored = read_scored(tmp_path, samples.classes)
    assert len(scored) == 10 and name == str(tmp_path)
    assert len(read_scored(tmp_path, samples.classes, split=True)[1]) == 2
    (tmp_path / "labels.csv").write_text("image,age\n" + "".join(f"{i}.jpg,{i}.5\n" for i in range(10)))
    assert read_data(tmp_path).train.task == "regression"
    assert read_data(tmp_path, task="segmentation").train.task == "segmentation"


def test_segmentation_of_a_folder_without_masks_says_what_is_expected(tmp_path):
    picture(tmp_path / "cat/0.jpg")
    for ask in (read_data, read_training):
        with pytest.raises(DataError, match="no pictures with masks; expected images/ and masks/"):
            ask(tmp_path, task="segmentation")
    with pytest.raises(DataError, match="expected images/ and masks/"):
        read_scored(tmp_path, ("a", "b"), task="segmentation")


def test_the_device_refuses_masks(tmp_path):
    with pytest.raises(DataError, match="pictures with masks; the device learns one label an image"):
        read_items(flat(tmp_path, CELLS))


def test_the_same_picture_with_another_mask_is_said(tmp_path):
    flat(tmp_path, CELLS, CELLS[::-1].copy(), CELLS)
    for i in (1, 2):
        (tmp_path / f"images/{i}.jpg").write_bytes((tmp_path / "images/0.jpg").read_bytes())
    with pytest.warns(DataWarning, match="with several masks"):
        read_training(tmp_path)
    (tmp_path / "masks/1.png").write_bytes((tmp_path / "masks/0.png").read_bytes())
    with pytest.warns(DataWarning, match="several times in one part"):
        read_training(tmp_path)


@given(
    seed=st.integers(0, 2**32 - 1),
    classes=st.integers(2, 40),
    shape=st.tuples(st.integers(1, 9), st.integers(1, 9)),
    how=st.sampled_from(["grey", "palette", "deep", "map"]),
)
def test_what_is_written_is_read_back(tmp_path_factory, seed, classes, shape, how):
    root, rng = tmp_path_factory.mktemp("written"), np.random.default_rng(seed)
    numbers = rng.integers(0, classes, shape)
    whole = np.arange(classes)[None]
    colours = rng.permutation(4096)[:classes] * 4095
    table = np.stack([colours >> 16, colours >> 8 & 255, colours & 255], -1).astype(np.uint8)
    if how == "map":
        lines = [f"c{i}:{','.join(map(str, colour))}::\n" for i, colour in enumerate(table.tolist())]
        (root / "labelmap.txt").write_text("".join(lines))
        written = [table[m] for m in (numbers, whole)]
    else:
        written = [m.astype(np.uint16 if how == "deep" else np.uint8) for m in (numbers, whole)]
    flat(root, *written, palette=table.ravel().tolist() if how == "palette" else None)
    samples, said = read(root)
    assert len(samples.classes) == classes and not said
    np.testing.assert_array_equal(samples.target(0), numbers)
    np.testing.assert_array_equal(samples.target(1), whole)
