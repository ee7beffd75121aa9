"""The routes of the Open Inference Protocol over services."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Coroutine, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, TypeVar

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from sidetune.serve import describe
from sidetune.serve.bucket import busy
from sidetune.serve.cache import Cache
from sidetune.serve.coders import Coders
from sidetune.serve.crowd import Crowd
from sidetune.serve.hands import Hands
from sidetune.serve.intake import Intake, header_length
from sidetune.serve.keys import Caller, Guard, KeyFile, Keys
from sidetune.serve.lane import Lane
from sidetune.serve.metrics import Metered, Metrics
from sidetune.serve.refusals import Lingering, on_failure, on_refusal
from sidetune.serve.service import Service
from sidetune.serve.settings import Settings
from sidetune.serve.stage import Stage
from sidetune.serve.waste import Waste
from sidetune.serve.worker import Worker
from sidetune.wire.ask import Ask
from sidetune.wire.codec import num_bytes
from sidetune.wire.infer import Answer, build_response, check_json, parse_request
from sidetune.wire.infer import Request as Wanted
from sidetune.wire.message import HEADER_LENGTH, MAX_HEADER, TooLarge, WireError, read_json
from sidetune.wire.metadata import VERSION

T = TypeVar("T")
JSON_BYTES = 24
"""Of a number in an answer in JSON, at most."""
LEFT = 16 * 2**20
"""What a request counts among those that were refused, in bytes, whose caller did not wait for the answer."""
SHORT_BODY = 2**16
"""Bytes of a request that is not for features, at most."""


class Serving:
    """The app's endpoints and what they share."""

    def __init__(self, workers: Sequence[Worker], settings: Settings, cache: Path | None) -> None:
        self.workers, self.settings, self.cache_folder = workers, settings, cache
        self.metrics = Metrics()
        self.intake = Intake(settings.max_receiving, settings.body_timeout)
        self.hands = Hands(settings.workers)
        self.crowd = Crowd()
        self.waste = Waste(self.crowd)
        self.lane = Lane(settings.workers, settings.max_decoding)
        self.services: dict[str, Service] = {}
        self.stage = Stage()

    @asynccontextmanager
    async def lifespan(self, app: Starlette) -> AsyncIterator[None]:
        """Runs the services; leaving it, every accepted request has been answered."""
        cache = None if self.cache_folder is None else Cache(self.cache_folder, self.settings.cache_bytes)
        limits = self.settings
        coders = Coders(limits.workers, timeout=limits.decode_timeout, max_pixels=limits.max_pixels)
        for worker in self.workers:
            self.services[worker.card.name] = Service(
                worker, limits, self.metrics, hands=self.hands, coders=coders, lane=self.lane, cache=cache
            )
        tasks = [asyncio.create_task(s.run()) for s in self.services.values()]
        yield
        self.services = {}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        coders.close()
        self.hands.close()
        if cache is not None:
            cache.close()

    async def live(self, request: Request) -> Response:
        return JSONResponse({"live": True})

    async def ready(self, request: Request) -> Response:
        ready = bool(self.services) and not self.stage.draining and not self.stage.stopping
        return JSONResponse({"ready": ready}, 200 if ready else 503)

    async def server(self, request: Request) -> Response:
        return JSONResponse(describe.server(self.services, self.settings, request.state.caller.max_body))

    async def model(self, request: Request) -> Response:
        return JSONResponse(self.find(request).card.to_metadata())

    async def model_ready(self, request: Request) -> Response:
        return JSONResponse({"name": self.find(request).card.name, "ready": True})

    async def config(self, request: Request) -> Response:
        service = self.find(request)
        return JSONResponse(describe.configuration(service.card, self.settings, service.worker.device.type))

    async def stats(self, request: Request) -> Response:
        services = [self.find(request)] if "name" in request.path_params else list(self.services.values())
        return JSONResponse({"model_stats": [service.statistics.told() for service in services]})

    async def index(self, request: Request) -> Response:
        try:
            async with self.intake.body(request, SHORT_BODY) as body:
                ready = read_json(memoryview(body)).get("ready", False) if body else False
        except WireError as e:
            raise HTTPException(400, str(e)) from None
        if not isinstance(ready, bool):
            raise HTTPException(400, f"ready must be true or false, got {ready!r}")
        return JSONResponse(describe.index(self.services))

    async def fixed(self, request: Request) -> Response:
        raise HTTPException(400, "models are named when the service starts; none is loaded or unloaded by request")

    async def report(self, request: Request) -> Response:
        return Response(self.metrics.text(), media_type="text/plain; version=0.0.4")

    async def infer(self, request: Request) -> Response:
        service = self.find(request)
        caller: Caller = request.state.caller
        who = caller.name if caller.has_key or request.client is None else request.client.host
        request.state.who = who
        caller.bucket.check()
        length = header_length(request)
        limit = caller.max_body if length is not None else min(caller.max_body, MAX_HEADER)
        await self.waste.passed(who)
        try:
            with service.statistics.request():
                async with self.crowd.place(who), self.intake.body(request, limit, who) as body:
                    most = self.settings.max_images
                    wanted = await self.hands.do(lambda: parse_request(memoryview(body), length, most), who)
                    asks = self.check(service, wanted)
                    caller.bucket.take(len(wanted.images))
                    self.metrics.caller_images.labels(service.card.name, caller.label).inc(len(wanted.images))
                    answers = await while_heard(request, service.answer(wanted.images, asks, who))
                    return await self.hands.do(lambda: respond(service, answers, wanted), who)
        except WireError as e:
            raise HTTPException(413 if isinstance(e, TooLarge) else 400, str(e)) from None
        except ClientDisconnect:
            self.waste.add(who, LEFT)
            return Response(status_code=400)  # nobody hears it

    def check(self, service: Service, wanted: Wanted) -> tuple[Ask, ...]:
        """What is answered; raises WireError or a refusal for what is not."""
        card, settings = service.card, self.settings
        if wanted.fingerprint not in (None, card.fingerprint):
            raise HTTPException(
                409, f"{card.name} has the fingerprint {card.fingerprint}, not {wanted.fingerprint[:80]}"
            )
        asks = wanted.asks or (card.default(wanted.precision, wanted.compression),)
        size = 0
        for ask, in_bytes in zip(asks, wanted.binary, strict=True):
            try:
                of_one = num_bytes(card.shape(ask), ask.precision)
            except ValueError as e:
                raise WireError(f"output {ask.name!r}: {e}") from None
            if not in_bytes:
                check_json(ask)
                of_one = of_one // 4 * JSON_BYTES
            size += of_one * len(wanted.images)
        if size > settings.max_response:
            raise HTTPException(
                413, f"the answer would have {size} bytes, at most {settings.max_response}; ask for less"
            )
        return asks

    def find(self, request: Request) -> Service:
        name = request.path_params["name"]
        if self.stage.stopping or not self.services:
            raise busy("the service is stopping", 5)
        if name not in self.services:
            raise HTTPException(404, "no model of this name; /v2 lists those that there are")
        if (version := request.path_params.get("version", VERSION)) != VERSION:
            raise HTTPException(404, f"{name} has no version {version[:80]!r}; it has version {VERSION} alone")
        request.state.model = name
        return self.services[name]


async def while_heard(request: Request, work: Coroutine[Any, Any, T]) -> T:
    """What the work comes to; ended, with ClientDisconnect, if the caller leaves before."""
    doing, leaving = asyncio.create_task(work), asyncio.create_task(gone(request))
    try:
        await asyncio.wait({doing, leaving}, return_when=asyncio.FIRST_COMPLETED)
        if not doing.done():
            raise ClientDisconnect
        return doing.result()
    finally:
        for task in (doing, leaving):
            task.cancel()


async def gone(request: Request) -> None:
    """Until the caller has left. Its body has been read."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


def respond(service: Service, answers: Sequence[Answer], wanted: Wanted) -> Response:
    card = service.card
    body, length = build_response(
        card.name, answers, wanted.binary, card.fingerprint, wanted.id, to_first_device=wanted.of_first_device
    )
    if length is None:
        return Response(body, media_type="application/json")
    return Response(body, headers={HEADER_LENGTH: str(length)}, media_type="application/octet-stream")


def create_app(
    workers: Sequence[Worker], settings: Settings, keys: Keys | KeyFile, cache: Path | None = None
) -> Starlette:
    """The ASGI app over these backbones; any server or host of such apps can run it."""
    if len({w.card.name for w in workers}) < len(workers):
        raise ValueError("two backbones have the same name")
    serving = Serving(workers, settings, cache)
    app = Starlette(
        routes=routes(serving),
        middleware=[
            Middleware(Lingering, waste=serving.waste),
            Middleware(Metered, metrics=serving.metrics),
            Middleware(Guard, keys=keys),
        ],
        exception_handlers={HTTPException: on_refusal, Exception: on_failure},
        lifespan=serving.lifespan,
    )
    app.router.redirect_slashes = False
    app.state.stage = serving.stage
    return app


def routes(serving: Serving) -> list[Route]:
    """The protocol's, those of Triton's extensions that `describe.EXTENSIONS` lists, and /metrics."""
    of_model = {"": serving.model, "/ready": serving.model_ready, "/config": serving.config, "/stats": serving.stats}
    model, repository = "/v2/models/{name}", "/v2/repository"
    return [
        Route("/v2", serving.server),
        Route("/v2/", serving.server),
        Route("/v2/health/live", serving.live),
        Route("/v2/health/ready", serving.ready),
        Route("/v2/models/stats", serving.stats),
        *(
            Route(of + path, answer)
            for of in (model, f"{model}/versions/{{version}}")
            for path, answer in of_model.items()
        ),
        *(Route(f"{of}/infer", serving.infer, methods=["POST"]) for of in (model, f"{model}/versions/{{version}}")),
        Route(f"{repository}/index", serving.index, methods=["POST"]),
        *(
            Route(f"{repository}/models/{{name}}/{verb}", serving.fixed, methods=["POST"])
            for verb in ("load", "unload")
        ),
        Route("/metrics", serving.report),
    ]
