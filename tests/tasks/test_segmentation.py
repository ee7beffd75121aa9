"""Segmentation: loss, score, answers and what it refuses, against plain computations."""

import json
import math

import numpy as np
import pytest
import torch
from conftest import tiny_backbone
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image
from torch.nn import functional as F

import sidetune
from sidetune.data.samples import Samples
from sidetune.recipe import Recipe
from sidetune.tasks import Segmentation, described, from_description
from sidetune.tasks.segmentation import AUXILIARY, Segments

CLASSES = ("sky", "sea", "sand")
TASK = Segmentation(classes=CLASSES, width=16)


def scenes(count=4, size=32, seed=0):
    """Grey pictures of three brightnesses in blocks, with their maps; the lowest rows say nothing."""
    rng = np.random.default_rng(seed)
    maps = rng.integers(0, 3, (count, 4, 4)).repeat(size // 4, 1).repeat(size // 4, 2).astype(np.int16)
    pictures = (maps * 90 + rng.integers(0, 40, maps.shape)).astype(np.uint8)
    maps[:, -2:] = -1
    return Samples(images=pictures, labels=list(maps), classes=CLASSES, task="segmentation")


def test_the_loss_is_the_mean_cross_entropy_of_all_pixels_ignored_ones_giving_nothing():
    outputs, targets = torch.randn(2, 3, 4, 4), torch.randint(-1, 3, (2, 8, 8)).to(torch.int16)
    full = F.interpolate(outputs, (8, 8), mode="bilinear", align_corners=False).log_softmax(dim=1)
    expected = 0.0
    for image, row, column in np.ndindex(2, 8, 8):
        truth = int(targets[image, row, column])
        expected -= float(full[image, truth, row, column]) if truth >= 0 else 0
    found = TASK.losses(outputs, targets)
    assert found.keys() == {"cross entropy"} and math.isclose(
        float(found["cross entropy"]), expected / 128, rel_tol=1e-5
    )


def test_the_auxiliary_heads_loss_is_a_term_of_its_own():
    outputs, targets = torch.randn(2, 3, 4, 4), torch.randint(0, 3, (2, 8, 8)).to(torch.int16)
    found = TASK.losses((outputs, outputs), targets)
    assert found.keys() == {"cross entropy", "auxiliary"} and AUXILIARY == 0.4
    torch.testing.assert_close(found["auxiliary"], 0.4 * found["cross entropy"])


def test_an_image_that_is_ignored_whole_has_a_loss_of_0():
    assert TASK.losses(torch.randn(1, 3, 4, 4), torch.full((1, 8, 8), -1))["cross entropy"] == 0


def test_losses_of_a_batchs_pieces_add_up_to_its_own():
    outputs, targets = torch.randn(4, 3, 4, 4), torch.randint(-1, 3, (4, 8, 8))
    parts = [TASK.losses(outputs[i : i + 1], targets[i : i + 1])["cross entropy"] / 4 for i in range(4)]
    torch.testing.assert_close(sum(parts), TASK.losses(outputs, targets)["cross entropy"])


@given(st.data())
def test_scores_are_those_of_counting_pixels_one_by_one(data):
    truths = [data.draw(arrays(np.int16, (4, 6), elements=st.integers(-1, 2))) for _ in range(3)]
    saids = [data.draw(arrays(np.int16, (4, 6), elements=st.integers(0, 2))) for _ in range(3)]
    meter = TASK.meter()
    meter.add(one_hot(saids[:2]), torch.from_numpy(np.stack(truths[:2])))
    meter.add(one_hot(saids[2:]), [torch.from_numpy(truths[2])])
    score = meter.score()
    pairs = [
        (t, s)
        for truth, said in zip(truths, saids, strict=True)
        for t, s in zip(truth.flat, said.flat, strict=True)
        if t >= 0
    ]
    ious, recalls = [], []
    for c in range(3):
        both = sum(t == c and s == c for t, s in pairs)
        either = sum(t == c or s == c for t, s in pairs)
        of_class = sum(t == c for t, _ in pairs)
        ious.append(both / either if either else None)
        recalls.append(both / of_class if of_class else None)
    assert score.ious == pytest.approx(ious) and score.recalls == pytest.approx(recalls)
    known = [iou for iou in ious if iou is not None]
    assert score.values["miou"] == pytest.approx(sum(known) / len(known) if known else 0)
    assert score.values["pixel_accuracy"] == pytest.approx(sum(t == s for t, s in pairs) / len(pairs) if pairs else 0)
    assert score.num_images == 3 and score.described()["confusion"] == score.confusion.tolist()


def one_hot(said):
    return F.one_hot(torch.from_numpy(np.stack(said)).long(), 3).movedim(-1, 1).float()


def test_an_answer_is_brought_to_the_size_of_the_truth_before_it_is_scored():
    """Scores are enlarged between places and then compared: enlarging classes would tell a straight edge as steps."""
    outputs = torch.zeros(1, 3, 1, 2)
    outputs[0, 0, 0], outputs[0, 1, 0] = torch.tensor([3.0, -1.0]), torch.tensor([-1.0, 0.0])
    meter = TASK.meter()
    meter.add(outputs, [torch.zeros(1, 8, dtype=torch.int16)])
    enlarged = F.interpolate(outputs, (1, 8), mode="bilinear", align_corners=False)
    assert meter.score().confusion[0].tolist() == enlarged.argmax(1).flatten().bincount(minlength=3).tolist()
    assert meter.score().confusion[0, 0] == 5  # of eight; the nearest place would give four


def test_a_class_that_is_nowhere_does_not_count_and_one_that_is_said_alone_counts_as_0():
    meter = TASK.meter()
    meter.add(one_hot([np.array([[0, 0], [0, 1]])]), torch.zeros(1, 2, 2, dtype=torch.int16))
    score = meter.score()
    assert score.ious == (0.75, 0.0, None) and score.values["miou"] == 0.375 and score.recalls == (0.75, None, None)
    assert score.in_words() == "mIoU 37.50 %, pixel accuracy 75.00 %; lowest IoU: sea (0.0 %)"


def answer(size=(8, 8)):
    scores = torch.zeros(3, 4, 4)
    scores[0, :3], scores[2, 3:] = 5.0, 5.0
    return Segments(scores=scores, classes=CLASSES, size=size)


def test_answers_have_the_size_of_their_picture_and_say_what_share_is_what():
    found = answer((8, 12))
    assert found.labels.shape == (8, 12) and list(found.shares) == ["sky", "sand"]
    assert found.shares["sky"] == 0.75 and found.in_words() == "sky 75.0 %, sand 25.0 %".replace(" %", "%")
    assert found.at((4, 4)).labels.tolist() == [[0] * 4] * 3 + [[2] * 4]
    assert json.loads(json.dumps(found.described())) == {"size": [8, 12], "shares": {"sky": 0.75, "sand": 0.25}}


def test_a_mask_holds_the_numbers_of_the_classes_with_colours_that_differ(tmp_path):
    answer().mask().save(tmp_path / "mask.png")
    read = Image.open(tmp_path / "mask.png")
    assert read.mode == "P" and np.array_equal(np.asarray(read), answer().labels)
    assert len({tuple(c) for c in np.asarray(read.convert("RGB")).reshape(-1, 3)}) == 2
    many = Segments(scores=torch.zeros(300, 1, 1), classes=tuple(map(str, range(300))), size=(2, 2))
    assert many.mask().mode.startswith("I;16")


def test_a_drawn_answer_shows_the_picture_through_and_names_beside_it():
    picture = Image.fromarray(np.full((64, 64, 3), 200, np.uint8))
    drawn = answer((64, 64)).drawn(picture)
    assert drawn.width > 64 and drawn.height >= 64
    upper, lower = drawn.getpixel((5, 5)), drawn.getpixel((5, 60))
    assert upper != lower and (200, 200, 200) not in (upper, lower)


@pytest.mark.parametrize("kind", ["vit", "swin", "resnet"])
@pytest.mark.parametrize("decoder", ["segformer", "linear"])
def test_four_scenes_are_learned_by_heart(kind, decoder):
    backbone = tiny_backbone(kind)
    task = Segmentation(classes=CLASSES, decoder=decoder, width=32)
    model = sidetune.adapt(backbone, "full", task=task, transform="vtab")
    data = scenes(size=backbone.card.image_size[0])
    sidetune.fit(model, data, recipe=Recipe(epochs=60, batch_size=4, lr=1e-2, lr_update="step", precision="fp32"))
    assert sidetune.evaluate(model, data).values["miou"] > 0.9


def test_a_task_is_saved_by_its_fields_and_read_back():
    task = Segmentation(classes=CLASSES, decoder="upernet", width=64, cells=2, metric="pixel_accuracy", norm="batch")
    assert from_description(json.loads(json.dumps(described(task)))) == task


def test_a_saved_model_answers_as_before(tmp_path, vit):
    model = sidetune.adapt(vit, "dtl+", task=TASK)
    sidetune.fit(model, scenes(), recipe=Recipe(epochs=1, batch_size=2, precision="fp32"))
    model.save_pretrained(tmp_path / "model")
    again = sidetune.load(tmp_path / "model", backbone=tiny_backbone("vit"))
    picture = Image.fromarray(scenes().images[0]).resize((50, 40))
    first, second = model.predict(picture), again.predict(picture)
    assert np.array_equal(first.labels, second.labels) and first.labels.shape == (40, 50)
    assert again.transform.preset == "scene"


def test_kept_features_train_as_images_do(vit):
    """Where training images are shown whole, the prefix runs once, and nothing else differs."""
    found = []
    for features in ("memory", "off"):
        model = sidetune.adapt(vit, "dtl+", task=TASK, transform="vtab")
        sidetune.fit(model, scenes(), recipe=Recipe(epochs=2, batch_size=2, precision="fp32", features=features))
        found.append(model.trained())
    assert all(torch.equal(found[0][name], t) for name, t in found[1].items())


def test_a_store_gives_features_with_their_masks(tmp_path, vit):
    """On disk stand the features; masks are read where they are."""
    model = sidetune.adapt(vit, "linear", task=TASK, transform="vtab")
    recipe = Recipe(epochs=1, batch_size=2, precision="fp32")
    sidetune.fit(model, scenes(), recipe=recipe, store=tmp_path / "store")
    other = sidetune.adapt(vit, "linear", task=TASK, transform="vtab")
    sidetune.fit(other, scenes(), recipe=recipe)
    assert all(torch.equal(t, other.trained()[name]) for name, t in model.trained().items())
    assert list((tmp_path / "store").glob("*/shard-*"))


def test_what_it_cannot_be_is_refused():
    with pytest.raises(ValueError, match="at least 2 classes, got 1"):
        Segmentation(classes=("sky",))
    with pytest.raises(ValueError, match="different names"):
        Segmentation(classes=("sky", "sky"))
    with pytest.raises(ValueError, match="unknown decoder 'unet'.*segformer, upernet, linear"):
        Segmentation(classes=CLASSES, decoder="unet")
    with pytest.raises(ValueError, match="cells must be 1 or more, got 0"):
        Segmentation(classes=CLASSES, cells=0)
    with pytest.raises(ValueError, match="unknown metric 'accuracy'.*miou"):
        Segmentation(classes=CLASSES, metric="accuracy")


def test_transforms_that_do_not_serve_masks_are_refused(vit):
    with pytest.raises(
        ValueError, match="transform 'photo' does not serve segmentation; those that do: vtab, vtab-flip, scene"
    ):
        sidetune.adapt(vit, "linear", task=TASK, transform="photo")
    with pytest.raises(ValueError, match="transform 'scene' does not serve classification"):
        sidetune.adapt(vit, "linear", num_classes=3, transform="scene")
