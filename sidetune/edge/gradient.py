"""The gradient of the edge network, piece by piece of a batch and then joined: `sidetune.edge.network` backwards."""

from __future__ import annotations

import numpy as np

from sidetune.edge.network import LAST_NORM_EPS, Products, Tape, Workspace, inverse_sigma, qkv
from sidetune.edge.parameters import Array, Parameters


class Gradient:
    """Sums over the pieces of a batch; `joined` turns them into the gradient of the parameters."""

    def __init__(self, p: Parameters) -> None:
        layers, r, d = p.shape.layers, p.shape.rank, p.shape.width
        self.m = np.zeros((layers, 4 * r, d), np.float32)
        self.s = np.zeros((layers * r, layers, 4 * r), np.float32)
        self.shift = np.zeros((layers, 3 * r), np.float32)
        self.head = np.zeros((p.shape.num_classes, d), np.float32)
        self.bias = np.zeros(p.shape.num_classes, np.float32)

    @property
    def sums(self) -> tuple[Array, ...]:
        return self.m, self.s, self.shift, self.head, self.bias

    def clear(self) -> None:
        for own in self.sums:
            own.fill(0)

    def take(self, other: Gradient) -> None:
        """Add the sums over other pieces of the same batch."""
        for own, more in zip(self.sums, other.sums, strict=True):
            own += more

    def add(
        self, x: Array, kept: Tape, dlogits: Array, p: Parameters, m: Products, pool: Array, work: Workspace
    ) -> None:
        """Add what b images contribute: features (b, n, d) and the loss's gradient by their logits (b, classes)."""
        b, n, d = x.shape
        layers, r = p.shape.layers, p.shape.rank
        a = kept.a
        self.head += dlogits.T @ kept.pooled
        self.bias += dlogits.sum(axis=0)
        dpooled = dlogits @ p["head.weight"]
        dpooled -= dpooled.mean(axis=1, keepdims=True)
        by_a = dpooled @ m.outs.T
        self.m[:, 3 * r :] += ((kept.weights[:, None] @ a)[:, 0].T @ dpooled).reshape(layers, r, d)
        dweights = (x @ dpooled[..., None] + a @ by_a[..., None])[..., 0]
        dnorm = (-0.5 * kept.weights * dweights / (kept.norms[-1] + d * np.float32(LAST_NORM_EPS)))[..., None]
        da = kept.weights[..., None] * by_a[:, None]
        for i in reversed(range(layers)):
            dnorm = self.add_layer(i, kept, da, dnorm, m, work)
        np.matmul(kept.v.reshape(b * n, -1).T, x.reshape(b * n, d), out=work.dm)
        self.m += work.dm.reshape(self.m.shape)

    def add_layer(self, i: int, kept: Tape, da: Array, dnorm: Array, m: Products, work: Workspace) -> Array:
        """Go back through layer i: V's gradient overwrites V, earlier layers' a get theirs; returns that of n_i."""
        b, (_, rows, d) = len(kept.a), m.m.shape
        r = rows // 4
        own, v = slice(i * r, (i + 1) * r), kept.v[:, :, i]
        z, products_with_out = v[..., : 3 * r], v[..., 3 * r :]
        here, inverse = kept.a[..., own], inverse_sigma(kept.norms[i], d)
        twice = 2 * dnorm * here
        dhere = (products_with_out + here @ m.s[own, i, 3 * r :]) * (2 * dnorm)
        dhere += da[..., own]
        self.s[own, i, 3 * r :] += 0.5 * flat(twice).T @ flat(here)
        dqkv = through_attention(dhere, here, kept.exps[i], kept.sums[i], qkv(z, inverse, m.shift[i]), work.scores[:b])
        self.shift[i] += dqkv.sum(axis=(0, 1))
        dnorm = dnorm - (0.5 / d) * inverse**3 * np.einsum("bnr,bnr->bn", z, dqkv)[..., None]
        np.multiply(dqkv, inverse, out=z)
        products_with_out[...] = twice
        if i:
            before = kept.a[..., : i * r]
            da[..., : i * r] += v @ m.s[: i * r, i].T
            self.s[: i * r, i] += flat(before).T @ flat(v)
        return dnorm

    def joined(self, p: Parameters, m: Products, out: Parameters) -> Parameters:
        """The gradient of the parameters, in `out`. Ends the sums: `clear` before the next batch."""
        layers, r, d = p.shape.layers, p.shape.rank, p.shape.width
        s = self.s.reshape(layers * r, layers * 4 * r)
        self.m += (s.T @ m.outs).reshape(self.m.shape)
        self.m[:, 3 * r :] += (s @ m.m.reshape(-1, d)).reshape(layers, r, d)
        self.m -= self.m.mean(axis=2, keepdims=True)
        for i in range(layers):
            gamma, beta, w_qkv, _ = p.layer(i)
            dgamma, dbeta, dw_qkv, dw_out = out.layer(i)
            dw = self.m[i, : 3 * r]
            dw *= m.scale
            dshift = self.shift[i][:, None] * m.scale
            dgamma[...] = np.einsum("rd,rd->d", dw, w_qkv)
            dbeta[...] = (dshift * w_qkv).sum(axis=0)
            dw_qkv[...] = dw * gamma + dshift * beta
            dw_out[...] = self.m[i, 3 * r :].T
        out["head.weight"][...], out["head.bias"][...] = self.head, self.bias
        return out


def flat(t: Array) -> Array:
    """(b, n, c) -> (b n, c)."""
    return t.reshape(-1, t.shape[-1])


def through_attention(
    da: Array, a: Array, exps: Array, sums: Array, projected: tuple[Array, Array, Array], scores: Array
) -> Array:
    """The gradient of [q k v], (b, n, 3r), from that of a = softmax(q k^T) v; `scores` (b, n, n) is scratch.

    With P = exps / sums and D = da / sums, the scores' gradient P (da v^T - da . a) is exps (D v^T - D . a).
    """
    q, k, v = projected
    r = a.shape[-1]
    over = da / sums
    np.matmul(over, v.swapaxes(1, 2), out=scores)
    scores -= np.einsum("bnr,bnr->bn", over, a)[..., None]
    scores *= exps
    dqkv = np.empty((*a.shape[:2], 3 * r), np.float32)
    dqkv[..., :r] = scores @ k
    dqkv[..., r : 2 * r] = scores.swapaxes(1, 2) @ q
    dqkv[..., 2 * r :] = exps.swapaxes(1, 2) @ over
    return dqkv


def cross_entropy(logits: Array, labels: Array, batch: int) -> tuple[float, Array]:
    """The sum of losses over these images, and the gradient of the mean over a batch of `batch` images by logits."""
    logits = logits - logits.max(axis=1, keepdims=True)
    probabilities = np.exp(logits)
    sums = probabilities.sum(axis=1, keepdims=True)
    rows = np.arange(len(labels))
    loss = float((np.log(sums[:, 0]) - logits[rows, labels]).sum())
    probabilities /= sums
    probabilities[rows, labels] -= 1
    return loss, probabilities / np.float32(batch)
