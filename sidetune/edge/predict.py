"""Labels of new images: their features from the service, the edge network here."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from sidetune.edge.artefact import Artefact
from sidetune.edge.client import Client
from sidetune.edge.network import Workspace, forward, mean_of_taps, products
from sidetune.edge.parameters import Array
from sidetune.edge.step import pool_weights
from sidetune.errors import DataError
from sidetune.wire.ask import Ask
from sidetune.wire.codec import decode


@dataclass(frozen=True, kw_only=True)
class Prediction:
    image: Path
    top: tuple[tuple[str, float], ...]
    """The most probable labels with their probabilities, best first."""


class Predictor:
    """A trained network, ready for one image after the other."""

    def __init__(self, artefact: Artefact) -> None:
        self.artefact = artefact
        card, p = artefact.card, artefact.parameters
        self.products = products(p)
        self.pool = pool_weights(card, artefact.choices.pool)
        self.work = Workspace(1, card.num_tokens, p, training=False)

    @property
    def k(self) -> int:
        k = self.artefact.choices.k
        return self.artefact.card.num_blocks if k is None else k

    def logits(self, features: Array) -> Array:
        """Features (tokens, channels) -> (classes)."""
        return forward(
            mean_of_taps(features.copy(), self.k)[None], self.artefact.parameters, self.products, self.pool, self.work
        )[0][0]

    def label(self, features: Array, top: int) -> tuple[tuple[str, float], ...]:
        logits = self.logits(features)
        probabilities = np.exp(logits - logits.max())
        probabilities /= probabilities.sum()
        best = np.argsort(-probabilities, kind="stable")[:top]
        return tuple((self.artefact.classes[i], float(probabilities[i])) for i in best)


def predict(
    client: Client,
    artefact: Artefact,
    images: Sequence[Path],
    *,
    top: int = 1,
    precision: str = "int8",
    compression: str = "none",
    on_bad: Callable[[DataError], None] | None = None,
) -> Iterator[Prediction]:
    """Label image files one by one.

    Raises DataError for one that is missing or that the service cannot read, or hands it to `on_bad` and goes on;
    ValueError for a precision or compression that the service does not offer.
    """
    predictor, card = Predictor(artefact), artefact.card
    ask = Ask(k=predictor.k, precision=precision, compression=compression)
    shape = card.shape(ask)
    for path in images:
        try:
            records = client.features_of(path, [ask], card)
        except DataError as e:
            if on_bad is None:
                raise DataError(f"{path}: {e}; leave out images that cannot be read with --skip-bad") from e
            on_bad(DataError(f"{path}: {e}"))
            continue
        x = decode(records[ask.name], shape, precision, out=predictor.work.x[0])
        yield Prediction(image=path, top=predictor.label(x, top))
