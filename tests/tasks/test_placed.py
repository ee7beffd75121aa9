"""What holds of every task that says something of places."""

import pytest
import torch

import sidetune
from sidetune import Detection, Recipe, Segmentation
from sidetune.measure.memory import training_peak
from sidetune.measure.plan import plan
from sidetune.measure.speed import random_batch

TASKS = [
    Segmentation(classes=("sky", "sea", "sand"), width=16),
    Detection(classes=("square", "disc"), width=16, convolutions=1),
]


@pytest.mark.parametrize("task", TASKS)
def test_the_plan_of_a_step_is_the_real_steps_peak(vit, task):
    model = sidetune.adapt(vit, "dtl+", task=task).hold(torch.float32)
    recipe = Recipe(batch_size=2, precision="fp32")
    planned = plan(model, recipe).memory
    assert (
        planned.peak - planned.workspace <= training_peak(model, *random_batch(model, 2), recipe) <= planned.peak + 4096
    )
