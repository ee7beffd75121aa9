"""The edge network in NumPy: the logits and gradients that PyTorch's has."""

import numpy as np
import pytest
import torch
from conftest import tiny_backbone
from torch.nn import functional as F

import sidetune
from sidetune.contract import disturb
from sidetune.edge.gradient import Gradient, cross_entropy
from sidetune.edge.network import Workspace, forward, products
from sidetune.edge.parameters import Parameters, Shape, start
from sidetune.errors import DataError
from sidetune.seam.features import Features
from sidetune.seam.taps import sum_of_taps


def pair(**choices):
    """A MIST model on a tiny ViT, moved off its start, and the same parameters on the device."""
    model = sidetune.adapt(tiny_backbone("vit"), "mist", num_classes=5, **choices)
    for _ in range(4):
        disturb(model)
    method = model.method
    p = Parameters(Shape(width=48, num_classes=5, rank=method.rank, layers=method.layers))
    p.load({name: t.numpy() for name, t in model.trained().items()})
    pool = np.zeros(17, np.float32)
    pool[0 if method.pool == "token" else slice(1, None)] = 1 if method.pool == "token" else 1 / 16
    return model, p, pool


def features(images=6, scale=3.0, mean=0.5):
    rng = np.random.default_rng(0)
    x = mean + scale * rng.standard_normal((images, 17, 48)) * rng.uniform(0.2, 3, (images, 17, 1))
    return x.astype(np.float32)


def gradient(p, pool, x, labels, pieces):
    m, total, loss = products(p), Gradient(p), 0.0
    work = Workspace(len(x), 17, p, training=True)
    for part in np.array_split(np.arange(len(x)), pieces):
        logits, kept = forward(x[part], p, m, pool, work)
        piece_loss, dlogits = cross_entropy(logits, labels[part], len(x))
        loss += piece_loss
        total.add(x[part], kept, dlogits, p, m, pool, work)
    return total.joined(p, m, Parameters(p.shape)), loss / len(x)


CHOICES = [
    {"rank": 8, "layers": 3},
    {"rank": 8, "layers": 2, "pool": "token"},
    {"layers": 0},
    {"rank": 48, "layers": 1},
]


@pytest.mark.parametrize("choices", CHOICES)
def test_logits_are_those_of_pytorch(choices):
    model, p, pool = pair(**choices)
    x = features()
    found, _ = forward(x, p, products(p), pool, Workspace(6, 17, p, training=False))
    with torch.no_grad():
        expected = model(Features({sum_of_taps(4): torch.from_numpy(5 * x)})).numpy()
    assert np.abs(found - expected).max() < 1e-4 * max(1, np.abs(expected).max())


@pytest.mark.parametrize("pieces, scale", [(1, 3.0), (3, 3.0), (1, 1e-3)])  # the last: next to nothing for a norm
@pytest.mark.parametrize("choices", CHOICES)
def test_gradients_are_those_of_autograd_in_double_precision(choices, pieces, scale):
    model, p, pool = pair(**choices)
    x, labels = features(scale=scale, mean=scale / 6), np.array([0, 1, 2, 3, 4, 0])
    found, loss = gradient(p, pool, x, labels, pieces)
    model = model.double().train()
    taps = 5 if model.method.layers else 1  # without layers the model takes the sum as it is, which a norm forgives
    given = Features({sum_of_taps(4): taps * torch.from_numpy(x).double()})
    expected_loss = F.cross_entropy(model.head(model.suffix(given)), torch.from_numpy(labels))
    expected_loss.backward()
    assert loss == pytest.approx(expected_loss.item(), rel=1e-5)
    expected = {name: t.grad.numpy() for name, t in model.named_parameters() if t.requires_grad}
    assert set(expected) == set(found.tensors)
    for name, g in expected.items():
        assert np.linalg.norm(found[name] - g) < 1e-5 * np.linalg.norm(g), name


def test_what_several_threads_add_up_is_one_gradient():
    model, p, pool = pair(rank=8, layers=2)
    x, labels = features(), np.array([0, 1, 2, 3, 4, 0])
    m, sums = products(p), [Gradient(p) for _ in range(2)]
    for part, own in ((slice(0, 2), sums[0]), (slice(2, 6), sums[1])):
        work = Workspace(6, 17, p, training=True)
        logits, kept = forward(x[part], p, m, pool, work)
        own.add(x[part], kept, cross_entropy(logits, labels[part], 6)[1], p, m, pool, work)
    sums[0].take(sums[1])
    found, expected = sums[0].joined(p, m, Parameters(p.shape)), gradient(p, pool, x, labels, 1)[0]
    np.testing.assert_allclose(found.flat, expected.flat, rtol=1e-4, atol=1e-5)
    sums[0].clear()
    assert not any(own.any() for own in sums[0].sums)


def test_a_step_of_any_size_uses_the_same_memory_and_leaves_the_features_alone():
    _, p, pool = pair(rank=8)
    x = features()
    before = x.copy()
    gradient(p, pool, x, np.zeros(6, int), 2)
    assert np.array_equal(x, before)


def test_vit_b_has_the_papers_number_of_parameters():
    shape = Shape(width=768, num_classes=10)
    assert shape.num_parameters - 10 * 769 == 399_360


def test_the_start_is_a_linear_probe_and_is_the_same_for_a_seed():
    shape = Shape(width=48, num_classes=5, rank=8)
    p = start(shape, 3)
    assert np.array_equal(p.flat, start(shape, 3).flat) and not np.array_equal(p.flat, start(shape, 4).flat)
    assert all(not t.any() for name, t in p.tensors.items() if name.endswith("out.weight"))
    assert all((t == 1).all() for name, t in p.tensors.items() if name.endswith("norm.weight"))


def test_tensors_of_another_network_are_refused():
    with pytest.raises(DataError, match="another network"):
        Parameters(Shape(width=48, num_classes=5, rank=8)).load({"head.weight": np.zeros((5, 48), np.float32)})


@pytest.mark.parametrize("choices", [{"rank": 49}, {"rank": 0}, {"layers": -1}, {"num_classes": 1}])
def test_shapes_that_make_no_sense_are_refused(choices):
    with pytest.raises(ValueError, match=next(iter(choices))):
        Shape(**{"width": 48, "num_classes": 5, **choices})


def test_large_logits_have_a_loss_and_a_gradient():
    logits = np.array([[5000.0, 4999.0, -5000.0], [4000.0, 4000.0, 4000.0]], np.float32)
    labels = np.array([0, 2])
    loss, gradient = cross_entropy(logits, labels, 2)
    t = torch.tensor(logits, requires_grad=True)
    expected = F.cross_entropy(t, torch.tensor(labels))
    expected.backward()
    assert loss / 2 == pytest.approx(expected.item(), rel=1e-5)
    np.testing.assert_allclose(gradient, t.grad.numpy(), atol=1e-6)
