"""A score in words: what one number hides is said."""

from sidetune.cli.scores import in_words
from sidetune.train.evaluate import Score


def test_a_rare_class_that_is_never_right_is_named():
    score = Score(by_class=((60, 60), (6, 0)))
    assert in_words(score, ("ok", "defect")) == "accuracy 90.91 %, balanced 50.00 %; least right: defect (0 of 6)"


def test_the_three_lowest_are_named_and_classes_without_images_are_not():
    score = Score(by_class=((100, 100), (5, 1), (0, 0), (5, 0), (5, 2), (5, 3)))
    told = in_words(score, ("a", "b", "c", "d", "e", "f"))
    assert told == "accuracy 88.33 %, balanced 44.00 %; least right: d (0 of 5), b (1 of 5), e (2 of 5)"


def test_classes_that_are_nearly_alike_are_not_named():
    assert in_words(Score(by_class=((10, 9), (10, 8))), ("a", "b")) == "accuracy 85.00 %, balanced 85.00 %"
