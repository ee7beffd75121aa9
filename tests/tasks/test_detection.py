"""Detection: loss, answers, scores against pycocotools and cases counted by hand, and training on a few scenes."""

import contextlib
import io
import json
import sys

import numpy as np
import pytest
import timm
import torch
from conftest import tiny_backbone, tiny_network
from PIL import Image, ImageDraw
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

import sidetune
from sidetune.backbones import open_backbone
from sidetune.cli.main import main
from sidetune.data.objects import Objects
from sidetune.errors import MissingExtra
from sidetune.recipe import Recipe
from sidetune.tasks import Detection, described, from_description
from sidetune.tasks.average_precision import as_coco, voc07
from sidetune.tasks.detection_score import scored
from sidetune.tasks.detections import Detections, suppressed
from sidetune.tasks.task import Masked, Placed, PlacedTask, Task
from sidetune.train.evaluate import score

CLASSES = ("square", "disc")
TASK = Detection(classes=CLASSES, width=16, convolutions=1)


def scenes(size=32, count=4, seed=0):
    """(image, target): one to three squares and discs, each in a quarter of its own; rows are filled up to three."""
    rng, found = np.random.default_rng(seed), []
    for _ in range(count):
        picture, rows = Image.new("RGB", (size, size), (40, 40, 40)), torch.zeros(3, 6)
        rows[:, 4], draw = -1, ImageDraw.Draw(picture)
        for row, quarter in zip(rows, rng.permutation(4)[: rng.integers(1, 4)], strict=False):
            side, kind = rng.uniform(0.3, 0.45), int(rng.integers(2))
            x, y = np.array([quarter % 2, quarter // 2]) / 2 + rng.uniform(0, 0.5 - side, 2)
            box = (x, y, x + side, y + side)
            shape, colour = ((draw.rectangle, (220, 60, 60)), (draw.ellipse, (60, 120, 230)))[kind]
            shape([f * size for f in box], fill=colour)
            row.copy_(torch.tensor([*box, kind, 0]))
        found.append((torch.from_numpy(np.array(picture)).permute(2, 0, 1) / 127.5 - 1, rows))
    return found


def outputs(logits, boxes):
    """As the head gives them, of one image."""
    boxes = torch.tensor(boxes).reshape(-1, 4)
    return torch.cat([torch.tensor(logits).reshape(len(boxes), -1), boxes, boxes], dim=1)[None]


def answer(*rows, classes=CLASSES):
    """Of x1, y1, x2, y2, class, score."""
    table = torch.tensor(rows).reshape(-1, 6)
    return Detections(boxes=table[:, :4], labels=table[:, 4].long(), scores=table[:, 5], classes=classes, size=(1, 1))


def objects(*rows):
    """Of x1, y1, x2, y2, class, aside."""
    return torch.tensor(rows).reshape(-1, 6)


def simulated(seed=0, count=40, num_classes=5):
    """Answers near objects, beside them and doubled, of scores that tie, with crowds; the last class is nowhere, and
    some images show nothing."""
    rng, found, truth = np.random.default_rng(seed), [], []
    classes = tuple(map(str, range(num_classes)))
    for _ in range(count):
        few = int(rng.integers(0, 8))
        first, sides = rng.uniform(0, 0.7, (few, 2)), rng.uniform(0.05, 0.3, (few, 2))
        labels, aside = rng.integers(0, num_classes - 1, few), rng.random(few) < 0.15
        boxes = np.concatenate([first, first + sides], axis=1)
        truth.append(torch.tensor(np.column_stack([boxes, labels, aside]), dtype=torch.float32).reshape(-1, 6))
        chosen = rng.integers(0, few, int(rng.integers(0, 15))) if few else np.zeros(0, int)
        said = boxes[chosen] + rng.normal(0, 0.02, (len(chosen), 4))
        said[:, 2:] = np.maximum(said[:, 2:], said[:, :2] + 0.01)
        wrong = np.where(rng.random(len(chosen)) < 0.8, labels[chosen], rng.integers(0, num_classes, len(chosen)))
        rows = np.column_stack([said.clip(0, 1), wrong, rng.random(len(chosen)).round(1)])
        found.append(answer(*rows[np.argsort(-rows[:, 5], kind="stable")].tolist(), classes=classes))
    return found, truth, classes


def test_average_precision_is_pycocotools():
    found, truth, classes = simulated()
    score = scored(found, truth, classes)
    given, results = as_coco(found, truth, len(classes))
    with contextlib.redirect_stdout(io.StringIO()):
        annotated = COCO()
        annotated.dataset = given
        annotated.createIndex()
        theirs = COCOeval(annotated, annotated.loadRes(results), "bbox")
        theirs.evaluate()
        theirs.accumulate()
        theirs.summarize()
    expected = dict(zip(("ap", "ap50", "ap75"), theirs.stats[:3], strict=True)) | {"ar100": theirs.stats[8]}
    assert 0.05 < expected["ap"] < expected["ap50"] < 0.95
    assert {n: score.values[n] for n in expected} == pytest.approx(expected, abs=1e-9)
    by_class = theirs.eval["precision"][:, :, :, 0, 2].mean(axis=(0, 1))
    assert [score.of("ap")[c] for c in classes[:-1]] == pytest.approx(by_class[:-1].tolist(), abs=1e-9)
    assert by_class[-1] == -1 and {n: score.of(n)[classes[-1]] for n in score.values} == dict.fromkeys(score.values)
    assert score.num_images == 40 and json.loads(json.dumps(score.described()))["by_class"]["ap"]["4"] is None


LEFT, RIGHT = (0.0, 0.0, 0.4, 0.4), (0.5, 0.5, 0.9, 0.9)


def test_vocs_eleven_points_counted_by_hand():
    """Three objects: found, doubled, found, missed; the answer on the difficult one, the surest, is not counted."""
    found = [answer((*LEFT, 0, 0.9), (*LEFT, 0, 0.8)), answer((*RIGHT, 0, 0.95), (*LEFT, 0, 0.7))]
    truth = [objects((*LEFT, 0, 0)), objects((*LEFT, 0, 0), (*RIGHT, 0, 1), (0.5, 0.0, 0.9, 0.4, 0, 0))]
    # recalls 1/3, 1/3, 2/3 with precisions 1, 1/2, 2/3: 1 at 0 to .3, 2/3 at .4 to .6, 0 above
    assert voc07(found, truth, 2) == pytest.approx([(4 * 1 + 3 * 2 / 3) / 11, np.nan], nan_ok=True)


@pytest.mark.parametrize(
    "said, expected",
    [
        ((*LEFT, 0, 0.9), 1.0),
        ((*LEFT, 1, 0.9), 0.0),  # of another class
        ((0.0, 0.0, 0.4, 0.2, 0, 0.9), 1.0),  # half of it: an IoU of .5
        ((0.0, 0.0, 0.4, 0.19, 0, 0.9), 0.0),
        ((*RIGHT, 0, 0.9), 0.0),
    ],
)
def test_vocs_answers_are_right_from_an_iou_of_one_half(said, expected):
    assert voc07([answer(said)], [objects((*LEFT, 0, 0))], 2)[0] == expected


def test_an_answer_on_what_is_kept_aside_is_not_wrong_in_any_figure():
    truth = [objects((*LEFT, 0, 0), (*RIGHT, 0, 1))]
    for found, expected in (((*RIGHT, 0, 0.99), 1.0), ((0.0, 0.5, 0.4, 0.9, 0, 0.99), 0.5)):
        values = scored([answer(found, (*LEFT, 0, 0.5))], truth, CLASSES).values
        assert [values[n] for n in ("ap", "ap50", "ap75", "voc07")] == pytest.approx([expected] * 4)


def test_scores_of_nothing_are_0_and_named_classes_are_the_weakest():
    nothing = scored([answer(), answer()], [objects(), objects((*LEFT, 1, 0))], CLASSES)
    assert set(nothing.values.values()) == {0.0} and nothing.of("ap") == {"square": None, "disc": 0.0}
    assert set(scored([answer()], [objects()], CLASSES).values.values()) == {0.0}
    half = scored([answer((*LEFT, 0, 0.9))], [objects((*LEFT, 0, 0), (*RIGHT, 1, 0))], CLASSES)
    assert half.in_words() == "AP 50.00 %, AP50 50.00 %; lowest AP: disc (0.0 %)"


def test_a_meter_gathers_batches_of_filled_and_of_single_targets():
    meter = TASK.meter()
    found = outputs([[3.0, -9.0], [-9.0, -9.0]], [LEFT, RIGHT])
    meter.add(found, torch.tensor([[[*LEFT, 0, 0], [0, 0, 0, 0, -1, 0]]]))
    meter.add(found, [objects((*RIGHT, 0, 0))])
    score = meter.score()
    # one of two objects is found, first; a wrong answer follows: precision 1 at the 51 recalls up to 1/2
    assert score.num_images == 2 and score.values["ap50"] == pytest.approx(51 / 101)
    assert score.of("ap")["disc"] is None


def test_tables_of_several_processes_are_filled_up_before_they_are_gathered(vit):
    class OneOfTwo:
        """The other's images have up to five objects; gathering wants the same of both."""

        def pad_across_processes(self, targets, dim, pad_index):
            filled = torch.full((len(targets), 5, 6), float(pad_index))
            return filled.index_copy(dim, torch.arange(targets.shape[dim]), targets)

        def gather_for_metrics(self, pair):
            assert pair[1].shape[1] == 5
            return pair

    model = sidetune.adapt(vit, "linear", task=TASK)
    batches = [tuple(map(torch.stack, zip(*scenes(), strict=True)))]
    filled, alone = score(model, batches, OneOfTwo()), sidetune.evaluate(model, scenes(), precision="fp32")
    assert filled.described() == alone.described()


def test_of_answers_that_overlap_the_surest_of_each_class_stays():
    near = (0.01, 0.0, 0.41, 0.4)
    boxes = torch.tensor([LEFT, near, RIGHT, near, (-0.5, 0.6, 0.3, 1.5)])
    logits = torch.tensor([[2.0, -9], [3.0, -9], [1.0, -9], [-9, 1.5], [0.5, -9]])
    found = suppressed(logits, boxes, CLASSES, threshold=0.05, overlap=0.5, most=100)
    assert found.labels.tolist() == [0, 1, 0, 0]
    torch.testing.assert_close(found.scores, torch.tensor([3.0, 1.5, 1.0, 0.5]).sigmoid())
    torch.testing.assert_close(found.boxes, torch.tensor([near, near, RIGHT, (0, 0.6, 0.3, 1)]))
    assert len(suppressed(logits, boxes, CLASSES, threshold=0.05, overlap=0.99, most=100)) == 5
    assert len(suppressed(logits, boxes, CLASSES, threshold=0.8, overlap=0.5, most=100)) == 2
    assert len(suppressed(logits, boxes, CLASSES, threshold=0.05, overlap=0.5, most=3)) == 3


def test_answers_are_told_in_words_and_in_pixels():
    found = answer((0.1, 0.2, 0.3, 0.6, 1, 0.9), (*LEFT, 0, 0.4), (*RIGHT, 0, 0.1)).at((50, 100))
    assert found.in_words() == "disc 90.0%, square 40.0%" and answer().in_words() == "nothing"
    many = answer(*[(*LEFT, 0, 0.5)] * 5)
    assert many.in_words().endswith("square 50.0%, 2 more") and "more" not in many.in_words(top=5)
    told = json.loads(json.dumps(found.described()))
    assert told["size"] == [50, 100] and [o["class"] for o in told["objects"]] == ["disc", "square", "square"]
    assert told["objects"][0]["bbox"] == pytest.approx([10, 10, 20, 20]) and found.at((5, 10)).size == (5, 10)
    assert isinstance(found, Placed) and not isinstance(found, Masked)


def test_a_drawn_answer_has_boxes_of_different_colours_where_they_are():
    picture = Image.new("RGB", (100, 100), (128, 128, 128))
    drawn = answer((0.1, 0.3, 0.4, 0.6, 0, 0.9), (0.5, 0.5, 0.9, 0.9, 1, 0.8), (0, 0, 1, 1, 0, 0.1)).drawn(picture)
    first, second = drawn.getpixel((10, 45)), drawn.getpixel((50, 70))
    assert first != second and (128, 128, 128) not in (first, second)
    assert drawn.getpixel((25, 45)) == (128, 128, 128) == drawn.getpixel((0, 99)), "nothing inside, and none unsure"


def test_truth_is_told_and_drawn_from_rows_and_from_objects():
    assert isinstance(TASK, Task) and isinstance(TASK, PlacedTask)
    rows = objects((0.1, 0.2, 0.3, 0.6, 1, 0), (*LEFT, 0, 0), (*RIGHT, 1, 1), (0, 0, 0, 0, -1, 0))
    same = Objects(
        boxes=(rows[:3, :4].numpy() * 100).astype(np.float32),
        labels=np.array([1, 0, 1]),
        aside=np.array([False, False, True]),
        outlines=None,
        size=(100, 100),
    )
    assert TASK.truth(rows) == TASK.truth(same) == "2 x disc, square" and TASK.truth(rows[3:]) == "nothing"
    picture = Image.new("RGB", (100, 100))
    drawn = TASK.drawn(picture, rows)
    assert np.array_equal(drawn, TASK.drawn(picture, same)) and not np.array_equal(drawn, picture)


def test_losses_of_a_batchs_pieces_add_up_to_its_own(vit):
    model = sidetune.adapt(vit, "linear", task=TASK)
    images, targets = map(torch.stack, zip(*scenes(), strict=True))
    whole = TASK.losses(model(images), targets)
    assert whole.keys() == {"focal", "box"}
    for name, term in whole.items():
        parts = [TASK.losses(model(images[i : i + 1]), targets[i : i + 1])[name] / 4 for i in range(4)]
        torch.testing.assert_close(sum(parts), term)


def test_pictures_without_objects_are_learned_from(vit):
    model = sidetune.adapt(vit, "linear", task=TASK)
    out = model(torch.zeros(2, 3, 32, 32))
    none = TASK.losses(out, torch.zeros(2, 0, 6))
    assert none["box"] == 0 and none["focal"] > 0
    filled = torch.zeros(2, 3, 6)
    filled[..., 4] = -1
    assert TASK.losses(out, filled)["focal"] == none["focal"]
    sum(none.values()).backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())


@pytest.mark.parametrize("kind", ["vit", "resnet"])
def test_four_scenes_are_learned_by_heart(kind):
    size = {"vit": 32, "resnet": 64}[kind]
    backbone = open_backbone(tiny_network(kind), image_size=None if kind == "vit" else size)
    task = Detection(classes=CLASSES, width=32, convolutions=1, anchor=3.0)
    model = sidetune.adapt(backbone, "full", task=task, transform="vtab")
    recipe = Recipe(
        epochs=70, batch_size=4, lr=6e-3, warmup_epochs=5, lr_update="step", clip_grad=1.0, precision="fp32"
    )
    done = sidetune.fit(model, scenes(size), recipe=recipe)
    assert sidetune.evaluate(model, scenes(size)).values["ap50"] > 0.95
    assert set(done.history[-1].losses) == {"focal", "box"}


@pytest.mark.parametrize(
    "kind, method",
    [("vit", "dtl+"), ("vit", "lora"), ("vit", "vpt-deep"), ("vit", "mist"), ("swin", "dtlv2"), ("convnext", "bitfit")],
)
def test_methods_train_on_boxes(kind, method):
    backbone = tiny_backbone(kind)
    model = sidetune.adapt(backbone, method, task=TASK, transform="vtab")
    before = {name: t.clone() for name, t in model.trained().items()}
    recipe = Recipe(epochs=1, batch_size=2, precision="fp32", lr=1e-2, warmup_epochs=0)
    sidetune.fit(model, scenes(backbone.card.image_size[0], count=2), recipe=recipe)
    changed = {name for name, t in model.trained().items() if not torch.equal(t, before[name])}
    assert {name for name in before if name.startswith("head.")} <= changed
    assert any(not name.startswith("head.") for name in changed)


def test_a_task_is_saved_by_its_fields_and_read_back():
    task = Detection(classes=CLASSES, width=64, norm="none", anchor=8.0, most=10, metric="voc07")
    assert from_description(json.loads(json.dumps(described(task)))) == task


def test_a_saved_model_answers_as_before(tmp_path, vit):
    model = sidetune.adapt(vit, "dtl+", task=TASK)
    model.head.classify.last.bias.data.fill_(0)  # sure of something
    model.save_pretrained(tmp_path / "model")
    again = sidetune.load(tmp_path / "model", backbone=tiny_backbone("vit"))
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 50, 3), dtype=np.uint8))
    first, second = model.predict(picture), again.predict(picture)
    assert torch.equal(first.boxes, second.boxes) and torch.equal(first.scores, second.scores)
    assert first.size == (40, 50) and 1 < len(first) <= 100


def test_a_graph_gives_what_the_head_gives(tmp_path, vit):
    model = sidetune.adapt(vit, "linear", task=TASK)
    assert sidetune.export_onnx(model, tmp_path / "model.onnx") < 1e-4


def test_in_a_low_type_outputs_stay_float32_and_losses_nearly_what_they_are(vit):
    model = sidetune.adapt(vit, "dtl+", task=TASK).hold(torch.bfloat16)
    images, targets = map(torch.stack, zip(*scenes(count=2), strict=True))
    full = sidetune.adapt(vit, "dtl+", task=TASK)(images)
    out = model(images)
    assert out.dtype == torch.float32 and torch.equal(out[..., -4:], full[..., -4:])
    torch.testing.assert_close(out, full, rtol=0, atol=0.1)
    for name, term in TASK.losses(out, targets).items():
        torch.testing.assert_close(term, TASK.losses(full, targets)[name], rtol=0.05, atol=0)


def test_answers_are_drawn_and_masks_refused_on_the_command_line(tmp_path, monkeypatch, capsys):
    def create(name, *, architecture, pretrained):
        torch.manual_seed(0)
        return timm.create_model("vit_tiny_patch16_224", num_classes=0, img_size=32, depth=4, embed_dim=48, num_heads=3)

    monkeypatch.setattr("sidetune.backbones.create", create)
    monkeypatch.chdir(tmp_path)
    sidetune.adapt("vit_tiny_patch16_224", "linear", task=TASK).save_pretrained("m")
    Image.new("RGB", (60, 40)).save("a.png")

    def run(*words):
        monkeypatch.setattr(sys, "argv", ["sidetune", "predict", "m", "a.png", *words])
        with pytest.raises(SystemExit) as stopped:
            main()
        return stopped.value.code, capsys.readouterr()

    code, told = run("--draw", "drawn", "--json")
    assert not code and json.loads(told.out)[0]["size"] == [40, 60]
    with Image.open("drawn/a.png") as drawn:
        assert drawn.size == (60, 40)
    code, told = run("--draw", "other", "--masks", "masks")
    assert code and "--masks is for a class at every pixel (segmentation); detection has none" in told.err
    assert not (tmp_path / "other").exists()


def test_a_missing_evaluator_is_named_before_anything_is_trained(monkeypatch, vit):
    monkeypatch.setitem(sys.modules, "faster_coco_eval", None)
    with pytest.raises(MissingExtra, match=r"sidetune\[dense\]"):
        sidetune.fit(sidetune.adapt(vit, "linear", task=TASK, transform="vtab"), scenes())
    with pytest.raises(MissingExtra, match=r"sidetune\[dense\]"):
        TASK.meter()


@pytest.mark.parametrize(
    "choices, message",
    [
        ({"classes": ()}, "at least 1 class, got none"),
        ({"classes": ("a", "a")}, "different names"),
        ({"width": 12}, "width must be a multiple of 8, the channels of a group, got 12"),
        ({"width": 0}, "width must be 1 or more, got 0"),
        ({"convolutions": -1}, "convolutions must be 0 or more, got -1"),
        ({"most": 0}, "most must be 1 or more, got 0"),
        ({"norm": "batch"}, "unknown norm 'batch'.*group, none"),
        ({"anchor": 0.0}, "anchor must be more than 0, got 0.0"),
        ({"threshold": 1.5}, "threshold must be from 0 to 1, got 1.5"),
        ({"overlap": float("nan")}, "overlap must be from 0 to 1, got nan"),
        ({"metric": "miou"}, "unknown metric 'miou'.*ap, ap50"),
    ],
)
def test_what_it_cannot_be_is_refused(choices, message):
    with pytest.raises(ValueError, match=message):
        Detection(**{"classes": CLASSES, **choices})
