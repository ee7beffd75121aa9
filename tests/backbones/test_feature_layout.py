"""Layouts against NumPy, for tokens and maps of any size: side form, prefix tokens, grids and means."""

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from sidetune.backbones.layout import Layout

SIDES = st.integers(1, 5)


def numbers(*shape):
    return torch.arange(float(np.prod(shape)), dtype=torch.float64).reshape(shape)


@given(batch=SIDES, prefix=st.integers(0, 3), rows=SIDES, columns=SIDES, width=SIDES)
def test_tokens_are_prefix_tokens_and_rows_of_patches(batch, prefix, rows, columns, width):
    layout = Layout(num_prefix_tokens=prefix, grid=(rows, columns))
    z = numbers(batch, prefix + rows * columns, width)
    assert layout.to_side(z) is z and layout.from_side(z) is z
    first, patches = layout.split(z)
    assert (first is None) == (prefix == 0) and (first is None or torch.equal(first, z[:, :prefix]))
    assert torch.equal(patches, z[:, prefix:])
    maps = layout.to_maps(patches)
    expected = z.numpy()[:, prefix:].reshape(batch, rows, columns, width).transpose(0, 3, 1, 2)
    assert np.array_equal(maps.numpy(), expected)
    assert torch.equal(layout.from_maps(maps), patches)
    assert np.allclose(layout.mean(z).numpy(), expected.mean(axis=(2, 3)))


@given(batch=SIDES, rows=SIDES, columns=SIDES, width=SIDES)
def test_maps_have_their_channels_last_or_first(batch, rows, columns, width):
    last, first = Layout(), Layout(channels_first=True)
    side = numbers(batch, rows, columns, width)
    maps = np.ascontiguousarray(side.numpy().transpose(0, 3, 1, 2))
    assert last.to_side(side) is side and last.from_side(side) is side
    assert torch.equal(first.to_side(torch.from_numpy(maps)), side)
    assert np.array_equal(first.from_side(side).numpy(), maps)
    for layout, z in ((last, side), (first, torch.from_numpy(maps))):
        assert layout.split(side) == (None, side)
        assert np.array_equal(layout.to_maps(side).numpy(), maps)
        assert torch.equal(layout.from_maps(torch.from_numpy(maps)), side)
        assert np.allclose(layout.mean(z).numpy(), maps.mean(axis=(2, 3)))
