"""The compact side network: how it starts, how h passes stages, and what it computes again for its gradients."""

import math
from collections import Counter

import pytest
import torch
from conftest import tiny_backbone
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

import sidetune
from sidetune.backbones.layout import Layout
from sidetune.methods import DTL
from sidetune.methods.csn import (
    CompactSideNetwork,
    ShareScale,
    convolve,
    convolve_backward,
    fusion_kernel,
    theta,
    written,
)
from sidetune.methods.hidden import Hidden, LowRankMap, form
from sidetune.methods.joins import Convolution
from sidetune.seam.taps import block_input, block_output

aten = torch.ops.aten


class Calls(TorchDispatchMode):
    """Counts operations by name."""

    def __init__(self):
        super().__init__()
        self.counts = Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.counts[func.overloadpacket] += 1
        return func(*args, **(kwargs or {}))


def written_by(model, images):
    """What the first write gives for the features of images, its number and state."""
    side, features = model.suffix.side, model.features(images)
    state = None
    for i in model.suffix.reads_of_prefix:
        state = side.read(i, features[block_input(i)], state)
    return side.write(side.writes[0], features[block_output(side.writes[0])], state), state


@pytest.mark.parametrize(("name", "kernels"), [("dtl", []), ("dtl+", [48 * 9])])
def test_while_codes_stand_for_h_a_write_has_gradients_of_its_own_that_keep_three_tensors(vit, name, kernels):
    model, kept = sidetune.adapt(vit, name, num_classes=3), []
    images = torch.randn(2, 3, 32, 32)
    _, state = written_by(model, images)
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t.numel()) or t, lambda t: t):
        s, c = state.factors()
        joined = len(kept)
        out = model.suffix.side.write(3, torch.randn(2, 17, 48), state)
    assert out.grad_fn.name() == "WrittenBackward"
    assert s.numel() == 2 * 17 * 6 and c.numel() == 48 * 6, "two numbers of each of three reads"
    assert sorted(kept[joined:]) == sorted([s.numel(), c.numel(), *kernels])


def test_the_gradient_of_what_is_written_runs_no_convolution_forward():
    """A network without class token, so that theta runs on patches alone: once, and once more for g's kernel."""
    model = sidetune.adapt(tiny_backbone("gap"), "dtl+", num_classes=3)
    out, _ = written_by(model, torch.randn(2, 3, 32, 32))
    with Calls() as calls:
        out.sum().backward()
    assert calls.counts[aten.convolution_backward] == calls.counts[aten.silu_backward] == calls.counts[aten.silu] == 1
    assert calls.counts[aten.convolution] == 0


def test_a_wide_h_is_kept_and_what_is_made_of_it_is_made_again(vit):
    """24 numbers a code, so that three reads take more than 48: h is held, and theta runs again for the gradient."""
    model = sidetune.adapt(vit, DTL(rank=24, fusion="depthwise"), num_classes=3)
    out, state = written_by(model, torch.randn(2, 3, 32, 32))
    assert state.h is not None and state.h.shape == (2, 17, 48)
    with Calls() as calls:
        out.sum().backward()
    assert calls.counts[aten.silu] == calls.counts[aten.silu_backward] == 1


def test_without_gradients_nothing_is_kept_and_the_same_is_written(vit):
    model = sidetune.adapt(vit, "dtl+", num_classes=3)
    features = model.features(torch.randn(2, 3, 32, 32))
    with torch.no_grad():
        plain = model(features)
    assert plain.grad_fn is None and torch.equal(plain, model(features).detach())


def test_scales_start_at_one_and_shifts_at_zero():
    scale, h = ShareScale(5), torch.randn(2, 3, 5)
    assert torch.equal(scale(h), h)
    with torch.no_grad():
        scale.gamma.copy_(torch.arange(5.0)), scale.beta.fill_(7)
    assert torch.allclose(scale(h), h * torch.arange(5.0) + 7)
    assert scale(h.bfloat16()).dtype == torch.bfloat16


def test_kernels_start_as_pytorchs_convolutions_do_and_an_average_is_no_parameter_to_train():
    torch.manual_seed(0)
    for kind, shape, fan_in in (("depthwise", (400, 1, 3, 3), 9), ("full", (24, 24, 3, 3), 24 * 9)):
        kernel = fusion_kernel(shape[0], kind, 3)
        assert kernel.shape == shape and kernel.requires_grad
        bound = 1 / math.sqrt(fan_in)
        assert 0.98 * bound < kernel.abs().max().item() <= bound and abs(kernel.mean().item()) < 0.1 * bound
    average = fusion_kernel(6, "average", 4)
    assert average.shape == (6, 1, 4, 4) and not average.requires_grad and torch.equal(average, average * 0 + 1 / 16)


def test_low_rank_maps_start_at_zero_behind_a_uniform_projection():
    torch.manual_seed(0)
    w = LowRankMap(400, 3)
    assert w.a.shape == (3, 400) and w.c.shape == (400, 3) and not w.c.any()
    assert 0.98 / 20 < w.a.abs().max().item() <= 1 / 20, "kaiming-uniform, a = sqrt(5): 1 / sqrt(d)"


def test_theta_is_swish_by_its_formula():
    h = torch.linspace(-3, 3, 25, dtype=torch.float64)
    for beta in (1.0, 100.0, 0.3):
        assert torch.allclose(theta(h, beta), h / (1 + torch.exp(-beta * h)))
    assert theta(h, None) is h


@pytest.mark.parametrize(("size", "low", "high"), [(1, 0, 0), (2, 0, 1), (3, 1, 1), (4, 1, 2), (5, 2, 2), (6, 2, 3)])
def test_kernels_of_any_size_leave_the_size_and_even_ones_look_further_behind(size, low, high):
    torch.manual_seed(0)
    maps = torch.randn(2, 4, 5, 6, dtype=torch.float64, requires_grad=True)
    kernel = torch.randn(4, 2, size, size, dtype=torch.float64, requires_grad=True)
    expected = F.conv2d(F.pad(maps, (low, high, low, high)), kernel, groups=2)
    found = convolve(maps, kernel)
    assert found.shape == maps.shape and torch.allclose(found, expected)
    grad = torch.randn_like(found)
    for own, plain in zip(
        convolve_backward(grad, maps, kernel, True), torch.autograd.grad(expected, (maps, kernel), grad), strict=True
    ):
        assert torch.allclose(own, plain)
    assert convolve_backward(grad, maps, kernel, False)[1] is None


def staged(joins, w_prime=False):
    """A side network over three stages of one block: 4, 6 and 8 wide on maps of 4 x 4, 2 x 2 and 1 x 1."""
    torch.manual_seed(0)
    widths = {1: 4, 2: 6, 3: 8}
    made = {
        stage: Convolution(widths[stage - 1], widths[stage], (4 >> stage - 1, 4 >> stage - 1), 2, 2) for stage in joins
    }
    side = CompactSideNetwork(
        w={i: LowRankMap(width, 1) for i, width in widths.items()}, g={}, g_of={i: f"block{i}" for i in widths},
        writes=(1, 2, 3), stages={1: 1, 2: 2, 3: 3}, beta=3.0, layout=Layout(), joins=made,
        w_prime={f"block{i}": LowRankMap(width, 1) for i, width in widths.items()} if w_prime else None,
    )  # fmt: skip
    with torch.no_grad():
        for p in side.parameters():
            p.normal_()
    return side.double()


INPUTS = {1: (2, 4, 4, 4), 2: (2, 2, 2, 6), 3: (2, 1, 1, 8)}


def test_h_starts_anew_in_a_stage_that_is_not_joined():
    side = staged(joins=())
    first = side.read(1, torch.randn(*INPUTS[1], dtype=torch.float64), None)
    assert first.stage == 1 and form(first).shape == INPUTS[1]
    x = torch.randn(*INPUTS[2], dtype=torch.float64)
    second = side.read(2, x, first)
    assert second.stage == 2
    assert torch.allclose(form(second), x @ side.w["2"].a.T @ side.w["2"].c.T), "nothing of the stage before"
    assert side.at(1, first) is first
    assert side.at(3, first) == Hidden(3), "two stages on, nothing joins them"


def test_h_goes_through_every_join_on_the_way():
    side = staged(joins=(2, 3))
    x = torch.randn(*INPUTS[1], dtype=torch.float64)
    state = side.read(1, x, None)
    h = (x @ side.w["1"].a.T @ side.w["1"].c.T).movedim(-1, 1)
    for stage in (2, 3):
        h = F.conv2d(h, side.joins[str(stage)].weight, stride=2, groups=2)
    third = side.at(3, state)
    assert third.stage == 3 and torch.allclose(form(third).movedim(-1, 1), h)


def test_what_is_joined_to_one_stage_alone_stops_there():
    side = staged(joins=(2,))
    state = side.read(1, torch.randn(*INPUTS[1], dtype=torch.float64), None)
    assert side.at(2, state).codes and side.at(3, state) == Hidden(3)


@pytest.mark.parametrize("block", [2, 3])
def test_a_block_that_is_written_in_a_later_stage_than_it_was_read_gets_h_by_the_joins(block):
    side = staged(joins=(2, 3), w_prime=True)
    x = torch.randn(*INPUTS[1], dtype=torch.float64)
    z = torch.randn(*INPUTS[block], dtype=torch.float64)
    h = (x @ side.w["1"].a.T @ side.w["1"].c.T).movedim(-1, 1)
    for stage in range(2, block + 1):
        h = F.conv2d(h, side.joins[str(stage)].weight, stride=2, groups=2)
    h, w = h.movedim(1, -1), side.w_prime[f"block{block}"]
    expected = z + h * torch.sigmoid(3 * h) @ w.a.T @ w.c.T + h
    assert torch.allclose(side.write(block, z, side.read(1, x, None)), expected)


def test_bf16_features_meet_trained_parts_in_full_precision(vit):
    """Kernels, scales and columns take the type of what they meet, in the saving path and in the other."""
    for choices in ({"fusion": "depthwise"}, {"fusion": "depthwise", "rank": 24}):
        side = sidetune.adapt(vit, DTL(**choices), num_classes=3).suffix.side
        state = None
        with torch.autocast("cpu", torch.bfloat16):
            for i in (1, 2, 3):
                state = side.read(i, torch.randn(2, 17, 48, dtype=torch.bfloat16), state)
            out = side.write(3, torch.randn(2, 17, 48, dtype=torch.bfloat16), state)
        assert out.dtype == torch.bfloat16 and out.isfinite().all()


@pytest.mark.parametrize("kernel", [None, 3])
def test_what_is_written_stands_beside_z(vit, kernel):
    """z + g(theta(s c)), written down with its tokens; class tokens skip g."""
    z, s, c = torch.randn(2, 17, 48), torch.randn(2, 17, 3), torch.randn(48, 3)
    k = None if kernel is None else torch.randn(48, 1, 3, 3)
    h = s @ c.T
    h = h * torch.sigmoid(100 * h)
    if k is not None:
        maps = h[:, 1:].transpose(1, 2).reshape(2, 48, 4, 4)
        h = torch.cat([h[:, :1], F.conv2d(maps, k, padding=1, groups=48).flatten(2).transpose(1, 2)], dim=1)
    torch.testing.assert_close(written(z, s, c, k, 100.0, vit.layout), z + h, rtol=1e-4, atol=1e-4)
