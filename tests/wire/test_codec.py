"""Features to bytes and back."""

import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidetune.wire.codec import PRECISIONS, decode, decode_batch, encode, num_bytes
from sidetune.wire.compression import compress, decompress
from sidetune.wire.message import WireError

VIT_B = (197, 768)
MIB = 2**20


def features(shape=VIT_B, seed=0):
    """Like a transformer's: a few channels tens of times larger than the rest, means far from 0, a loud first token."""
    rng = np.random.default_rng(seed)
    size = rng.uniform(0.5, 2, shape[-1])
    size[:: shape[-1] // 3] *= 60
    x = (rng.standard_normal(shape) + 3 * rng.standard_normal(shape[-1])) * size
    x.reshape(-1, shape[-1])[0] *= 4
    return x.astype(np.float32)


def lost(x, precision):
    """The share of each channel's variance that coding loses."""
    y = decode(encode(x, precision), x.shape, precision)
    return ((y - x) ** 2).mean(axis=0) / x.var(axis=0)


@pytest.mark.parametrize("shape", [(48,), (1, 48), (5, 48), (5, 7), (3, 5, 48), (2, 3, 5, 9)])
@pytest.mark.parametrize("precision", PRECISIONS)
def test_what_is_encoded_decodes_to_about_the_same(shape, precision):
    x = features(shape)
    data = encode(x, precision)
    assert data.dtype == np.uint8 and data.shape == (num_bytes(shape, precision),)
    y = decode(data.tobytes(), shape, precision)
    assert y.shape == shape and y.dtype == np.float32
    error = np.linalg.norm(y - x) / np.linalg.norm(x)
    lone = len(shape) == 1 or shape[-2] == 1  # a vector has one scale, which its largest channels decide
    assert error <= {"fp32": 0, "fp16": 5e-4, "int8": 0.02 if lone else 0.005, "int4": 0.5 if lone else 0.1}[precision]


def test_no_channel_is_drowned_by_larger_ones():
    assert lost(features(), "int8").max() < 1e-3
    assert np.median(lost(features(), "int4")) < 0.015 and lost(features(), "int4").max() < 0.1


HALF, SMALLEST = 0.5 + 127 * 2**-11 + 2**-9, 2.0**-25
"""Steps that a code may be away from its number: rounding, and what rounding the scale itself moves the last level,
which of a scale next to 0 is half of the smallest number that it can be."""


@given(
    matrix=st.integers(1, 3),
    tokens=st.integers(1, 9),
    channels=st.integers(1, 9),
    size=st.floats(-3, 3),
    seed=st.integers(0, 2**32 - 1),
)
def test_every_number_in_eight_bits_is_within_half_a_step_of_its_token_and_channel(
    matrix, tokens, channels, size, seed
):
    x = (np.random.default_rng(seed).standard_normal((matrix, tokens, channels)) * 10**size).astype(np.float32)
    data = encode(x, "int8")
    y = decode(data, x.shape, "int8")
    rows = data.reshape(matrix, -1)
    scales = rows[:, : len(rows[0]) - tokens * channels].copy().view("<f2").astype(np.float64)
    if tokens > 1:  # means, spreads, steps
        spread, step = scales[:, channels : 2 * channels], scales[:, 2 * channels :]
        mean = scales[:, :channels]
        assert np.allclose(mean, x.mean(axis=1), rtol=2e-3, atol=1e-6 * 10**size + 1e-7)
    else:
        spread, step = np.ones((matrix, channels)), scales
    assert step.shape == (matrix, tokens)
    allowed = (HALF * step[:, :, None] + 127 * SMALLEST) * spread[:, None, :]
    assert (np.abs(y.astype(np.float64) - x) <= allowed + 1e-6 * np.abs(x) + 1e-7).all()


@given(channels=st.integers(1, 40), size=st.floats(-2, 3), seed=st.integers(0, 2**32 - 1))
def test_every_number_of_a_vector_in_four_bits_is_within_half_a_step_or_beyond_the_last_level(channels, size, seed):
    x = (np.random.default_rng(seed).standard_normal(channels) * 10**size).astype(np.float32)
    data = encode(x, "int4")
    step = float(data[:2].view("<f2")[0])
    y = decode(data, x.shape, "int4") / step
    inside = np.abs(x / step) <= 8
    assert (np.abs(y - x / step)[inside] <= 0.5 + 1e-3).all()
    assert np.array_equal(y[~inside], np.sign(x[~inside]) * 7.5)


@given(st.lists(st.floats(-65000, 65000, width=32), min_size=1, max_size=12))
def test_half_precision_is_numpys(numbers):
    x = np.array(numbers, np.float32)
    assert np.array_equal(encode(x, "fp16"), x.astype("<f2").view(np.uint8))
    assert np.array_equal(decode(encode(x, "fp16"), x.shape, "fp16"), x.astype("<f2").astype(np.float32))


def test_four_bits_lose_less_of_what_tokens_share():
    """Features that are the sum of eight outer products and a tenth as much noise: 4 bits round the noise alone."""
    rng = np.random.default_rng(1)
    shared = rng.standard_normal((65, 8)) @ rng.standard_normal((8, 384)) / 8**0.5
    x = (shared + 0.1 * rng.standard_normal((65, 384))).astype(np.float32)
    alone = 0.1 * rng.standard_normal((65, 384)).astype(np.float32)
    assert lost(x, "int4").mean() < 0.1 * lost(alone, "int4").mean()


def test_the_same_features_give_the_same_bytes():
    assert np.array_equal(encode(features(), "int4"), encode(features(), "int4"))


def test_a_vit_b_sum_is_as_small_as_promised():
    x = features()
    assert num_bytes(VIT_B, "int8") == 197 * 768 + 2 * (197 + 2 * 768) <= 0.15 * MIB
    assert num_bytes(VIT_B, "int4") == 197 * 384 + 16 * (99 + 384) + 2 * (197 + 2 * 768 + 16)
    assert len(compress(encode(x, "int4").data)) <= 0.08 * MIB


def test_the_bytes_are_those_of_the_drawing_in_the_docs():
    """Means, channel scales, token scales, then codes by token; two 4-bit codes a byte, the earlier one low."""
    half = np.array([10, 20, 30, 1, 2, 4, 0.5, 2], "<f2").view(np.uint8)
    eight = np.concatenate([half, np.array([-127, 0, 1, 2, 3, 127], np.int8).view(np.uint8)])
    expected = np.array([10, 20, 30]) + np.array([1, 2, 4]) * np.array([[0.5], [2]]) * [[-127, 0, 1], [2, 3, 127]]
    assert np.array_equal(decode(eight, (2, 3), "int8"), expected)
    four = np.concatenate([half, np.array([0xF0, 0x07, 0x98, 0x01], np.uint8)])
    codes = np.array([[0, 15, 7], [8, 9, 1]]) - 7.5
    expected = np.array([10, 20, 30]) + np.array([1, 2, 4]) * np.array([[0.5], [2]]) * codes
    assert np.array_equal(decode(four, (2, 3), "int4"), expected)
    rng = np.random.default_rng(0)
    scales, codes = rng.uniform(0.5, 2, 5 + 5 + 6 + 1).astype("<f2"), rng.integers(0, 256, 3 + 3 + 6 * 3, np.uint8)
    m, a, s, p = np.split(scales.astype(np.float64), [5, 10, 16])
    u, v, q = (
        np.stack([rows % 16, rows // 16], axis=2).reshape(len(rows), -1) - 7.5
        for rows in (codes[:3].reshape(1, 3), codes[3:6].reshape(1, 3), codes[6:].reshape(6, 3))
    )
    expected = m + a * (s[:, None] * q[:, :5] + p * u.T * v[:, :5])
    data = np.concatenate([scales.view(np.uint8), codes])
    assert np.allclose(decode(data, (6, 5), "int4"), expected, rtol=1e-5)
    vector = np.concatenate([np.array([0.5], "<f2").view(np.uint8), np.array([0x21, 0x03], np.uint8)])
    assert np.array_equal(decode(vector, (3,), "int4"), 0.5 * (np.array([1, 2, 3]) - 7.5))


@pytest.mark.parametrize("precision", PRECISIONS)
def test_a_batch_decodes_as_its_images_do_into_memory_that_is_given(precision):
    images = [features((5, 8), seed) for seed in range(3)]
    data = np.stack([encode(x, precision) for x in images])
    out = np.full((3, 5, 8), np.nan, np.float32)
    assert decode_batch(data, (5, 8), precision, out) is out
    assert np.array_equal(out, [decode(d, (5, 8), precision) for d in data])


@pytest.mark.parametrize("precision", ["int8", "int4"])
def test_constant_tokens_channels_and_images_are_kept(precision):
    flat = features((6, 8))
    flat[2], flat[:, 3] = 5, -2
    for x in (np.zeros((6, 8), np.float32), np.full((6, 8), 7, np.float32), flat):
        y = decode(encode(x, precision), x.shape, precision)
        assert np.isfinite(y).all() and np.allclose(y[:, 3], x[:, 3], atol=0.01)
    assert not decode(encode(np.zeros(8, np.float32), precision), (8,), precision).any() or precision == "int4"


@pytest.mark.parametrize("precision", ["fp16", "int8", "int4"])
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 1e38])
def test_numbers_that_cannot_be_held_are_refused(precision, bad):
    x = features((5, 8))
    x[3, 4] = bad
    with pytest.raises(ValueError, match="not finite, or too large"):
        encode(x, precision)


def test_what_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="unknown precision 'int3'; did you mean int.*Known: fp32, fp16, int8, int4"):
        num_bytes((5, 8), "int3")
    with pytest.raises(ValueError, match="are 43 bytes an image, got an array of shape \\(1, 35\\)"):
        decode(bytes(35), (5, 4), "int4")
    for out in (np.empty(5), np.empty(4, np.float32), np.empty(10, np.float32)[::2]):
        with pytest.raises(ValueError, match=r"out must be float32, contiguous and of shape \(1, 5\), got float"):
            decode(bytes(20), (5,), "fp32", out)
    for data in (np.zeros(20, np.uint8), np.zeros((1, 20, 1), np.uint8), np.zeros((2, 19), np.uint8)):
        with pytest.raises(
            ValueError, match=f"are 20 bytes an image, got an array of shape {re.escape(str(data.shape))}"
        ):
            decode_batch(data, (5,), "fp32")
    with pytest.raises(ValueError, match="shape"):
        num_bytes((), "fp32")


def test_zstd_unpacks_to_exactly_the_size_that_was_expected():
    data = encode(features((5, 8)), "int4").tobytes()
    packed = compress(data)
    assert decompress(packed, len(data)) == data
    with pytest.raises(WireError, match=f"expected a zstd frame of {len(data) - 1} bytes, got one of {len(data)}"):
        decompress(packed, len(data) - 1)
    for damaged in (packed[:-3], b"not zstd", b""):
        with pytest.raises(WireError, match="zstd"):
            decompress(damaged, len(data))
