"""Features <-> bytes, in 32, 16, 8 or 4 bits a number.

A matrix of T tokens and C channels becomes, in 8 and 4 bits,

    x[t, c] = m[c] + a[c] s[t] q[t, c]        q = -127..127 in 8 bits, q = code - 7.5 with code = 0..15 in 4

with a scale s for every token, and a mean m and scale a for every channel: in pretrained transformers a few channels
are tens of times larger than the rest, and would take all levels of a scale that a whole token shared. A single
vector (T = 1) has s alone. `docs/wire.md` draws the bytes.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sidetune.errors import unknown

Array = NDArray[np.float32]
Bytes = NDArray[np.uint8]

PRECISIONS = ("fp32", "fp16", "int8", "int4")
FLOATS: dict[str, np.dtype[Any]] = {"fp32": np.dtype("<f4"), "fp16": np.dtype("<f2")}
SCALE: np.dtype[Any] = np.dtype("<f2")
TINY = np.float32(1e-5)
"""Below this share of the whole matrix's size a token or channel counts as constant."""
STEP = np.float32(0.3352)
"""Of a normal distribution's deviation: the step of 16 even levels that errs least (Max 1960, table 2)."""
ROUNDS = 2
"""How often the step of 4-bit codes is fitted to the codes it gave."""
LOW_HIGH = np.stack([np.arange(256) % 16 - 7.5, np.arange(256) // 16 - 7.5], axis=1).astype(np.float32)
"""By byte: the two numbers that it holds, the earlier channel in the low half."""


def matrices(shape: tuple[int, ...]) -> tuple[int, int, int]:
    """What one image's features of this shape are: so many matrices of so many tokens and channels."""
    if not shape or min(shape) < 1:
        raise ValueError(f"features have a shape (channels,), (tokens, channels) or longer, got {shape}")
    return math.prod(shape[:-2]), shape[-2] if len(shape) > 1 else 1, shape[-1]


def row_bytes(channels: int, precision: str) -> int:
    """Bytes of a token's codes."""
    return channels if precision == "int8" else (channels + 1) // 2


def num_scales(tokens: int, channels: int) -> int:
    return tokens if tokens == 1 else 2 * channels + tokens


def num_bytes(shape: tuple[int, ...], precision: str) -> int:
    """Bytes of one image's features of this shape (no batch axis), before any compression."""
    check(precision)
    count, tokens, channels = matrices(shape)
    if precision in FLOATS:
        return count * tokens * channels * FLOATS[precision].itemsize
    return count * (num_scales(tokens, channels) * SCALE.itemsize + tokens * row_bytes(channels, precision))


def check(precision: str) -> None:
    if precision not in PRECISIONS:
        raise unknown("precision", precision, PRECISIONS)


def encode(features: Array, precision: str) -> Bytes:
    """One image's features (channels), (tokens, channels) or (matrix, tokens, channels) -> its bytes.

    Raises ValueError for numbers that are not finite or, below fp32, too large for the scales (65,504).
    """
    shape = features.shape
    data = np.empty(num_bytes(shape, precision), np.uint8)
    count, tokens, channels = matrices(shape)
    if precision in FLOATS:
        data.view(FLOATS[precision])[:] = finite(features.ravel(), FLOATS[precision])
        return data
    for x, part in zip(features.reshape(count, tokens, channels), data.reshape(count, -1), strict=True):
        quantise(np.ascontiguousarray(x, np.float32), part, precision)
    return data


def decode(data: bytes | memoryview | Bytes, shape: tuple[int, ...], precision: str, out: Array | None = None) -> Array:
    """What `encode` took apart, into `out` where that is given (float32, contiguous, of this shape)."""
    row = np.frombuffer(data, np.uint8)[None]
    return decode_batch(row, shape, precision, None if out is None else out[None])[0]


def decode_batch(data: Bytes, shape: tuple[int, ...], precision: str, out: Array | None = None) -> Array:
    """Images' bytes (batch, bytes) -> float32 (batch, *shape); needs no more memory than `out`."""
    if data.ndim != 2 or data.shape[1] != num_bytes(shape, precision):
        raise ValueError(
            f"features of shape {shape} in {precision} are {num_bytes(shape, precision)} bytes an image, "
            f"got an array of shape {data.shape}"
        )
    if out is None:
        out = np.empty((len(data), *shape), np.float32)
    if out.shape != (len(data), *shape) or out.dtype != np.float32 or not out.flags.c_contiguous:
        raise ValueError(
            f"out must be float32, contiguous and of shape {(len(data), *shape)}, got {out.dtype} {out.shape}"
        )
    count, tokens, channels = matrices(shape)
    for image, row in zip(out.reshape(len(data), count, tokens, channels), data, strict=True):
        row = np.ascontiguousarray(row)
        if precision in FLOATS:
            image.reshape(-1)[:] = row.view(FLOATS[precision])
            continue
        for x, part in zip(image, row.reshape(count, -1), strict=True):
            restore(part, x, precision)
    return out


def split(part: Bytes, tokens: int, channels: int, precision: str) -> tuple[Bytes, Bytes]:
    """A matrix's bytes -> those of its scales, and its codes (tokens, bytes of a row)."""
    border = num_scales(tokens, channels) * SCALE.itemsize
    return part[:border], part[border:].reshape(tokens, row_bytes(channels, precision))


def quantise(x: Array, part: Bytes, precision: str) -> None:
    """Write a matrix (tokens, channels) to its bytes."""
    tokens, channels = x.shape
    scales, codes = split(part, tokens, channels, precision)
    written = scales.view(SCALE)
    if tokens > 1:
        mean = written[:channels] = finite(x.mean(axis=0), SCALE)
        x = x - mean.astype(np.float32)
        spread = written[channels : 2 * channels] = finite(channel_scale(x), SCALE)
        x /= spread.astype(np.float32)
    if precision == "int8":
        step = written[-tokens:] = finite(np.abs(x).max(axis=1) / np.float32(127), SCALE)
        q = x * inverse(step.astype(np.float32))[:, None]
        codes.view(np.int8)[:] = np.clip(np.rint(q, out=q), -127, 127, out=q)
        return
    step = written[-tokens:] = finite(fitted_step(x), SCALE)
    nibbles = np.zeros((tokens, 2 * codes.shape[1]), np.uint8)
    nibbles[:, :channels] = levels(x, step.astype(np.float32)) + np.float32(7.5)
    np.bitwise_or(nibbles[:, 0::2], nibbles[:, 1::2] << 4, out=codes)


def restore(part: Bytes, x: Array, precision: str) -> None:
    """Read a matrix's bytes into x (tokens, channels)."""
    tokens, channels = x.shape
    scales, codes = split(part, tokens, channels, precision)
    read = scales.view(SCALE).astype(np.float32)
    if precision == "int8":
        x[:] = codes.view(np.int8)
    elif channels % 2 == 0:  # "clip" because "raise" would go through a buffer; no byte is out of range
        np.take(LOW_HIGH, codes, axis=0, out=x.reshape(tokens, -1, 2), mode="clip")
    else:
        x[:] = LOW_HIGH[codes].reshape(tokens, -1)[:, :channels]
    if tokens > 1:
        x *= read[channels : 2 * channels]
    x *= read[-tokens:, None]
    if tokens > 1:
        x += read[:channels]


def channel_scale(x: Array) -> Array:
    """By channel, around 1: how much larger it is than others, every token counting the same."""
    by_token = rms(x, axis=1)
    return rms(x * inverse(by_token)[:, None], axis=0) if by_token.any() else np.ones(x.shape[1], np.float32)


def fitted_step(x: Array) -> Array:
    """By token: the distance of levels at which 16 of them err little; what lies beyond the last is clipped."""
    step = STEP * rms(x, axis=1)
    for _ in range(ROUNDS):
        q = levels(x, step)
        step = np.einsum("tc,tc->t", x, q) / np.einsum("tc,tc->t", q, q)
    return step


def levels(x: Array, step: Array) -> Array:
    """The nearest of -7.5, -6.5 ... 7.5 steps."""
    q = x * inverse(step)[:, None]
    np.floor(q, out=q)
    return np.clip(np.add(q, np.float32(0.5), out=q), -7.5, 7.5, out=q)


def rms(x: Array, axis: int) -> Array:
    """Root of the mean square, with what is next to nothing put to where it can be divided by."""
    square = np.einsum("tc,tc->t" if axis else "tc,tc->c", x, x) / np.float32(x.shape[axis])
    size: Array = np.sqrt(square)
    return np.maximum(size, TINY * size.max()) if size.any() else size


def inverse(x: Array) -> Array:
    """1 / x, and 0 for 0."""
    return np.divide(np.float32(1), x, out=np.zeros_like(x), where=x != 0)


def finite(x: Array, dtype: np.dtype[Any]) -> NDArray[Any]:
    """In this type; raises ValueError if it cannot hold them."""
    with np.errstate(over="ignore", under="ignore"):
        cast = x.astype(dtype)
    if not np.isfinite(cast).all():
        raise ValueError(f"features hold numbers that are not finite, or too large for {dtype.name}; ask for fp32")
    return cast
