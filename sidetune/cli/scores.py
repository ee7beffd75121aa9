"""What a score says, on a line."""

from __future__ import annotations

from collections.abc import Sequence

from sidetune.train.evaluate import Score

MOST = 3
"""Classes that are named."""
POOR = 0.8
"""Of the accuracy: a class whose recall is below is named."""


def in_words(score: Score, classes: Sequence[str]) -> str:
    """Accuracy and balanced accuracy, and the classes that are labelled right much less often than images are."""
    lowest = sorted((recall, i) for i, recall in enumerate(score.recalls) if recall is not None)[:MOST]
    poor = [i for recall, i in lowest if recall < POOR * score.accuracy]
    text = f"accuracy {100 * score.accuracy:.2f} %, balanced {100 * score.balanced_accuracy:.2f} %"
    if not poor:
        return text
    named = [f"{classes[i]} ({right:,} of {images:,})" for i in poor for images, right in [score.by_class[i]]]
    return f"{text}; least right: {', '.join(named)}"
