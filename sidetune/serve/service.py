"""One backbone as a service: every image looked up, joined with others that wait for the same, or computed."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from sidetune.serve.batcher import Batcher
from sidetune.serve.bucket import busy
from sidetune.serve.cache import Cache
from sidetune.serve.coders import Coders
from sidetune.serve.decoding import Picture, decoded, digest_of, is_cheap, looked_at
from sidetune.serve.hands import Hands
from sidetune.serve.lane import Allowance, Lane
from sidetune.serve.look import Look
from sidetune.serve.metrics import Metrics
from sidetune.serve.settings import Settings
from sidetune.serve.statistics import Statistics
from sidetune.serve.worker import Taps, Worker, as_array
from sidetune.wire.ask import Ask
from sidetune.wire.codec import encode
from sidetune.wire.infer import Answer, Images, pack_image
from sidetune.wire.message import TooLarge, WireError

log = logging.getLogger("sidetune.serve")
Packed = dict[Ask, bytes]


class Service:
    """Lives on one event loop. Encoding, the disk and what decodes quickly are done by `hands`, what may not by
    `coders`; pixels are rationed in `lane`, and callers take turns in each. The backbone has a thread of its own."""

    def __init__(
        self,
        worker: Worker,
        settings: Settings,
        metrics: Metrics,
        *,
        hands: Hands,
        coders: Coders,
        lane: Lane,
        cache: Cache | None,
    ) -> None:
        self.worker, self.card, self.settings = worker, worker.card, settings
        self.metrics, self.hands, self.coders, self.lane, self.cache = metrics, hands, coders, lane, cache
        self.statistics = Statistics(self.card.name)
        self.flying: dict[tuple[str, Ask], Flight] = {}
        """By image and ask: what is being computed now."""
        self.pending = Allowance(settings.queue)
        """Images accepted and not answered."""
        self.pace = 0.0
        """Seconds an image took lately."""
        self.batcher: Batcher[Tensor, Taps] = Batcher(
            worker.compute, max_batch=settings.max_batch, max_delay=settings.max_delay, on_batch=self.on_batch
        )
        self.queued = metrics.queue.labels(self.card.name)

    async def run(self) -> None:
        await self.batcher.run()

    async def answer(self, images: Images, asks: Sequence[Ask], caller: str) -> list[Answer]:
        """Features of every image. Raises WireError naming the image that cannot be read, 503 if too many wait.

        Cancelled, it ends what nobody else waits for.
        """
        looks = await self.hands.do(lambda: look_at_all(images, self.settings), caller)
        if not self.pending.take(caller, len(images)):
            waiting = self.pending.total
            raise busy(f"{self.card.name} has {waiting} images waiting", waiting * self.pace)
        self.queued.set(self.pending.total)
        done = await asyncio.gather(
            *(self.accepted(image, seen, asks, caller) for image, seen in zip(images, looks, strict=True)),
            return_exceptions=True,
        )
        for number, outcome in enumerate(done):
            if isinstance(outcome, WireError):
                raise WireError(f"image {number}: {outcome}") from outcome
            if isinstance(outcome, BaseException):
                raise outcome
        rows = [row for row in done if not isinstance(row, BaseException)]
        return [Answer(ask=a, shape=self.card.shape(a), data=[row[a] for row in rows]) for a in asks]

    async def accepted(self, picture: Picture, seen: Look, asks: Sequence[Ask], caller: str) -> Packed:
        try:
            return await self.image(picture, seen, asks, caller)
        finally:
            self.pending.give_back(caller, 1)
            self.queued.set(self.pending.total)

    async def image(self, picture: Picture, seen: Look, asks: Sequence[Ask], caller: str) -> Packed:
        """One image's features as they travel; what is on its way for another request is waited for."""
        digest = await self.hands.do(lambda: digest_of(picture), caller)
        mine = [ask for ask in dict.fromkeys(asks) if (digest, ask) not in self.flying]
        self.count("joined", len(asks) - len(mine))
        if mine:
            flight = Flight({ask: asyncio.get_running_loop().create_future() for ask in mine})
            self.flying |= {(digest, ask): flight for ask in mine}
            flight.task = asyncio.create_task(self.fill(picture, seen, digest, flight, caller))
        flights = {ask: self.flying[digest, ask] for ask in asks}
        for flight in set(flights.values()):
            flight.waiting += 1
        try:
            done = {ask: await asyncio.shield(flight.features[ask]) for ask, flight in flights.items()}
            for flight in {flights[ask] for ask in mine}:
                assert flight.task is not None
                await asyncio.shield(flight.task)  # until it is on disk
            return done
        finally:
            for flight in set(flights.values()):
                flight.waiting -= 1
                if not flight.waiting:
                    self.land(digest, flight)
                    if flight.task is not None and not flight.is_over:
                        flight.task.cancel()

    def land(self, digest: str, flight: Flight) -> None:
        """Nobody joins it any more."""
        for ask in flight.features:
            if self.flying.get((digest, ask)) is flight:
                del self.flying[digest, ask]

    async def fill(self, picture: Picture, seen: Look, digest: str, flight: Flight, caller: str) -> None:
        """Set each future to its features, or to what went wrong."""
        wanted = flight.features
        try:
            found = await self.find(digest, list(wanted), caller)
            missing = [ask for ask in wanted if ask not in found]
            self.count("disk", len(found))
            self.count("computed", len(missing))
            computed = await self.compute(picture, seen, missing, caller) if missing else {}
            for ask, data in (found | computed).items():
                wanted[ask].set_result(data)
            flight.is_over = True
            if computed and self.cache is not None:
                await self.hands.do(lambda: self.keep(digest, computed), caller)
        except BaseException as e:
            for future in wanted.values():
                if not future.done():
                    future.set_exception(e if isinstance(e, Exception) else RuntimeError("the service was stopped"))
                    future.exception()  # whoever waits sees it; if nobody does, that is no slip
            if not isinstance(e, Exception):
                raise
        finally:
            self.land(digest, flight)

    async def prepared(self, picture: Picture, seen: Look, caller: str) -> Tensor:
        """What the backbone is given, decoded when it is the caller's turn."""
        worker, most = self.worker, self.settings.max_pixels
        large = not is_cheap(picture, seen)
        async with self.lane.turn(caller, seen.pixels, large=large):
            if not large:
                return await self.hands.do(lambda: worker.to_tensor(worker.geometry(decoded(picture, most))), caller)
            assert not isinstance(picture, np.ndarray)
            image = await self.coders.decode(picture, worker.geometry)
            return await self.hands.do(lambda: worker.to_tensor(image), caller)

    async def compute(self, picture: Picture, seen: Look, asks: Sequence[Ask], caller: str) -> Packed:
        start = time.monotonic()
        pixels = await self.prepared(picture, seen, caller)
        given = time.monotonic()
        taps, in_batch = await self.batcher.submit(pixels, tuple(sorted({a.name for a in asks})), caller)
        computed = time.monotonic()
        done = await self.hands.do(lambda: {a: packed(taps[a.name], a) for a in asks}, caller)
        self.statistics.image(
            compute_input=given - start,
            queue=computed - given - in_batch,
            compute_infer=in_batch,
            compute_output=time.monotonic() - computed,
        )
        return done

    async def find(self, digest: str, asks: Sequence[Ask], caller: str) -> Packed:
        if self.cache is None:
            return {}
        start = time.monotonic()
        found = await self.hands.do(lambda: self.look_up(digest, asks), caller)
        self.statistics.looked_up(len(found), len(asks), time.monotonic() - start)
        return found

    def look_up(self, digest: str, asks: Sequence[Ask]) -> Packed:
        assert self.cache is not None
        found = {ask: self.cache.get(self.key(digest, ask)) for ask in asks}
        return {ask: data for ask, data in found.items() if data is not None}

    def keep(self, digest: str, computed: Packed) -> None:
        assert self.cache is not None
        try:
            for ask, data in computed.items():
                self.cache.put(self.key(digest, ask), data)
        except OSError as e:  # a full disk must not cost anyone an answer
            self.metrics.cache_errors.inc()
            log.warning("the cache cannot be written: %s", e)
        self.metrics.cache_bytes.set(self.cache.total)

    def key(self, digest: str, ask: Ask) -> str:
        """Under which features are kept: it changes with all that changes them."""
        return f"{self.card.fingerprint} {digest} {ask.name} {ask.precision} {ask.compression}"

    def on_batch(self, images: int, seconds: float) -> None:
        self.statistics.batch(images, seconds)
        self.pace += 0.2 * (seconds / images - self.pace)
        self.metrics.batches.labels(self.card.name).observe(images)
        self.metrics.compute.labels(self.card.name).inc(seconds)

    def count(self, found: str, number: int = 1) -> None:
        self.metrics.cache.labels(self.card.name, found).inc(number)


@dataclass(eq=False)
class Flight:
    """An image on its way: what is asked of it, who does it, and how many requests wait for it."""

    features: dict[Ask, asyncio.Future[bytes]]
    task: asyncio.Task[None] | None = None
    waiting: int = 0
    is_over: bool = False


def look_at_all(images: Images, settings: Settings) -> list[Look]:
    """Raises WireError naming an image that is not decoded, TooLarge for more pixels than a request may have."""
    looks = []
    for number, image in enumerate(images):
        try:
            looks.append(looked_at(image, settings))
        except WireError as e:
            raise WireError(f"image {number}: {e}") from e
    if (pixels := sum(seen.pixels for seen in looks)) > settings.max_request_pixels:
        raise TooLarge(
            f"the request's images have {pixels} pixels, at most {settings.max_request_pixels} are decoded; send fewer"
        )
    return looks


def packed(taps: Tensor, ask: Ask) -> bytes:
    """Raises WireError where the features cannot be held in the precision asked for."""
    try:
        return bytes(pack_image(encode(as_array(taps), ask.precision), ask))
    except ValueError as e:
        raise WireError(str(e)) from None
