"""A service in this process: the device's transport over a backbone, without a network, an event loop or a queue."""

from __future__ import annotations

import json
import threading
from collections.abc import Mapping

import torch
from torch import Tensor

from sidetune.backbones import Backbone
from sidetune.edge.transport import Reply
from sidetune.recipe import Precision
from sidetune.serve.decoding import Picture, decoded, looked_at
from sidetune.serve.settings import Settings
from sidetune.serve.worker import Worker, as_array
from sidetune.wire.codec import encode
from sidetune.wire.infer import Answer, Request, build_error, build_response, pack_image, parse_request
from sidetune.wire.message import HEADER_LENGTH, WireError


class Local:
    """Answers what a device asks of `sidetune serve`: the list of models, the card, features. Thread-safe."""

    def __init__(
        self,
        backbone: Backbone,
        *,
        transform: str = "photo",
        device: torch.device | str = "cpu",
        precision: Precision = "fp32",
        name: str | None = None,
    ) -> None:
        """`name` is the model's, by default what the backbone was opened by."""
        card = backbone.card
        self.worker = Worker(
            backbone,
            name=name or card.name or card.architecture,
            transform=transform,
            device=torch.device(device),
            precision=precision,
        )
        self.card, self.settings, self.lock = self.worker.card, Settings(), threading.Lock()

    def send(self, path: str, body: bytes | None = None, headers: Mapping[str, str] | None = None) -> Reply:
        model = f"/v2/models/{self.card.name}"
        if path == "/v2":
            return told({"models": [self.card.name]})
        if path == model:
            return told(self.card.to_metadata())
        if path != f"{model}/infer" or body is None:
            return told(build_error(f"there is no {path} here; the model is {self.card.name}"), 404)
        try:
            wanted = parse_request(body, int((headers or {})[HEADER_LENGTH]))
            if wanted.fingerprint not in (None, self.card.fingerprint):
                return told(build_error(f"the fingerprint is {self.card.fingerprint}"), 409)
            return self.answer(wanted)
        except (WireError, ValueError) as e:
            return told(build_error(str(e)), 400)

    def prepared(self, picture: Picture) -> Tensor:
        looked_at(picture, self.settings)
        return self.worker.to_tensor(self.worker.geometry(decoded(picture, self.settings.max_pixels)))

    def answer(self, wanted: Request) -> Reply:
        pixels = [self.prepared(image) for image in wanted.images]
        asks = wanted.asks or (self.card.default(wanted.precision, wanted.compression),)
        with self.lock:
            taps = self.worker.compute(pixels, tuple(ask.name for ask in asks))
        answers = [
            Answer(
                ask=ask,
                shape=self.card.shape(ask),
                data=[pack_image(encode(as_array(of_image[ask.name]), ask.precision), ask) for of_image in taps],
            )
            for ask in asks
        ]
        body, length = build_response(self.card.name, answers, [True] * len(answers), self.card.fingerprint, wanted.id)
        return Reply(status=200, body=body, headers={HEADER_LENGTH.lower(): str(length)})


def told(value: Mapping[str, object], status: int = 200) -> Reply:
    return Reply(status=status, body=json.dumps(value).encode())
