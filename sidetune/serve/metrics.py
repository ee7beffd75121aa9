"""What the service counts, in Prometheus' form."""

from __future__ import annotations

import time

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from starlette.types import ASGIApp, Message, Receive, Scope, Send

SECONDS = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0)
BATCHES = (1, 2, 4, 8, 16, 32, 64, 128, 256)


class Metrics:
    """Of one service; a registry of its own, so that several live in one process."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        r = self.registry
        self.requests = Counter("sidetune_requests", "Requests answered.", ["model", "code"], registry=r)
        self.caller_requests = Counter(
            "sidetune_caller_requests", "Requests answered, by caller.", ["caller", "code"], registry=r
        )
        self.caller_images = Counter(
            "sidetune_caller_images", "Images accepted for an answer, by caller.", ["model", "caller"], registry=r
        )
        self.latency = Histogram(
            "sidetune_infer_seconds", "From a request's headers to the end of its answer.", ["model"],
            buckets=SECONDS, registry=r,
        )  # fmt: skip
        self.bytes_in = Counter("sidetune_received_bytes", "Of requests' bodies.", registry=r)
        self.bytes_out = Counter("sidetune_sent_bytes", "Of answers' bodies.", registry=r)
        self.batches = Histogram(
            "sidetune_batch_images", "Images in a pass of a backbone.", ["model"], buckets=BATCHES, registry=r
        )
        self.compute = Counter("sidetune_backbone_seconds", "Time backbones computed.", ["model"], registry=r)
        self.queue = Gauge("sidetune_queue_images", "Images accepted and not yet answered.", ["model"], registry=r)
        self.cache = Counter(
            "sidetune_features", "Features asked for: found on disk, computed for another request, or computed.",
            ["model", "found"], registry=r,
        )  # fmt: skip
        self.cache_errors = Counter("sidetune_cache_errors", "Features the cache's disk did not take.", registry=r)
        self.cache_bytes = Gauge("sidetune_cache_bytes", "Features on disk.", registry=r)

    def text(self) -> bytes:
        return generate_latest(self.registry)


class Metered:
    """Counts every request. The app puts the model's name, once it is known to exist, into the request's state."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self.app, self.metrics = app, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        start, code = time.monotonic(), 0
        state = scope.setdefault("state", {})

        async def received() -> Message:
            message = await receive()
            self.metrics.bytes_in.inc(len(message.get("body", b"")))
            return message

        async def sent(message: Message) -> None:
            nonlocal code
            code = message.get("status", code)
            self.metrics.bytes_out.inc(len(message.get("body", b"")))
            await send(message)

        try:
            await self.app(scope, received, sent)
        finally:
            model = state.get("model", "")
            self.metrics.requests.labels(model, str(code)).inc()
            if (caller := state.get("caller")) is not None:
                self.metrics.caller_requests.labels(caller.label, str(code)).inc()
            if scope["path"].endswith("/infer"):
                self.metrics.latency.labels(model).observe(time.monotonic() - start)
