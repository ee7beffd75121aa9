"""LAST: running sums of taps, low-rank attention on them, and the bias correction."""

import pytest
import timm
import torch
from conftest import taps

import sidetune
from sidetune.contract import check_method, disturb, vector
from sidetune.measure.parameters import count
from sidetune.methods.last import LAST
from sidetune.recipe import Recipe


@pytest.fixture
def vit_b():
    with torch.device("meta"):
        return sidetune.open_backbone(timm.create_model("vit_base_patch16_224", num_classes=0))


@pytest.mark.parametrize(
    ("choices", "trainable"),
    [
        ({}, 13 * 50_688),
        ({"rank": 32, "layers": 1}, 7 * 99_840),
        ({"gap": 1, "layers": 1}, 13 * 50_688),
        ({"gap": 12, "layers": 1}, 2 * 50_688),
    ],
)
def test_parameters_on_vit_b(vit_b, choices, trainable):
    model = sidetune.adapt(vit_b, "last", num_classes=10, **choices)
    assert count(model).trainable == trainable
    assert model.frozen_depth == 12


def test_every_second_tap_and_the_last_cross_the_seam(vit_b):
    model = sidetune.adapt(vit_b, "last", num_classes=10)
    assert model.need == taps("input.1 input.3 input.5 input.7 input.9 input.11 output.12")
    assert round(sidetune.plan(model, Recipe(precision="fp32")).features_bytes / 2**20, 3) == 4.04


@pytest.mark.parametrize(("gap", "numbers"), [(1, (0, 1, 2, 3, 4)), (2, (0, 2, 4)), (3, (0, 3, 4)), (4, (0, 4))])
def test_what_goes_on_is_the_papers_equation(vit, gap, numbers):
    model = sidetune.adapt(vit, LAST(gap=gap), num_classes=3)
    disturb(model)
    images = torch.randn(2, 3, 32, 32)
    outputs = [vit.stem(images)]
    for block in vit.blocks.values():
        outputs.append(block(outputs[-1]))
    u, seen = 0.0, 0.0
    for tap in numbers:
        u = u + outputs[tap]
        for layer in model.suffix.side.layers[str(tap)]:
            u = layer(u)
        if tap != 4:
            seen = seen + outputs[tap]
    expected = vit.pools["token"](u - seen)
    found = vector(model, images)
    assert torch.allclose(found, expected, atol=1e-4)
    assert not torch.allclose(found, vit.pools["token"](outputs[4]), atol=1e-3)


@pytest.mark.parametrize("window", [1, 3])
def test_a_window_gives_layers_the_last_taps_alone(vit, window):
    model = sidetune.adapt(vit, LAST(gap=1, layers=1, window=window), num_classes=3)
    disturb(model)
    images = torch.randn(2, 3, 32, 32)
    taps = [vit.stem(images)]
    for block in vit.blocks.values():
        taps.append(block(taps[-1]))
    u = 0.0
    for i, z in enumerate(taps):  # the paper's change: z_i - z_{i-t} is what side block i is given
        u = model.suffix.side.layers[str(i)][0](u + z - (taps[i - window] if i >= window else 0))
    expected = vit.pools["token"](u - sum(taps[5 - window : 4]))
    assert torch.allclose(vector(model, images), expected, atol=1e-4)


def test_a_window_of_all_taps_is_no_window(vit):
    images = torch.randn(2, 3, 32, 32)
    plain, wide = (sidetune.adapt(vit, LAST(gap=1, window=window), num_classes=3) for window in (None, 5))
    disturb(plain)
    wide.load_state_dict(plain.state_dict())
    assert torch.allclose(plain(images), wide(images), atol=1e-5)


def test_a_window_keeps_the_contract(vit):
    check_method(LAST(gap=1, window=2), vit)


def test_it_learns_from_kept_features(vit, samples):
    model = sidetune.adapt(vit, "last", classes=samples.classes, transform="vtab")
    recipe = Recipe(epochs=12, batch_size=8, precision="fp32", lr=1e-2, lr_update="step")
    assert sidetune.fit(model, samples, recipe=recipe).features_kept
    assert sidetune.evaluate(model, samples, precision="fp32").accuracy > 0.8


@pytest.mark.parametrize(
    ("choices", "message"),
    [
        ({"gap": 5}, "gap 5 is above the number of blocks, 4"),
        ({"gap": 0}, "gap must be at least 1"),
        ({"rank": 49}, "rank 49 is above the width of the backbone, 48"),
        ({"layers": 0}, "layers must be at least 1"),
    ],
)
def test_choices_that_make_no_sense_are_refused(vit, choices, message):
    with pytest.raises(ValueError, match=message):
        sidetune.adapt(vit, "last", num_classes=3, **choices)


@pytest.mark.parametrize("choices", [{"gap": 1}, {"gap": 3, "layers": 1}])
def test_other_gaps_keep_the_contract(vit, choices):
    check_method(LAST(rank=4, **choices), vit)
