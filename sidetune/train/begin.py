"""What a method sees of the training images before the first step: pruning and sensitivity start from them."""

from __future__ import annotations

import numpy as np

from sidetune.model import AdaptedModel
from sidetune.store import Kept
from sidetune.train.batches import Data, Targets, as_dataset, sized


def begin(model: AdaptedModel, train: Data, seed: int = 0) -> None:
    """Show the method as many training images as it wants to see; once for a model, `fit` does it.

    Raises ValueError if it wants images and there are only their features.
    """
    if model.begun or not (wanted := model.method.num_shown):
        return
    dataset = as_dataset(train, model, training=True)
    if isinstance(dataset, Kept):
        raise ValueError(
            f"{type(model.method).__name__} looks at training images before the first step, and these are features; "
            f"call sidetune.begin(model, images) first, or choose a start without images"
        )
    chosen = np.random.default_rng(seed).permutation(len(sized(dataset)))[:wanted]
    examples = [dataset[int(i)] for i in chosen]
    model.task = model.task.begin(Targets(dataset))
    model.method.begin(model, examples)
    model.begun = True
