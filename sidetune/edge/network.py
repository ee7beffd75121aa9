"""MIST's edge network, forward and backward, in numbers that are r wide rather than d.

    x_{l+1} = x_l + a_l O_l            a_l = softmax(q k^T / sqrt(r)) v  per image,  [q k v] = LN(x_l) W_l
    logits = head(pool(LN(x_L)))       the last norm has no weights

The residual stream is x_l = x_0 + a_0 O_0 + ... + a_{l-1} O_{l-1}, and it is only ever looked at through products.
With C the projection that takes the mean over channels away, M_l = C [diag(gamma_l) W_l, O_l^T] (d x 4r) and
M = [M_0 ... M_{L-1}],

    Y = x_0 M                                         the one product with d-wide tokens
    S = O C M                                         (L r x 4 L r), once a batch: how layers see each other
    [x_l W_l', x_l C O_l^T] = Y_l + sum_{j<l} a_j S_jl  =: [z_l, R_l]
    n_l = |C x_l|^2:   n_{l+1} = n_l + a_l . (2 R_l + a_l S_ll)
    [q k v] = s_l z_l + beta_l W_l,                   s_l = (n_l / d + eps)^(-1/2)

The gradient of M is x_0^T times the small gradients of Y, one more such product; those of W, O, gamma and beta follow.
What is kept for it are V = [z, R] (4 L r numbers a token), a (L r) and the attention matrices; the gradient of V
overwrites V.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from sidetune.edge.parameters import Array, Parameters

NORM_EPS, LAST_NORM_EPS = 1e-5, 1e-6
"""Of the layers' norms and of the last one, as `sidetune.methods.mist` has them."""


@dataclass(frozen=True, kw_only=True)
class Products:
    """What a batch needs of the parameters; the same for all of its pieces."""

    m: Array
    """M transposed, (L, 4r, d): rows for q, k, v (q's divided by sqrt(r)), then O; each with mean 0 over d."""
    outs: Array
    """The rows for O of all layers, (L r, d)."""
    s: Array
    """S, (L r, L, 4r)."""
    shift: Array
    """beta_l W_l, (L, 3r)."""
    scale: Array
    """1 / sqrt(r) for q, 1 for k and v, (3r, 1)."""


def mean_of_taps(x: Array, k: int) -> Array:
    """The sum of taps z_0 .. z_k, in place, as the network takes it: divided by their number."""
    x *= np.float32(1 / (k + 1))
    return x


def products(p: Parameters) -> Products:
    layers, r, d = p.shape.layers, p.shape.rank, p.shape.width
    scale = np.ones((3 * r, 1), np.float32)
    scale[:r] = r**-0.5
    m, shift = np.empty((layers, 4 * r, d), np.float32), np.empty((layers, 3 * r), np.float32)
    for i in range(layers):
        gamma, beta, w_qkv, w_out = p.layer(i)
        np.multiply(w_qkv, gamma, out=m[i, : 3 * r])
        m[i, : 3 * r] *= scale
        m[i, 3 * r :] = w_out.T
        shift[i] = (w_qkv @ beta) * scale[:, 0]
    m -= m.mean(axis=2, keepdims=True)
    outs = m[:, 3 * r :].reshape(layers * r, d)
    s = (outs @ m.reshape(-1, d).T).reshape(layers * r, layers, 4 * r)
    return Products(m=m, outs=outs, s=s, shift=shift, scale=scale)


class Workspace:
    """Arrays that passes over at most `images` images share, so that no step takes new memory."""

    def __init__(self, images: int, tokens: int, p: Parameters, *, training: bool) -> None:
        layers, r, d = p.shape.layers, p.shape.rank, p.shape.width
        self.images = images
        self.x = np.empty((images, tokens, d), np.float32)
        self.v = np.empty((images, tokens, layers, 4 * r), np.float32)
        self.a = np.empty((images, tokens, layers * r), np.float32)
        self.exps = np.empty((layers if training else min(layers, 1), images, tokens, tokens), np.float32)
        self.scores = np.empty((images, tokens, tokens) if training else 0, np.float32)
        self.dm = np.empty((layers * 4 * r, d) if training else (0, d), np.float32)


@dataclass(kw_only=True)
class Tape:
    """What the forward pass of b images of n tokens leaves for their backward pass."""

    v: Array
    """[z_l, R_l], (b, n, L, 4r)."""
    a: Array
    """(b, n, L r)."""
    norms: Array
    """n_l, (L + 1, b, n)."""
    exps: Array
    """exp(scores - their maximum), (L, b, n, n)."""
    sums: Array
    """Their sums over keys, (L, b, n, 1)."""
    weights: Array
    """Of tokens in the pooled vector, the last norm's 1 / sigma included, (b, n)."""
    pooled: Array
    """(b, d)."""


def forward(x: Array, p: Parameters, m: Products, pool: Array, work: Workspace) -> tuple[Array, Tape]:
    """Means of taps (b, n, d) -> logits (b, classes). `pool` (n) holds each token's weight in the pooled vector.

    What is kept lies in `work`, until the next pass.
    """
    b, n, d = x.shape
    layers, r = p.shape.layers, p.shape.rank
    v, a = work.v[:b], work.a[:b]
    np.matmul(x.reshape(b * n, d), m.m.reshape(-1, d).T, out=v.reshape(b * n, -1))
    norms, sums = np.empty((layers + 1, b, n), np.float32), np.empty((layers, b, n, 1), np.float32)
    norms[0] = np.einsum("bnd,bnd->bn", x, x) - d * np.square(x @ np.full(d, 1 / d, np.float32))
    for i in range(layers):
        exps, before, here = work.exps[i % len(work.exps), :b], a[..., : i * r], a[..., i * r : (i + 1) * r]
        if i:
            v[:, :, i] += before @ m.s[: i * r, i]
        q, k, value = qkv(v[:, :, i, : 3 * r], inverse_sigma(norms[i], d), m.shift[i])
        np.matmul(q, k.swapaxes(1, 2), out=exps)
        exps -= exps.max(axis=-1, keepdims=True)
        np.exp(exps, out=exps)
        exps.sum(axis=-1, keepdims=True, out=sums[i])
        np.divide(exps @ value, sums[i], out=here)
        grown = here @ m.s[i * r : (i + 1) * r, i, 3 * r :]
        grown += 2 * v[:, :, i, 3 * r :]
        norms[i + 1] = norms[i] + np.einsum("bnr,bnr->bn", here, grown)
    weights = pool * (norms[-1] / d + LAST_NORM_EPS) ** np.float32(-0.5)
    pooled = (weights[:, None] @ x)[:, 0] + (weights[:, None] @ a)[:, 0] @ m.outs
    pooled -= pooled.mean(axis=1, keepdims=True)
    logits = pooled @ p["head.weight"].T + p["head.bias"]
    return logits, Tape(v=v, a=a, norms=norms, exps=work.exps[:, :b], sums=sums, weights=weights, pooled=pooled)


def inverse_sigma(norms: Array, d: int) -> Array:
    return ((norms / d + NORM_EPS) ** np.float32(-0.5))[..., None]


def qkv(z: Array, inverse: Array, shift: Array) -> tuple[Array, Array, Array]:
    both = z * inverse
    both += shift
    q, k, v = np.split(both, 3, axis=-1)
    return q, k, v
