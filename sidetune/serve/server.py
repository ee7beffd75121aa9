"""The app under uvicorn: one process, graceful when told to stop."""

from __future__ import annotations

from pathlib import Path

import uvicorn
from starlette.applications import Starlette

from sidetune.serve.connection import connections
from sidetune.serve.settings import Settings


def run(app: Starlette, settings: Settings, *, host: str, port: int, cert: Path | None, key: Path | None) -> None:
    """Serve until SIGTERM or SIGINT; then no new requests, and those that were accepted are answered."""
    uvicorn.Server(configure(app, settings, host=host, port=port, cert=cert, key=key)).run()


def configure(
    app: Starlette, settings: Settings, *, host: str, port: int, cert: Path | None = None, key: Path | None = None
) -> uvicorn.Config:
    if (cert is None) != (key is None):
        raise ValueError("TLS needs both --tls-cert and --tls-key")
    return uvicorn.Config(
        app,
        host=host,
        port=port,
        http=connections(settings),
        ws="none",
        lifespan="on",
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=settings.shutdown_timeout,
        ssl_certfile=cert,
        ssl_keyfile=key,
    )
