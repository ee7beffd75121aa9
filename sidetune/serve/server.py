"""The app under uvicorn: one process, graceful when told to stop."""

from __future__ import annotations

import asyncio
import logging
import resource
import signal
import socket
import ssl
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import FrameType

import uvicorn
from starlette.applications import Starlette

from sidetune.serve.connection import Connection, connections
from sidetune.serve.doors import Doors
from sidetune.serve.listener import Listener
from sidetune.serve.settings import Settings
from sidetune.serve.stage import Stage

log = logging.getLogger("uvicorn.error")
BACKLOG = 1024
"""Connections that the system holds until they are taken."""
OTHER_FILES = 256
"""Descriptors that are none of a connection's."""
TICK = 0.05


def bind(host: str, port: int) -> list[socket.socket]:
    """Sockets for an address, not listening yet. Raises ValueError for one that cannot be had."""
    sockets: list[socket.socket] = []
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        for family, kind, protocol, _, address in dict.fromkeys(found):
            sock = socket.socket(family, kind, protocol)
            sockets.append(sock)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            sock.bind(address)
    except OSError as e:
        for sock in sockets:
            sock.close()
        raise not_listening(host, port, e) from None
    return sockets


def not_listening(host: str, port: int, why: OSError) -> ValueError:
    return ValueError(f"port {port} of {host} cannot be listened on: {why.strerror or why}; choose with --host, --port")


def run(
    app: Starlette,
    settings: Settings,
    *,
    host: str,
    port: int,
    cert: Path | None,
    key: Path | None,
    sockets: Sequence[socket.socket] | None = None,
) -> None:
    """Serve until SIGTERM or SIGINT; then no new requests, and those that were accepted are answered.

    `sockets`: what `bind` gave for host and port, where that was done before.
    """
    sockets = bind(host, port) if sockets is None else sockets
    config = configure(app, settings, host=host, port=port, cert=cert, key=key)
    try:
        for sock in sockets:
            sock.listen(BACKLOG)
            sock.setblocking(False)
    except OSError as e:
        raise not_listening(host, port, e) from None
    allow_files(settings.max_connections + OTHER_FILES)
    Server(config, settings, sockets).run()


def configure(
    app: Starlette, settings: Settings, *, host: str, port: int, cert: Path | None = None, key: Path | None = None
) -> uvicorn.Config:
    check_tls(cert, key)
    return uvicorn.Config(
        app,
        host=host,
        port=port,
        http=connections(settings),
        ws="none",
        lifespan="on",
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_graceful_shutdown=settings.shutdown_timeout,
        ssl_certfile=cert,
        ssl_keyfile=key,
    )


def check_tls(cert: Path | None, key: Path | None) -> None:
    """Raises ValueError unless there is neither, or both and they fit."""
    if (cert is None) != (key is None):
        raise ValueError("TLS needs both --tls-cert and --tls-key")
    if cert is None:
        return
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(cert, key)
    except OSError as e:
        why = (
            e.strerror if isinstance(e, FileNotFoundError | PermissionError) else "they are no certificate and its key"
        )
        raise ValueError(f"TLS cannot start with {cert} and {key}: {why}") from None


def allow_files(wanted: int) -> None:
    """Many systems allow a process 1,024 descriptors unless it asks for more."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return
    allowed = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, hard))
    if allowed < wanted:
        log.warning("the system allows %d open files, max_connections wants %d", allowed, wanted)


class Server(uvicorn.Server):
    """uvicorn's, which resets those who knock while it stops; a subclass is how it is told.

    On SIGTERM the service first says that it is not ready and goes on for `drain_timeout` seconds, every answer being
    its connection's last. Then whoever has knocked or still asks is refused, and what was accepted is answered. SIGINT,
    from somebody who waits at a terminal, leaves out the first part.
    """

    def __init__(self, config: uvicorn.Config, settings: Settings, sockets: Sequence[socket.socket]) -> None:
        super().__init__(config)
        self.settings, self.sockets = settings, sockets
        self.stage: Stage = getattr(getattr(config.app, "state", None), "stage", None) or Stage()
        self.doors = Doors(settings.max_connections)
        self.listeners: list[Listener] = []
        self.drains = True

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        self.drains = sig != signal.SIGINT
        super().handle_exit(sig, frame)

    def connection(self, admitted: bool) -> Connection:
        made = Connection(
            settings=self.settings,
            doors=self.doors,
            admitted=admitted,
            config=self.config,
            server_state=self.server_state,
            app_state=self.lifespan.state,
        )
        made.leaving = self.stage.draining or self.stage.stopping
        return made

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await self.lifespan.startup()
        if self.lifespan.should_exit:
            sys.exit(3)
        self.servers = []
        for sock in self.sockets:
            self.listeners.append(Listener(sock, self.connection, self.doors, self.settings, self.config.ssl))
            self.listeners[-1].start()
        scheme, host = "https" if self.config.ssl else "http", self.config.host
        port = self.sockets[0].getsockname()[1]
        log.info(
            "sidetune is running on %s://%s:%d (Ctrl+C stops it)", scheme, f"[{host}]" if ":" in host else host, port
        )
        self.started = True

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        if self.drains:
            self.stage.draining = True
            self.leave()
            log.info("not ready any more; goes on for %g s", self.settings.drain_timeout)
            await self.wait(self.settings.drain_timeout, lambda: False)
        self.stage.stopping = True
        self.leave()
        await asyncio.gather(*(listener.close() for listener in self.listeners))
        state = self.server_state
        log.info("stopping: %d connections are left", len(state.connections))
        if not await self.wait(self.settings.shutdown_timeout, self.finished):
            log.error("%d requests are left unanswered", len(state.tasks))
            for task in list(state.tasks):
                task.cancel()
        if not self.force_exit:
            await self.lifespan.shutdown()

    def leave(self) -> None:
        for connection in list(self.server_state.connections):
            if isinstance(connection, Connection):
                connection.leave()

    def finished(self) -> bool:
        for connection in list(self.server_state.connections):
            if isinstance(connection, Connection):
                connection.retire()
        return not self.server_state.connections and not self.server_state.tasks

    async def wait(self, seconds: float, done: Callable[[], bool]) -> bool:
        """Until it is done, if that is in time and nobody is in a hurry."""
        until = time.monotonic() + seconds
        while not done():
            if self.force_exit or time.monotonic() >= until:
                return False
            await asyncio.sleep(TICK)
        return True
