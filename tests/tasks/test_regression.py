"""Numbers of an image: units, losses and scores."""

import numpy as np
import pytest
import torch
from conftest import tiny_backbone

import sidetune
from sidetune import Regression
from sidetune.errors import DataError

BODY = ("age", "height")
ROWS = [(20.0, 1.6), (30.0, 1.8), (70.0, 1.7)]


def test_the_head_works_in_units_of_the_training_images():
    task = Regression(classes=BODY).begin(ROWS)
    rows = np.array(ROWS)
    assert task.mean == pytest.approx(tuple(rows.mean(axis=0))) and task.scale == pytest.approx(tuple(rows.std(axis=0)))
    outputs = torch.tensor((rows - rows.mean(axis=0)) / rows.std(axis=0))
    assert [dict(answer.values) for answer in task.predict(outputs)] == [
        pytest.approx(dict(zip(BODY, row, strict=True))) for row in ROWS
    ]
    (loss,) = task.losses(outputs, torch.tensor(ROWS)).values()
    assert loss.item() == pytest.approx(0, abs=1e-10)


def test_the_loss_is_the_mean_smooth_l1_in_those_units_in_pieces_too():
    task = Regression(classes=BODY).begin(ROWS)
    outputs, targets = torch.tensor([[3.0, 0.2], [-0.5, -4.0], [0.0, 1.0]]), torch.tensor(ROWS)
    (whole,) = task.losses(outputs, targets).values()
    errors = (outputs - (targets - torch.tensor(task.mean)) / torch.tensor(task.scale)).abs().flatten().tolist()
    assert min(errors) < 1 < max(errors)
    expected = sum(e**2 / 2 if e < 1 else e - 1 / 2 for e in errors) / 6
    assert whole.item() == pytest.approx(expected, rel=1e-5)
    pieces = [task.losses(outputs[part], targets[part])["smooth L1"] for part in (slice(0, 1), slice(1, 3))]
    assert whole.item() == pytest.approx((pieces[0] / 3 + pieces[1] * 2 / 3).item(), rel=1e-5)


def test_a_score_in_the_numbers_own_units():
    task = Regression(classes=BODY, mean=(10.0, 0.0), scale=(2.0, 1.0))
    meter = task.meter()
    meter.add(torch.tensor([[0.0, 1.0], [1.0, 1.0]]), torch.tensor([[10.0, 2.0], [11.0, 2.0]]))  # 10 and 12, 1 and 1
    meter.add(torch.tensor([[2.0, 1.0]]), torch.tensor([[15.0, 2.0]]))  # 14, 1
    found = meter.score()
    assert found.num_images == 3
    assert found.mae == pytest.approx((2 / 3, 1)) and found.rmse == pytest.approx(((2 / 3) ** 0.5, 1))
    assert found.r2 == pytest.approx((1 - 2 / (4 + 1 + 9), 0))  # the second is 2 for all
    assert found.values == pytest.approx({"r2": (6 / 7) / 2, "mae": 5 / 6, "rmse": ((2 / 3) ** 0.5 + 1) / 2})
    assert found.in_words() == "age: MAE 0.6667, R2 0.857; height: MAE 1, R2 0.000"
    assert found.described()["by_name"]["mae"]["height"] == pytest.approx(1)


def test_given_units_are_kept():
    task = Regression(classes=("age",), mean=(50.0,), scale=(25.0,)).begin([(1.0,), (3.0,)])
    assert (task.mean, task.scale) == ((50.0,), (25.0,))
    assert task.predict(torch.tensor([[1.0]]))[0].in_words() == "age 75"


@pytest.mark.parametrize(
    ("rows", "complaint"),
    [
        ([(1.0, 2.0), (1.0, 3.0)], "all training images have the same number for age"),
        ([(1.0, 2.0), (float("nan"), 3.0)], "NaN or infinite"),
    ],
)
def test_numbers_that_teach_nothing_are_refused(rows, complaint):
    with pytest.raises(DataError, match=complaint):
        Regression(classes=BODY).begin(rows)


@pytest.mark.parametrize(
    ("choices", "complaint"),
    [
        ({"mean": (1.0,)}, "mean has 1 numbers, of 2 names"),
        ({"scale": (1.0, 0.0)}, "scale must be above 0"),
        ({"metric": "accuracy"}, "unknown metric 'accuracy'"),
        ({"classes": ("age", "age")}, "of different names"),
    ],
)
def test_choices_that_make_no_sense_are_refused(choices, complaint):
    with pytest.raises(ValueError, match=complaint):
        Regression(**{"classes": BODY, **choices})


def test_a_final_head_gives_the_numbers_themselves():
    torch.manual_seed(0)
    task = Regression(classes=BODY).begin(ROWS)
    head = sidetune.adapt(tiny_backbone("vit"), "linear", task=task).head
    x = torch.randn(3, head.in_features)
    found = task.final(head)(x).tolist()
    assert found == [pytest.approx([v for _, v in answer.values], rel=1e-4) for answer in task.predict(head(x))]
