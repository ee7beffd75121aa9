"""Several labels an image: average precision against its definition, thresholds, weights."""

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from hypothesis import given
from torch.nn import functional as F

from sidetune import Multilabel
from sidetune.errors import DataError
from sidetune.tasks.multilabel import MultilabelScore, average_precision

SKY = ("sun", "rain", "snow")


def by_definition(scores, truth):
    """For each image with the label: of all images that score as much, the share that has it."""
    shares = [truth[scores >= s].mean() for s, t in zip(scores, truth, strict=True) if t]
    return sum(shares) / len(shares) if shares else None


@given(st.lists(st.tuples(st.integers(0, 5), st.booleans()), min_size=1, max_size=40))
def test_average_precision_is_what_its_definition_says_ties_included(pairs):
    scores, truth = (np.array(column, dtype=np.float32) for column in zip(*pairs, strict=True))
    found, expected = average_precision(scores, truth), by_definition(scores, truth)
    assert found == (None if expected is None else pytest.approx(expected, abs=1e-6))


def scored(task, logits, targets):
    meter = task.meter()
    for rows, truth in zip(torch.tensor(logits).split(2), torch.tensor(targets).split(2), strict=True):
        meter.add(rows, truth)
    return meter.score()


def test_a_score_of_four_images():
    logits = [[2.0, 1.0, -9.0], [1.0, -1.0, -9.0], [-1.0, 0.5, -9.0], [-2.0, -2.0, -9.0]]
    targets = [[1.0, 1.0, 0.0], [1.0, 1.0, 0.0], [0.0, 0.0, 0.0], [0.0, 0.0, 0.0]]
    found = scored(Multilabel(classes=SKY), logits, targets)
    assert found.average_precision == pytest.approx((1, (1 + 2 / 3) / 2, None))
    assert found.f1 == pytest.approx((1, 2 * 1 / (2 + 2), None))
    assert found.values == pytest.approx({"map": (1 + 5 / 6) / 2, "macro_f1": 0.75, "exact_match": 2 / 4})
    assert found.num_images == 4
    assert found.in_words() == "mAP 91.67 %, macro F1 75.00 %, all labels right 50.00 %"
    assert found.described()["average_precision"]["snow"] is None


def test_a_label_far_below_the_others_is_named():
    told = scored(Multilabel(classes=("a", "b")), [[1.0, 0.0], [0.0, 1.0]], [[1.0, 1.0], [0.0, 0.0]]).in_words()
    assert told.endswith("; lowest: b (50.0 %)") and told.startswith("mAP 75.00 %")


def test_an_answer_is_right_if_all_of_its_labels_are():
    task = Multilabel(classes=SKY)
    (answer,) = task.predict(torch.tensor([[1.0, -1.0, 2.0]]))
    assert task.is_right(answer, (1.0, 0.0, 1.0)) is True
    assert not any(task.is_right(answer, truth) for truth in ((1.0, 0.0, 0.0), (1.0, 1.0, 1.0), (0.0, 0.0, 0.0)))
    assert task.truth((1.0, 0.0, 1.0)) == "sun, snow" and task.truth((0.0, 0.0, 0.0)) == "no label"


def test_five_labels_are_shown_or_all_that_are_said():
    task = Multilabel(classes=tuple("abcdefg"))
    nothing, all_of_them = task.predict(torch.tensor([[-1.0] * 7, [1.0] * 7]))
    assert (len(nothing.labels), len(nothing.probabilities)) == (0, 5)
    assert (len(all_of_them.labels), len(all_of_them.probabilities)) == (7, 7)


def test_a_label_at_four_fifths_of_the_mean_is_not_far_below():
    def told(lower):
        precisions = (lower, 1 - lower)
        score = MultilabelScore(
            classes=("a", "b"), num_images=4, average_precision=precisions, f1=precisions, exact_match=0.5
        )
        return score.in_words()

    assert "lowest" not in told(0.4) and told(0.375).endswith("; lowest: a (37.5 %)")


def test_made_up_targets_have_each_label_and_lack_it():
    targets = Multilabel(classes=SKY).stand_in(4, (32, 32))
    assert targets.shape == (4, 3) and set(targets.unique().tolist()) == {0, 1}
    assert ((0 < targets.mean(dim=0)) & (targets.mean(dim=0) < 1)).all()


def test_labels_from_their_thresholds_on_are_said_most_probable_first():
    outputs = torch.tensor([[0.3, 0.9, 0.1], [0.1, 0.2, 0.05]]).logit()
    first, second = Multilabel(classes=SKY, threshold=(0.25, 0.5, 0.5)).predict(outputs, top=1)
    assert first.labels == ("rain", "sun") and [name for name, _ in first.probabilities] == ["rain", "sun"]
    assert first.in_words() == "rain 90.0%, sun 30.0%"
    assert second.labels == () and second.in_words() == "no label"
    assert second.described() == {"labels": [], "top": [["rain", pytest.approx(0.2)]]}


def test_the_loss_is_the_mean_binary_cross_entropy_in_pieces_too():
    outputs, targets = torch.randn(5, 3), torch.randint(0, 2, (5, 3)).float()
    task = Multilabel(classes=SKY)
    (whole,) = task.losses(outputs, targets).values()
    p = outputs.sigmoid()
    expected = -(targets * p.log() + (1 - targets) * (1 - p).log()).mean()
    assert whole.item() == pytest.approx(expected.item(), rel=1e-5)
    pieces = [task.losses(outputs[part], targets[part])["binary cross entropy"] for part in (slice(0, 2), slice(2, 5))]
    assert whole.item() == pytest.approx((pieces[0] * 2 / 5 + pieces[1] * 3 / 5).item(), rel=1e-5)


def test_balanced_weights_make_having_a_label_as_heavy_as_not_having_it():
    rows = [(1.0, 1.0, 0.0)] * 2 + [(1.0, 0.0, 0.0)] * 6
    task = Multilabel(classes=SKY, weights="balanced").begin(rows)
    assert task.weights == (0.01, 3.0, 8.0)
    outputs = torch.randn(8, 3)
    (found,) = task.losses(outputs, torch.tensor(rows)).values()
    weights = torch.tensor(task.weights)
    expected = F.binary_cross_entropy_with_logits(outputs, torch.tensor(rows), pos_weight=weights)
    assert found.item() == expected.item()


def test_images_without_any_label_teach_nothing():
    with pytest.raises(DataError, match="no training image has any label"):
        Multilabel(classes=SKY).begin([(0.0, 0.0, 0.0)] * 3)


@pytest.mark.parametrize(
    ("choices", "complaint"),
    [
        ({"threshold": 1.5}, "threshold must be in 0..1, got 1.5"),
        ({"threshold": (0.1, 1.5, 0.2)}, "threshold must be in 0..1, got .0.1, 1.5, 0.2"),
        ({"threshold": (0.1, -0.5, 0.2)}, "threshold must be in 0..1"),
        ({"threshold": (0.1, 0.2)}, "threshold are 2 numbers, of 3 labels"),
        ({"weights": (0.0, 1.0, 1.0)}, "weights must be above 0"),
        ({"metric": "r2"}, "unknown metric 'r2'"),
        ({"classes": ()}, "there must be labels"),
    ],
)
def test_choices_that_make_no_sense_are_refused(choices, complaint):
    with pytest.raises(ValueError, match=complaint):
        Multilabel(**{"classes": SKY, **choices})
