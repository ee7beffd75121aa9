"""Features <-> bytes, in 32, 16, 8 or 4 bits a number.

A matrix of T tokens and C channels becomes, in 8 and 4 bits,

    x[t, c] = m[c] + a[c] (s[t] q[t, c] + sum over j of p[j] u[j, t] v[j, c])

    q = -127..127 and no u, v in 8 bits;    q, u, v = code - 7.5 with code = 0..15 in 4

with a scale s for every token, and a mean m and scale a for every channel: in pretrained transformers a few channels
are tens of times larger than the rest, and would take all levels of a scale that a whole token shared. Taps are close
to matrices of low rank, so that a few outer products u v leave little for q to carry; their own rounding is part of
what q rounds. A single vector (T = 1) has s alone. `docs/wire.md` draws the bytes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache
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
PRODUCTS, SHARE = 16, 4
"""The most outer products of a matrix in 4 bits, and how many tokens and channels it has for each of them."""
AT_ONCE = 2
"""So many are found together; the next ones see what rounding these has left."""
ITERATIONS = 2
"""Of the power method that finds them."""
LOW_HIGH = np.stack([np.arange(256) % 16 - 7.5, np.arange(256) // 16 - 7.5], axis=1).astype(np.float32)
"""By byte: the two numbers that it holds, the earlier channel in the low half."""


def matrices(shape: tuple[int, ...]) -> tuple[int, int, int]:
    """What one image's features of this shape are: so many matrices of so many tokens and channels."""
    if not shape or min(shape) < 1:
        raise ValueError(f"features have a shape (channels,), (tokens, channels) or longer, got {shape}")
    return math.prod(shape[:-2]), shape[-2] if len(shape) > 1 else 1, shape[-1]


def row_bytes(numbers: int, precision: str) -> int:
    """Bytes of so many codes in a row."""
    return numbers if precision == "int8" else (numbers + 1) // 2


def num_products(tokens: int, channels: int, precision: str) -> int:
    return min(PRODUCTS, tokens // SHARE, channels // SHARE) if precision == "int4" else 0


def num_scales(tokens: int, channels: int, precision: str) -> int:
    return tokens if tokens == 1 else 2 * channels + tokens + num_products(tokens, channels, precision)


def num_bytes(shape: tuple[int, ...], precision: str) -> int:
    """Bytes of one image's features of this shape (no batch axis), before any compression."""
    check(precision)
    count, tokens, channels = matrices(shape)
    if precision in FLOATS:
        return count * tokens * channels * FLOATS[precision].itemsize
    factors = num_products(tokens, channels, precision) * (
        row_bytes(tokens, precision) + row_bytes(channels, precision)
    )
    scales = num_scales(tokens, channels, precision) * SCALE.itemsize
    return count * (scales + factors + tokens * row_bytes(channels, precision))


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
    """Images' bytes (batch, bytes) -> float32 (batch, *shape); needs `out` and, in 4 bits, one matrix more."""
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


@dataclass(frozen=True)
class Parts:
    """A matrix's bytes to read or write: m (C), a (C), s (T), p (P), then rows of codes of u (P), v (P) and q (T)."""

    mean: NDArray[Any]
    spread: NDArray[Any]
    step: NDArray[Any]
    size: NDArray[Any]
    u: Bytes
    v: Bytes
    codes: Bytes

    @classmethod
    def of(cls, part: Bytes, tokens: int, channels: int, precision: str) -> Parts:
        products = num_products(tokens, channels, precision)
        of_channels = channels if tokens > 1 else 0
        lengths = [of_channels, of_channels, tokens, products]
        border = sum(lengths) * SCALE.itemsize
        scales = np.split(part[:border].view(SCALE), np.cumsum(lengths)[:-1])
        rows = [(products, tokens), (products, channels), (tokens, channels)]
        shapes = [(count, row_bytes(numbers, precision)) for count, numbers in rows]
        codes = np.split(part[border:], np.cumsum([math.prod(shape) for shape in shapes])[:-1])
        return cls(*scales, *(c.reshape(shape) for c, shape in zip(codes, shapes, strict=True)))


def quantise(x: Array, part: Bytes, precision: str) -> None:
    """Write a matrix (tokens, channels) to its bytes."""
    tokens, channels = x.shape
    to = Parts.of(part, tokens, channels, precision)
    if tokens > 1:
        to.mean[:] = finite(x.mean(axis=0), SCALE)
        x = x - to.mean.astype(np.float32)
        to.spread[:] = finite(channel_scale(x), SCALE)
        x /= to.spread.astype(np.float32)
    if precision == "int8":
        to.step[:] = finite(np.abs(x).max(axis=1) / np.float32(127), SCALE)
        q = x * inverse(to.step.astype(np.float32))[:, None]
        to.codes.view(np.int8)[:] = np.clip(np.rint(q, out=q), -127, 127, out=q)
        return
    for first in range(0, len(to.size), AT_ONCE):
        some = slice(first, first + AT_ONCE)
        u = leading(x, len(to.size[some]))
        u = levels(u, fitted_step(u))
        fitted = np.asarray(np.linalg.pinv(u @ u.T, hermitian=True) @ (u @ x), np.float32)
        to.size[some] = finite(fitted_step(fitted), SCALE)
        size = to.size[some].astype(np.float32)
        v = levels(fitted, size)
        pack(u, to.u[some])
        pack(v, to.v[some])
        x -= (u.T * size) @ v
    to.step[:] = finite(fitted_step(x), SCALE)
    pack(levels(x, to.step.astype(np.float32)), to.codes)


def restore(part: Bytes, x: Array, precision: str) -> None:
    """Read a matrix's bytes into x (tokens, channels)."""
    tokens, channels = x.shape
    given = Parts.of(part, tokens, channels, precision)
    if precision == "int8":
        x[:] = given.codes.view(np.int8)
    else:
        unpack(given.codes, x)
    x *= given.step.astype(np.float32)[:, None]
    if products := len(given.size):
        u, v = np.empty((products, tokens), np.float32), np.empty((products, channels), np.float32)
        unpack(given.u, u)
        unpack(given.v, v)
        x += (u.T * given.size.astype(np.float32)) @ v
    if tokens > 1:
        x *= given.spread.astype(np.float32)
        x += given.mean.astype(np.float32)


def pack(q: Array, codes: Bytes) -> None:
    """Rows of levels to bytes of two codes."""
    nibbles = np.zeros((len(q), 2 * codes.shape[1]), np.uint8)
    nibbles[:, : q.shape[1]] = q + np.float32(7.5)
    np.bitwise_or(nibbles[:, 0::2], nibbles[:, 1::2] << 4, out=codes)


def unpack(codes: Bytes, q: Array) -> None:
    """Bytes of two codes to rows of levels."""
    rows, numbers = q.shape
    if numbers % 2 == 0:  # "clip" because "raise" would go through a buffer; no byte is out of range
        np.take(LOW_HIGH, codes, axis=0, out=q.reshape(rows, -1, 2), mode="clip")
    else:
        q[:] = LOW_HIGH[codes].reshape(rows, -1)[:, :numbers]


def leading(x: Array, number: int) -> Array:
    """The directions of tokens (number, tokens) in which a matrix (tokens, channels) is largest, nearly: a power method
    that starts from the same directions for every image."""
    q = np.linalg.qr(x @ some_directions(x.shape[1], number))[0]
    for _ in range(ITERATIONS):
        q = np.linalg.qr(x @ (x.T @ q))[0]
    within = q.T @ x
    _, turned = np.linalg.eigh(within @ within.T)
    return np.ascontiguousarray((q @ turned).T)


@cache
def some_directions(channels: int, number: int) -> Array:
    return np.random.default_rng(0).standard_normal((channels, number), np.float32)


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
