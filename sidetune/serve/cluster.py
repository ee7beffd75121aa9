"""The same app hosted by Ray Serve: replicas on as many machines as there are in the cluster."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from starlette.applications import Starlette

from sidetune.errors import InUse, MissingExtra
from sidetune.serve.app import create_app
from sidetune.serve.cache import Cache
from sidetune.serve.keys import KeyFile, Keys
from sidetune.serve.settings import Settings
from sidetune.serve.worker import Worker

NAME = "sidetune"
MOST_REPLICAS = 1024


def hosted(
    open_workers: Callable[[], list[Worker]], settings: Settings, keys: Keys | KeyFile, cache: Path | None
) -> Starlette:
    """The app of one replica; its cache is the first folder under `cache` that no other replica on the machine has."""
    return create_app(open_workers(), settings, keys, None if cache is None else free_folder(cache))


def free_folder(cache: Path) -> Path:
    for number in range(MOST_REPLICAS):
        try:
            Cache(cache / str(number), 2**62).close()
        except InUse:
            continue
        return cache / str(number)
    raise ValueError(f"{cache} has {MOST_REPLICAS} folders, and all are in use")


def deploy(
    open_workers: Callable[[], list[Worker]],
    settings: Settings,
    keys: Keys | KeyFile,
    cache: Path | None,
    *,
    replicas: int,
    num_gpus: float,
    http: dict[str, Any],
) -> None:
    """Bring up so many replicas, or bring what runs to this number; returns when they are ready.

    In the cluster that RAY_ADDRESS names, or else on this machine. `http` is Ray's: host, port, ssl_certfile ...
    Limits of rate and size hold for each replica. Raises MissingExtra without Ray.
    """
    try:
        from ray import serve
    except ModuleNotFoundError as e:
        raise MissingExtra("sidetune serve --ray", "ray") from e
    settings = replace(settings, workers=max(1, settings.workers // replicas))

    def build() -> Starlette:
        return hosted(open_workers, settings, keys, cache)

    serve.start(http_options=http)
    deployment = serve.deployment(serve.ingress(build)()).options(
        num_replicas=replicas,
        max_ongoing_requests=settings.queue,
        graceful_shutdown_timeout_s=settings.shutdown_timeout,
        ray_actor_options={"num_gpus": num_gpus},
    )
    serve.run(deployment.bind(), name=NAME, route_prefix="/")


def wait() -> None:
    """Until SIGTERM or SIGINT; then let the replicas answer what they accepted, and stop them."""
    from ray import serve

    stopped = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stopped.set())
    stopped.wait()
    serve.shutdown()
