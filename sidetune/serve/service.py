"""One backbone as a service: every image looked up, joined with others that wait for the same, or computed."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from torch import Tensor

from sidetune.serve.batcher import Batcher
from sidetune.serve.cache import Cache
from sidetune.serve.decoding import Picture, digest_of, prepare
from sidetune.serve.metrics import Metrics
from sidetune.serve.refusals import busy
from sidetune.serve.settings import Settings
from sidetune.serve.statistics import Statistics
from sidetune.serve.worker import Taps, Worker, as_array
from sidetune.wire.ask import Ask
from sidetune.wire.codec import encode
from sidetune.wire.infer import Answer, Images, pack_image
from sidetune.wire.message import WireError

log = logging.getLogger("sidetune.serve")
T = TypeVar("T")
Packed = dict[Ask, bytes]


class Service:
    """Lives on one event loop. Decoding, encoding and the disk run in `pool`, the backbone on a thread of its own."""

    def __init__(
        self, worker: Worker, settings: Settings, metrics: Metrics, pool: ThreadPoolExecutor, cache: Cache | None
    ) -> None:
        self.worker, self.card, self.settings = worker, worker.card, settings
        self.metrics, self.pool, self.cache = metrics, pool, cache
        self.statistics = Statistics(self.card.name)
        self.flying: dict[tuple[str, Ask], asyncio.Future[bytes]] = {}
        """By image and ask: what is being computed now."""
        self.pending = 0
        """Images accepted and not answered."""
        self.pace = 0.0
        """Seconds an image took lately."""
        self.batcher: Batcher[Tensor, Taps] = Batcher(
            worker.compute, max_batch=settings.max_batch, max_delay=settings.max_delay, on_batch=self.on_batch
        )
        self.queued = metrics.queue.labels(self.card.name)

    async def run(self) -> None:
        await self.batcher.run()

    async def answer(self, images: Images, asks: Sequence[Ask]) -> list[Answer]:
        """Features of every image. Raises WireError naming the image that cannot be read, 503 if too many wait."""
        if self.pending + len(images) > self.settings.queue:
            raise busy(f"{self.card.name} has {self.pending} images waiting", self.pending * self.pace)
        self.pending += len(images)
        self.queued.set(self.pending)
        done = await asyncio.gather(*(self.accepted(image, asks) for image in images), return_exceptions=True)
        for number, outcome in enumerate(done):
            if isinstance(outcome, WireError):
                raise WireError(f"image {number}: {outcome}") from outcome
            if isinstance(outcome, BaseException):
                raise outcome
        rows = [row for row in done if not isinstance(row, BaseException)]
        return [Answer(ask=a, shape=self.card.shape(a), data=[row[a] for row in rows]) for a in asks]

    async def accepted(self, picture: Picture, asks: Sequence[Ask]) -> Packed:
        try:
            return await self.image(picture, asks)
        finally:
            self.pending -= 1
            self.queued.set(self.pending)

    async def image(self, picture: Picture, asks: Sequence[Ask]) -> Packed:
        """One image's features as they travel; what is on its way for another request is waited for."""
        digest = await self.threaded(lambda: digest_of(picture))
        mine, all_of_it = {}, {}
        for ask in asks:
            if (flying := self.flying.get((digest, ask))) is None:
                flying = self.flying[digest, ask] = mine[ask] = asyncio.get_running_loop().create_future()
            else:
                self.count("joined")
            all_of_it[ask] = flying
        if mine:
            await self.fill(picture, digest, mine)
        return {ask: await asyncio.shield(flying) for ask, flying in all_of_it.items()}

    async def fill(self, picture: Picture, digest: str, wanted: dict[Ask, asyncio.Future[bytes]]) -> None:
        """Set each future to its features, or to what went wrong."""
        try:
            found = await self.find(digest, list(wanted))
            missing = [ask for ask in wanted if ask not in found]
            self.count("disk", len(found))
            self.count("computed", len(missing))
            computed = await self.compute(picture, missing) if missing else {}
            for ask, data in (found | computed).items():
                wanted[ask].set_result(data)
            if computed and self.cache is not None:
                await self.threaded(lambda: self.keep(digest, computed))
        except BaseException as e:
            for future in wanted.values():
                if not future.done():
                    future.set_exception(e if isinstance(e, Exception) else RuntimeError("the service was stopped"))
                    future.exception()  # whoever waits sees it; if nobody does, that is no slip
            if not isinstance(e, Exception):
                raise
        finally:
            for ask in wanted:
                del self.flying[digest, ask]

    async def compute(self, picture: Picture, asks: Sequence[Ask]) -> Packed:
        start = time.monotonic()
        pixels = await self.threaded(lambda: prepare(picture, self.worker.transform, self.settings))
        decoded = time.monotonic()
        taps, in_batch = await self.batcher.submit(pixels, tuple(sorted({a.name for a in asks})))
        computed = time.monotonic()
        done = await self.threaded(lambda: {a: packed(taps[a.name], a) for a in asks})
        self.statistics.image(
            compute_input=decoded - start,
            queue=computed - decoded - in_batch,
            compute_infer=in_batch,
            compute_output=time.monotonic() - computed,
        )
        return done

    async def find(self, digest: str, asks: Sequence[Ask]) -> Packed:
        if self.cache is None:
            return {}
        start = time.monotonic()
        found = await self.threaded(lambda: self.look_up(digest, asks))
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

    async def threaded(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self.pool, work)

    def on_batch(self, images: int, seconds: float) -> None:
        self.statistics.batch(images, seconds)
        self.pace += 0.2 * (seconds / images - self.pace)
        self.metrics.batches.labels(self.card.name).observe(images)
        self.metrics.compute.labels(self.card.name).inc(seconds)

    def count(self, found: str, number: int = 1) -> None:
        self.metrics.cache.labels(self.card.name, found).inc(number)


def packed(taps: Tensor, ask: Ask) -> bytes:
    """Raises WireError where the features cannot be held in the precision asked for."""
    try:
        return bytes(pack_image(encode(as_array(taps), ask.precision), ask))
    except ValueError as e:
        raise WireError(str(e)) from None
