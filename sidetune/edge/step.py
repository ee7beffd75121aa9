"""A batch of the feature file in pieces: logits, or one update of the parameters."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from queue import SimpleQueue

import numpy as np

from sidetune.edge.adamw import AdamW
from sidetune.edge.features import FeatureFile
from sidetune.edge.gradient import Gradient, cross_entropy
from sidetune.edge.network import Workspace, forward, mean_of_taps, products
from sidetune.edge.parameters import Array, Parameters
from sidetune.recipe import Recipe
from sidetune.wire.metadata import ModelCard

LANES = 4
"""Parts of a batch that threads may share; more use more memory for sums."""
QUIET = np.errstate(all="ignore")
"""What overflows shows in the loss, which is looked at."""
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
    """The parameters in work on one k of a file.

    The pieces of a batch belong to `LANES` lanes in turn, and each lane adds up its own; so results are the same, bit
    for bit, for any number of threads. Where these are several, NumPy's own (OPENBLAS_NUM_THREADS) should be one.
    """

    def __init__(
        self, file: FeatureFile, k: int, p: Parameters, pool: Array, recipe: Recipe, *, threads: int = 1
    ) -> None:
        self.file, self.k, self.p, self.pool, self.recipe = file, k, p, pool, recipe
        self.labels, self.size = file.labels(), recipe.means.micro_batch or MICRO_BATCH
        self.threads = ThreadPoolExecutor(threads)
        self.spaces: SimpleQueue[Workspace] = SimpleQueue()
        for _ in range(min(threads, LANES)):
            self.spaces.put(Workspace(self.size, file.header.shape[0], p, training=True))
        self.lanes = [Gradient(p) for _ in range(LANES)]
        self.gradient, self.optimizer = Parameters(p.shape), AdamW.of(p.flat.size)

    def over(self, images: np.ndarray, work: Callable[[int, np.ndarray, Array, Workspace], float]) -> float:
        """The sum over pieces of `work(lane, images, features, workspace)`."""
        pieces = [images[start : start + self.size] for start in range(0, len(images), self.size)]

        @QUIET
        def run(lane: int) -> float:
            space = self.spaces.get()
            try:
                return sum(
                    work(lane, piece, mean_of_taps(self.file.batch(piece, self.k, space.x), self.k), space)
                    for piece in pieces[lane::LANES]
                )
            finally:
                self.spaces.put(space)

        return sum(self.threads.map(run, range(LANES)))

    @QUIET
    def update(self, images: np.ndarray, lr: float) -> float:
        """One step on these images; returns their mean loss."""
        m = products(self.p)

        def add(lane: int, piece: np.ndarray, x: Array, space: Workspace) -> float:
            logits, kept = forward(x, self.p, m, self.pool, space)
            loss, dlogits = cross_entropy(logits, self.labels[piece], len(images))
            self.lanes[lane].add(x, kept, dlogits, self.p, m, self.pool, space)
            return loss

        for lane in self.lanes:
            lane.clear()
        loss = self.over(images, add)
        total, *others = self.lanes
        for other in others:
            total.take(other)
        self.optimizer.step(
            self.p.flat,
            total.joined(self.p, m, self.gradient).flat,
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
        m = products(self.p)

        def right(lane: int, piece: np.ndarray, x: Array, space: Workspace) -> float:
            logits, _ = forward(x, self.p, m, self.pool, space)
            return float((logits.argmax(axis=1) == self.labels[piece]).sum())

        return self.over(images, right) / len(images)
