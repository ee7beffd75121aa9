"""A batch of the feature file in pieces: logits, or one update of the parameters."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from sidetune.edge.adamw import AdamW
from sidetune.edge.features import FeatureFile
from sidetune.edge.gradient import Gradient, cross_entropy
from sidetune.edge.network import Workspace, forward, products
from sidetune.edge.parameters import Array, Parameters
from sidetune.train.recipe import Recipe
from sidetune.wire.metadata import ModelCard

MICRO_BATCH = 2
"""Images in work at once where a recipe does not say: more hardly gain speed, and take 5 MiB each (ViT-B/16)."""


def pool_weights(card: ModelCard, kind: str) -> Array:
    """Each token's weight in the pooled vector, (tokens): the class token's, or the patches' mean (kind `mean`)."""
    weights = np.zeros(card.num_tokens, np.float32)
    if kind == "token":
        if not card.num_prefix_tokens:
            raise ValueError(f"{card.name} has no class token; use the pooling `mean`")
        weights[0] = 1
    else:
        weights[card.num_prefix_tokens :] = 1 / (card.num_tokens - card.num_prefix_tokens)
    return weights


class Learner:
    """The parameters in work on one k of a file, with the memory for a piece of a batch."""

    def __init__(self, file: FeatureFile, k: int, p: Parameters, pool: Array, recipe: Recipe) -> None:
        self.file, self.k, self.p, self.pool, self.recipe = file, k, p, pool, recipe
        self.labels = file.labels()
        self.work = Workspace(recipe.micro_batch or MICRO_BATCH, file.header.shape[0], p, training=True)
        self.gradient = Gradient(p)
        self.optimizer = AdamW.of(p.flat.size)

    def pieces(self, images: np.ndarray) -> Iterator[tuple[np.ndarray, Array]]:
        for start in range(0, len(images), self.work.images):
            piece = images[start : start + self.work.images]
            yield piece, self.file.batch(piece, self.k, self.work.x)

    def update(self, images: np.ndarray, lr: float) -> float:
        """One step on these images; returns their mean loss."""
        m, loss = products(self.p), 0.0
        self.gradient.clear()
        for piece, x in self.pieces(images):
            logits, kept = forward(x, self.p, m, self.pool, self.work)
            piece_loss, dlogits = cross_entropy(logits, self.labels[piece], len(images))
            loss += piece_loss
            self.gradient.add(x, kept, dlogits, self.p, m, self.pool, self.work)
        self.optimizer.step(
            self.p.flat,
            self.gradient.joined(self.p, m).flat,
            lr=lr,
            weight_decay=self.recipe.weight_decay,
            num_decayed=self.p.shape.num_decayed,
            betas=self.recipe.betas,
        )
        return loss / len(images)

    def accuracy(self, images: np.ndarray) -> float | None:
        """Share of images labelled right; None of no images."""
        if not len(images):
            return None
        m, right = products(self.p), 0
        for piece, x in self.pieces(images):
            logits, _ = forward(x, self.p, m, self.pool, self.work)
            right += int((logits.argmax(axis=1) == self.labels[piece]).sum())
        return right / len(images)
