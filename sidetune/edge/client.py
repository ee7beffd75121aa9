"""Asking a service for features, with patience: what is lost or refused for now is asked for again."""

from __future__ import annotations

import random
import re
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from sidetune.edge.later import seconds_until
from sidetune.edge.transport import Reply, Transport, Unreachable
from sidetune.errors import DataError, ServiceError, WeightsMismatch
from sidetune.wire.ask import Ask
from sidetune.wire.codec import num_bytes
from sidetune.wire.compression import decompress
from sidetune.wire.infer import build_request, parse_error, parse_response
from sidetune.wire.message import HEADER_LENGTH, WireError, read_json
from sidetune.wire.metadata import ModelCard

FIRST_DELAY, LONGEST_DELAY = 0.2, 30.0
"""Seconds; each failure in a row doubles the delay, of which a random half is taken off."""
FOR_NOW = frozenset({408, 425, 429, 502, 503, 504})
FIRST_PATIENCE = 15.0
"""Seconds in which a service must answer for the first time; a wrong address is noticed soon."""
BROKEN = 5
"""Answers of 500, or of no sense, to one request before it is given up."""
LENGTH = re.compile("[0-9]{1,12}")
BAD_IMAGE = frozenset({400, 413, 415, 422})


class Client:
    """One model of one service. `stop` ends every wait."""

    def __init__(
        self,
        transport: Transport,
        model: str,
        *,
        patience: float = 900.0,
        notice: Callable[[str], None] = lambda _: None,
    ) -> None:
        """`patience`: seconds after which a service counts as gone that answers nothing, or 'later' to everything."""
        if not patience >= 0:
            raise ValueError(f"patience must be 0 seconds or more, got {patience}")
        self.transport, self.model, self.patience, self.notice = transport, model, patience, notice
        self.stop = threading.Event()
        self.served, self.answered = time.monotonic(), False
        """When the service last gave an answer that was not 'later', and whether it ever said anything."""

    def card(self) -> ModelCard:
        """What the service says of the model. Raises ServiceError, or WireError if it is no service of this kind."""
        reply = self.ask(f"/v2/models/{quote(self.model)}")
        if reply.status != 200:
            raise ServiceError(f"the service does not describe {self.model}: {reply.status}, {parse_error(reply.body)}")
        return ModelCard.from_metadata(told(reply))

    def features(self, image: bytes, asks: Sequence[Ask], card: ModelCard) -> dict[str, bytes | memoryview]:
        """One image file -> by name of the ask, the codec's bytes, unpacked.

        Raises DataError for an image that the service cannot read, WeightsMismatch if the service is no longer that of
        the card.
        """
        body, length = build_request([image], asks, card.fingerprint)
        headers = {HEADER_LENGTH: str(length), "Content-Type": "application/octet-stream"}
        for attempt in range(BROKEN):
            reply = self.ask(f"/v2/models/{quote(self.model)}/infer", body, headers)
            if reply.status != 200:
                self.check_card(card)
                if reply.status in BAD_IMAGE:
                    raise DataError(parse_error(reply.body))
                raise ServiceError(f"the service answers {reply.status}: {parse_error(reply.body)}")
            try:
                return records(reply, asks, card)
            except WireError as e:
                self.wait(attempt, f"an answer makes no sense ({e})", since=time.monotonic())
        raise ServiceError(f"{BROKEN} answers in a row to one request made no sense")

    def features_of(self, path: Path, asks: Sequence[Ask], card: ModelCard) -> dict[str, bytes | memoryview]:
        """As `features`, of a file; raises DataError for one that cannot be read here, too."""
        try:
            image = path.read_bytes()
        except OSError as e:
            raise DataError(f"it cannot be read ({e.strerror or e})") from e
        return self.features(image, asks, card)

    def check_card(self, card: ModelCard) -> None:
        now = self.card()
        if now.fingerprint != card.fingerprint:
            raise WeightsMismatch(differing(card, now))

    def ask(self, path: str, body: bytes | None = None, headers: Mapping[str, str] | None = None) -> Reply:
        """The first answer that is not 'later'. Raises ServiceError when patience is over, for a refused key (401, 403)
        and an unknown model (404)."""
        began, attempt, broken = time.monotonic(), 0, 0
        while True:
            try:
                reply = self.transport.send(path, body, headers)
            except Unreachable as e:
                why, later, fault = f"no answer ({e})", None, "has not answered"
            else:
                self.answered = True
                broken += reply.status == 500
                if reply.status in (401, 403):
                    raise ServiceError(f"the service refuses the key ({reply.status}); give a valid one by --key-file")
                if reply.status == 404:
                    raise ServiceError(f"the service does not know {self.model!r}: {parse_error(reply.body)}")
                if reply.status not in FOR_NOW and (reply.status != 500 or broken == BROKEN):
                    self.served = time.monotonic()
                    return reply
                why, later = f"answer {reply.status} ({parse_error(reply.body)})", seconds_until(reply.headers)
                fault = "has put off every request"
            self.wait(attempt, why, later, fault, since=began)
            attempt += 1

    def wait(
        self, attempt: int, why: str, later: float | None = None, fault: str = "makes no sense", *, since: float
    ) -> None:
        """Sleep for as long as the service says, or a while that grows; some of it random, so that devices spread.

        Never beyond what is left of `patience`, counted from `since` or from when the service last served anyone here;
        raises ServiceError, naming the `fault`, where nothing is left.
        """
        patience = self.patience if self.answered else min(self.patience, FIRST_PATIENCE)
        left = max(since, self.served) + patience - time.monotonic()
        if left <= 0:
            raise ServiceError(f"the service {fault} for {patience:g} s: {why}")
        delay = min(LONGEST_DELAY, FIRST_DELAY * 2.0 ** min(attempt, 16)) * random.uniform(0.5, 1)
        if later is not None:
            delay = later + random.uniform(0, FIRST_DELAY)
        delay = min(delay, left)
        if attempt > 2:
            self.notice(f"{why}; trying again in {delay:.0f} s")
        if self.stop.wait(delay):
            raise ServiceError("stopped")


def only_model(client: Client) -> str:
    """The name of a service's model where it has one only; raises ServiceError where one has to be chosen, WireError
    if it is no service of this kind."""
    reply = client.ask("/v2")
    models = told(reply).get("models") if reply.status == 200 else None
    if not isinstance(models, list) or not models:
        raise ServiceError("the service does not list its models; name one by --model")
    if len(models) > 1:
        raise ServiceError(f"the service has several models; choose one by --model: {', '.join(map(str, models))}")
    return str(models[0])


def told(reply: Reply) -> dict[str, Any]:
    """The JSON of an answer; raises WireError where something else answers than a feature service."""
    try:
        return read_json(reply.body)
    except WireError as e:
        raise WireError(f"what answers at this address is no feature service: {e}") from None


def records(reply: Reply, asks: Sequence[Ask], card: ModelCard) -> dict[str, bytes | memoryview]:
    """The bytes of one image's features in an answer; raises WireError if it is not the answer."""
    length = reply.headers.get(HEADER_LENGTH.lower())
    if length is None or not LENGTH.fullmatch(length):
        raise WireError(f"the answer has no {HEADER_LENGTH}")
    response = parse_response(reply.body, int(length), asks)
    if response.fingerprint != card.fingerprint:
        raise WeightsMismatch("the service answers with another backbone than it describes")
    found: dict[str, bytes | memoryview] = {}
    for ask in asks:
        answer = response.answers[ask.name]
        size = num_bytes(card.shape(ask), ask.precision)
        if answer.shape != card.shape(ask) or len(answer.data) != 1:
            raise WireError(f"{ask.name} should be one image of shape {card.shape(ask)}, got {answer.shape}")
        data = answer.data[0]
        found[ask.name] = decompress(data, size) if ask.compression == "zstd" else data
        if len(found[ask.name]) != size:
            raise WireError(f"{ask.name} should be {size} bytes, got {len(found[ask.name])}")
    return found


def differing(before: ModelCard, now: ModelCard) -> str:
    """What two cards that should be the same differ in."""
    pairs = {name: (getattr(before, name), getattr(now, name)) for name in vars(before)}
    said = ", ".join(f"{name} {short(old)}, now {short(new)}" for name, (old, new) in pairs.items() if old != new)
    return f"the service's backbone is not the one these features are of: {said}"


def short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 20 else f"{text[:12]}..."
