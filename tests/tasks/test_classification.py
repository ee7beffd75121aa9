"""One label an image: scores in words and numbers, weights of classes."""

import pytest
import torch
from torch.nn import functional as F

from sidetune import Classification
from sidetune.methods import METHODS
from sidetune.seam.features import Features
from sidetune.seam.taps import pooled
from sidetune.tasks.classification import ClassificationScore

ABC = ("a", "b", "c")


def score(*by_class, classes):
    return ClassificationScore(by_class=by_class, classes=classes)


def test_a_rare_class_that_is_never_right_is_named():
    told = score((60, 60), (6, 0), classes=("ok", "defect")).in_words()
    assert told == "accuracy 90.91 %, balanced 50.00 %; least right: defect (0 of 6)"


def test_the_three_lowest_are_named_and_classes_without_images_are_not():
    told = score((100, 100), (5, 1), (0, 0), (5, 0), (5, 2), (5, 3), classes=tuple("abcdef")).in_words()
    assert told == "accuracy 88.33 %, balanced 44.00 %; least right: d (0 of 5), b (1 of 5), e (2 of 5)"


def test_classes_that_are_nearly_alike_are_not_named():
    assert score((10, 9), (10, 8), classes=("a", "b")).in_words() == "accuracy 85.00 %, balanced 85.00 %"


def test_recall_precision_and_f1_by_class():
    meter = Classification(classes=ABC).meter()
    truth, said = torch.tensor([0, 0, 0, 0, 1, 1]), torch.tensor([0, 0, 0, 1, 1, 0])
    for part in (slice(0, 2), slice(2, 6)):  # in batches
        meter.add(F.one_hot(said[part], 3).float(), truth[part])
    found = meter.score()
    assert found.by_class == ((4, 3), (2, 1), (0, 0)) and found.num_labelled == (4, 2, 0)
    assert found.recalls == (3 / 4, 1 / 2, None) and found.precisions == (3 / 4, 1 / 2, None)
    assert found.values == pytest.approx({"accuracy": 4 / 6, "balanced_accuracy": 5 / 8, "macro_f1": 5 / 8})
    assert found.described()["precision"] == {"a": 3 / 4, "b": 1 / 2, "c": None}


def test_balanced_weights_count_every_class_the_same_and_an_image_once_on_average():
    targets = [0] * 6 + [1] * 2
    task = Classification(classes=ABC, weights="balanced").begin(targets)
    assert task.weights == pytest.approx((8 / 2 / 6, 8 / 2 / 2, 0))
    assert sum(task.weights[t] for t in targets) == pytest.approx(8)


def test_weights_weigh_the_losses_of_images_in_batches_and_their_pieces_alike():
    task = Classification(classes=ABC, weights=(1.0, 3.0, 0.5))
    outputs, targets = torch.randn(6, 3), torch.tensor([0, 1, 2, 1, 0, 0])
    (whole,) = task.losses(outputs, targets).values()
    each = F.cross_entropy(outputs, targets, reduction="none")
    assert whole.item() == pytest.approx((each * torch.tensor([1, 3, 0.5, 3, 1, 1])).sum().item() / 6)
    pieces = [task.losses(outputs[part], targets[part])["cross entropy"] for part in (slice(0, 2), slice(2, 6))]
    assert whole.item() == pytest.approx((pieces[0] * 2 / 6 + pieces[1] * 4 / 6).item())


def test_predictions_are_the_most_probable_classes_and_no_more_than_there_are():
    task, outputs = Classification(classes=ABC), torch.tensor([[0.2, 0.7, 0.1], [0.5, 0.2, 0.3]]).log()
    for top in (1, 2, 3, 5):
        first, second = task.predict(outputs, top=top)
        assert [name for name, _ in first.top] == ["b", "a", "c"][:top] and first.label == "b"
        assert [p for _, p in second.top] == pytest.approx([0.5, 0.3, 0.2][:top])
    assert len(task.predict(outputs)[0].top) == 3
    assert first.in_words() == "b 70.0%" and first.in_words(top=2) == "b 70.0%, a 20.0%"
    assert len(Classification(classes=tuple("abcdefg")).predict(torch.zeros(1, 7))[0].top) == 5
    assert task.is_right(first, 1) is True and task.is_right(first, 0) is False and task.truth(2) == "c"


def test_a_head_reads_the_vector_that_the_method_suggests_and_has_a_row_for_each_class(vit):
    task, method = Classification(classes=ABC), METHODS["linear"]
    (tap,) = task.taps(vit, method)
    assert tap == method.readout(vit).tap == pooled("token")
    outputs = task.head(vit, method)(Features({tap: torch.zeros(2, 48)}))
    assert outputs.shape == (2, 3)
    assert task.stand_in(5, (32, 32)).tolist() == [0, 1, 2, 0, 1]


@pytest.mark.parametrize("weights", [(0.0, 0.5, 1.0), (0.1, 0.2, 0.3), (0.0, 0.0, 5.0)])
def test_weights_may_be_small_or_0_as_long_as_one_is_not(weights):
    assert Classification(classes=ABC, weights=weights).begin([0, 1]).weights == weights


def test_balanced_weights_have_to_be_found_first():
    with pytest.raises(ValueError, match="found from the training images"):
        Classification(classes=ABC, weights="balanced").losses(torch.zeros(1, 3), torch.tensor([0]))


@pytest.mark.parametrize(
    ("choices", "complaint"),
    [
        ({"weights": (1.0, 2.0)}, "weights are 2 numbers, of 3 classes"),
        ({"weights": (1.0, -1.0, 1.0)}, "weights must be 0 or more"),
        ({"weights": (0.0, 0.0, 0.0)}, "and not all 0"),
        ({"metric": "mae"}, "unknown metric 'mae'"),
        ({"classes": ("a",)}, "at least 2 classes, got 1"),
        ({"classes": ("a", "a")}, "classes must have different names"),
    ],
)
def test_choices_that_make_no_sense_are_refused(choices, complaint):
    with pytest.raises(ValueError, match=complaint):
        Classification(**{"classes": ABC, **choices})
